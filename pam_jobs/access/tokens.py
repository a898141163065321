"""API tokens: scoped, expiring, kept as a hash alone."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Final

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.access.roles import Scope
from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import ApiToken, User
from pam_jobs.errors import NotFound
from pam_jobs.ids import new_uid
from pam_jobs.vault.models import StrictModel

__all__ = ["PREFIX", "NewToken", "create", "find", "list_for_user", "revoke"]

PREFIX: Final = "pamt_"
_USE_RESOLUTION = timedelta(minutes=1)


class NewToken(StrictModel):
    """A token to create."""

    name: str = Field(min_length=1, max_length=128)
    scopes: list[Scope] = Field(min_length=1, max_length=len(Scope))
    expires_in_seconds: int = Field(ge=60, le=366 * 86_400)


def create(session: Session, clock: Clock, actor: Actor, user_uid: str, new: NewToken) -> tuple[ApiToken, str]:
    """Add a token of the user's and return it with its text, which is told this once."""
    text = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(
        uid=new_uid(),
        user_uid=user_uid,
        name=new.name,
        token_hash=_hash(text),
        scopes=sorted({scope.value for scope in new.scopes}),
        created_at=clock.now(),
        expires_at=clock.now() + timedelta(seconds=new.expires_in_seconds),
    )
    session.add(token)
    session.flush()
    record_event(session, clock, actor, "api_token_created", token_uid=token.uid, scopes=" ".join(token.scopes))
    return token, text


def list_for_user(session: Session, user_uid: str) -> list[ApiToken]:
    """Return the user's tokens that were not revoked, newest first."""
    rows = session.scalars(
        select(ApiToken)
        .where(ApiToken.user_uid == user_uid, ApiToken.revoked_at.is_(None))
        .order_by(ApiToken.created_at.desc())
    )
    return list(rows)


def revoke(session: Session, clock: Clock, actor: Actor, user_uid: str, token_uid: str) -> None:
    """End a token of the user's.

    Raises:
        NotFound: there is no such token of the user's.
    """
    token = session.get(ApiToken, token_uid)
    if token is None or token.user_uid != user_uid or token.revoked_at is not None:
        raise NotFound("there is no such token of yours", remedy="take the UID from `pam token list`")
    token.revoked_at = clock.now()
    record_event(session, clock, actor, "api_token_removed", token_uid=token_uid)


def find(session: Session, clock: Clock, text: str) -> tuple[ApiToken, User] | None:
    """Return the valid token with that text and its user, and note the use to the minute."""
    row = session.execute(
        select(ApiToken, User)
        .join(User, User.uid == ApiToken.user_uid)
        .where(
            ApiToken.token_hash == _hash(text),
            ApiToken.revoked_at.is_(None),
            ApiToken.expires_at > clock.now(),
            User.disabled_at.is_(None),
        )
    ).one_or_none()
    if row is None:
        return None
    token, user = row
    if token.last_used_at is None or clock.now() - token.last_used_at > _USE_RESOLUTION:
        token.last_used_at = clock.now()
    return token, user


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()

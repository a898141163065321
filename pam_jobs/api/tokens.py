"""API tokens of the signed-in user."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, status
from pydantic import BaseModel

from pam_jobs.access import tokens
from pam_jobs.access.tokens import NewToken
from pam_jobs.api.auth import CurrentUser, Principal
from pam_jobs.api.context import Context
from pam_jobs.errors import AccessDenied

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/tokens", tags=["tokens"])


class CreatedToken(BaseModel):
    """A new token; its text is told this once."""

    uid: str
    token: str


class TokenView(BaseModel):
    """A token as it is listed."""

    uid: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None


class TokenList(BaseModel):
    """The user's tokens."""

    tokens: list[TokenView]


def _signed_in(principal: Principal) -> None:
    if principal.scopes is not None:
        raise AccessDenied("an API token cannot manage API tokens", remedy="sign in with `pam login`")


@router.post("", status_code=status.HTTP_201_CREATED)
def create(body: NewToken, principal: CurrentUser, context: Context) -> CreatedToken:
    """Make a token for the signed-in user."""
    _signed_in(principal)
    with context.database.transaction() as session:
        token, text = tokens.create(session, context.clock, principal.actor(), principal.user_uid, body)
    return CreatedToken(uid=token.uid, token=text)


@router.get("")
def list_tokens(principal: CurrentUser, context: Context) -> TokenList:
    """Return the user's tokens, never their texts."""
    _signed_in(principal)
    with context.database.transaction(read_only=True) as session:
        rows = tokens.list_for_user(session, principal.user_uid)
    return TokenList(tokens=[TokenView.model_validate(row, from_attributes=True) for row in rows])


@router.delete("/{uid}", status_code=status.HTTP_204_NO_CONTENT)
def revoke(uid: str, principal: CurrentUser, context: Context) -> None:
    """End a token."""
    _signed_in(principal)
    with context.database.transaction() as session:
        tokens.revoke(session, context.clock, principal.actor(), principal.user_uid, uid)

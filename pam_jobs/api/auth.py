"""Who asks, and whether they may: the one check that every operator's route depends on.

A route takes ``principal: Annotated[Principal, Depends(require("rotate"))]``; one that any signed-in user may call takes
``principal: CurrentUser``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from pam_jobs.access import sign_in_token, tokens, users
from pam_jobs.access.roles import Permission, permissions
from pam_jobs.api.context import AppContext, Context, remote_address
from pam_jobs.api.problems import Unauthenticated
from pam_jobs.audit.log import Actor
from pam_jobs.db.tables import User
from pam_jobs.errors import AccessDenied

__all__ = ["CurrentUser", "Principal", "Unauthenticated", "anonymous", "require"]

_VERSION_CHARACTERS = 64
_SIGN_IN = "sign in with `pam login`, or send an API token"


@dataclass(frozen=True, kw_only=True)
class Principal:
    """A user, as one request proved."""

    user_uid: str
    username: str
    role: str
    scopes: frozenset[str] | None  # of an API token; None for a signed-in user
    remote_address: str | None
    client_version: str | None

    @property
    def permissions(self) -> frozenset[Permission]:
        """What the request may do."""
        return permissions(self.role, self.scopes)

    def actor(self) -> Actor:
        """Return who the audit log names."""
        return Actor(username=self.username, remote_address=self.remote_address, client_version=self.client_version)


def anonymous(request: Request, username: str) -> Actor:
    """Return whom the audit log names for a request that proved nothing: who they say they are."""
    return Actor(username=username, remote_address=remote_address(request), client_version=_client_version(request))


def _client_version(request: Request) -> str | None:
    agent = request.headers.get("user-agent")
    return agent[:_VERSION_CHARACTERS] if agent else None


def _current_user(request: Request, context: Context) -> Principal:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise Unauthenticated("the request carries no bearer token", remedy=_SIGN_IN)
    user, scopes = _by_api_token(context, text) if text.startswith(tokens.PREFIX) else (_by_key(context, text), None)
    return Principal(
        user_uid=user.uid,
        username=user.username,
        role=user.role,
        scopes=scopes,
        remote_address=remote_address(request),
        client_version=_client_version(request),
    )


def _by_key(context: AppContext, text: str) -> User:
    try:
        name = sign_in_token.subject(text)
        with context.database.transaction(read_only=True) as session:
            user = users.by_name(session, name)
        if user is None:
            raise Unauthenticated("the bearer token is of no user here", remedy=_SIGN_IN)
        sign_in_token.check(text, user.public_key, context.clock.now())
    except AccessDenied as error:
        raise Unauthenticated(error.message, remedy=error.remedy) from error
    return user


def _by_api_token(context: AppContext, text: str) -> tuple[User, frozenset[str]]:
    with context.database.transaction() as session:
        found = tokens.find(session, context.clock, text)
    if found is None:
        raise Unauthenticated("the API token is unknown, revoked or expired", remedy="make one with `pam token new`")
    token, user = found
    return user, frozenset(str(scope) for scope in token.scopes)


CurrentUser = Annotated[Principal, Depends(_current_user)]
"""Any signed-in user."""


def require(permission: str) -> Callable[[Principal], Principal]:
    """Return the dependency that gives the user who may do this.

    Args:
        permission: a value of ``Permission``; an unknown one fails when the route is declared.
    """
    wanted = Permission(permission)

    def permitted(principal: CurrentUser) -> Principal:
        if wanted not in principal.permissions:
            what = "this API token" if principal.scopes is not None else f"the role {principal.role}"
            raise AccessDenied(f"{what} may not do this ({wanted.value})", remedy="ask an admin for it")
        return principal

    return permitted

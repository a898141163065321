"""Sign-in and users."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from pam_jobs.access import users
from pam_jobs.access.users import NewPassphrase, NewUser
from pam_jobs.api.auth import CurrentUser, Principal, anonymous, require
from pam_jobs.api.context import AppContext, Context
from pam_jobs.api.problems import Unauthenticated, problem
from pam_jobs.crypto.blob import Blob
from pam_jobs.crypto.passphrase import ITERATIONS
from pam_jobs.vault.models import StrictModel
from pam_jobs.vault.throttle import RequestWindow

__all__ = ["install", "router"]

router = APIRouter(prefix="/api/v1", tags=["users"])

_Admin = Annotated[Principal, Depends(require("users"))]
_Name = Annotated[str, Field(min_length=1, max_length=254)]
_Proof = Annotated[Blob, Field(min_length=32, max_length=32)]
_SALT_BYTES = 16
_ATTEMPTS, _ATTEMPTS_SECONDS = 100, 10.0


class Username(StrictModel):
    """Who is about to sign in."""

    username: _Name


class SignInParameters(BaseModel):
    """What the client derives its proof with."""

    salt: Blob
    iterations: int


class SignIn(StrictModel):
    """The half of the stretched passphrase that is sent."""

    username: _Name
    proof: _Proof


class SignedIn(BaseModel):
    """The user, with the private key that only the passphrase unwraps."""

    uid: str
    username: str
    role: str
    public_key: Blob
    wrapped_private_key: Blob


class PassphraseChange(NewPassphrase):
    """A new passphrase, with the proof of the present one."""

    proof: _Proof


class Me(BaseModel):
    """The user whom a request is from."""

    uid: str
    username: str
    role: str
    permissions: list[str]


class UserView(BaseModel):
    """A user as others see one."""

    uid: str
    username: str
    role: str
    public_key: Blob
    created_at: datetime
    disabled_at: datetime | None


class UserList(BaseModel):
    """Every user."""

    users: list[UserView]


def install(app: FastAPI, context: AppContext) -> None:
    """Give the application its counter of sign-ins."""
    app.state.sign_ins = RequestWindow(_ATTEMPTS, _ATTEMPTS_SECONDS, context.clock.monotonic)


def _attempts(request: Request) -> RequestWindow:
    window: RequestWindow = request.app.state.sign_ins
    return window


@router.post("/sign-in/parameters")
def sign_in_parameters(body: Username, context: Context) -> SignInParameters:
    """Return salt and iterations of the user; an unknown name gets stable ones, so that names cannot be guessed."""
    with context.database.transaction(read_only=True) as session:
        user = users.by_name(session, body.username)
    if user is None:
        fake = context.keys.derive("sign-in salt", body.username)[:_SALT_BYTES]
        return SignInParameters(salt=fake, iterations=ITERATIONS)
    return SignInParameters(salt=user.kdf_salt, iterations=user.kdf_iterations)


@router.post("/sign-in", response_model=SignedIn)
def sign_in(body: SignIn, request: Request, context: Context) -> SignedIn | JSONResponse:
    """Return the wrapped private key to whoever proves to know the passphrase."""
    actor = anonymous(request, body.username)
    admission = _attempts(request).admit(actor.remote_address or "")
    if admission.retry_after_seconds is not None:  # each attempt is written down: nobody may fill the log with them
        answer = problem(429, "throttled", "too many sign-ins from this address", "wait some seconds and try again")
        answer.headers["Retry-After"] = str(math.ceil(admission.retry_after_seconds))
        return answer
    with context.database.transaction() as session:
        user = users.sign_in(session, context.clock, actor, body.username, body.proof)
    if user is None:
        raise Unauthenticated(
            "user name or passphrase is wrong, or the account is locked for some minutes",
            remedy=f"type both again; after {users.LOCK_AFTER} failures wait a quarter of an hour",
        )
    return SignedIn(
        uid=user.uid,
        username=user.username,
        role=user.role,
        public_key=user.public_key,
        wrapped_private_key=user.wrapped_private_key,
    )


@router.get("/me")
def me(principal: CurrentUser) -> Me:
    """Return who the request is from and what it may do."""
    return Me(
        uid=principal.user_uid,
        username=principal.username,
        role=principal.role,
        permissions=sorted(permission.value for permission in principal.permissions),
    )


@router.put("/me/passphrase", status_code=status.HTTP_204_NO_CONTENT)
def change_passphrase(body: PassphraseChange, principal: CurrentUser, context: Context) -> None:
    """Replace the passphrase; the key pair stays, so nothing is encrypted anew."""
    if principal.scopes is not None:
        raise Unauthenticated("an API token cannot change the passphrase", remedy="sign in with `pam login`")
    new = NewPassphrase.model_validate(body.model_dump(exclude={"proof"}))
    with context.database.transaction() as session:
        users.change_passphrase(session, context.clock, principal.actor(), principal.user_uid, body.proof, new)


@router.post("/users", status_code=status.HTTP_201_CREATED)
def register(body: NewUser, principal: _Admin, context: Context) -> dict[str, str]:
    """Add a user whose keys were made on the user's or the admin's machine."""
    with context.database.transaction() as session:
        user = users.register(session, context.clock, principal.actor(), body)
    return {"uid": user.uid}


@router.get("/users")
def everyone(principal: _Admin, context: Context) -> UserList:  # noqa: ARG001 - the dependency is the check
    """Return every user."""
    with context.database.transaction(read_only=True) as session:
        rows = users.everyone(session)
    return UserList(users=[UserView.model_validate(row, from_attributes=True) for row in rows])

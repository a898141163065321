"""The short-lived tokens that a signed-in user's client makes with the user's own key."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import jwt

from pam_jobs.crypto import p256
from pam_jobs.errors import AccessDenied

__all__ = ["AUDIENCE", "LIFETIME_SECONDS", "check", "issue", "subject"]

AUDIENCE: Final = "pam-jobs"
LIFETIME_SECONDS: Final = 300
_LEEWAY_SECONDS = 60
_ALGORITHM = "ES256"
_SIGN_IN_AGAIN = "sign in again, and compare the clocks of both machines"


def issue(private_key: p256.PrivateKey, username: str, now: datetime, *, seconds: int = 240) -> str:
    """Return a token; done by clients, the router never has the key."""
    at = int(now.timestamp())
    claims = {"sub": username, "aud": AUDIENCE, "iat": at, "exp": at + seconds}
    return jwt.encode(claims, private_key, algorithm=_ALGORITHM)


def subject(token: str) -> str:
    """Return whom the token claims to be from; nothing is checked yet, it only says whose key to check with.

    Raises:
        AccessDenied: it is no token of this form.
    """
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise AccessDenied("the bearer token cannot be read", remedy=_SIGN_IN_AGAIN) from error
    name = claims.get("sub")
    if not isinstance(name, str):
        raise AccessDenied("the bearer token names nobody", remedy=_SIGN_IN_AGAIN)
    return name


def check(token: str, public_key: bytes, now: datetime) -> None:
    """Return when the token is this key's, meant for us, and valid now.

    The algorithm is fixed here and never taken from the token. Time is checked against the given instant, with a
    minute of leeway for clocks that differ.

    Raises:
        AccessDenied: it is not.
    """
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            p256.load_public(public_key),
            algorithms=[_ALGORITHM],
            audience=AUDIENCE,
            options={"require": ["sub", "aud", "iat", "exp"], "verify_exp": False, "verify_iat": False},
        )
        issued, expires = int(claims["iat"]), int(claims["exp"])
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise AccessDenied("the bearer token is not signed by this user", remedy=_SIGN_IN_AGAIN) from error
    at = now.timestamp()
    if expires - issued > LIFETIME_SECONDS:
        raise AccessDenied(f"the bearer token lives longer than {LIFETIME_SECONDS} s", remedy="make a shorter one")
    if at > expires + _LEEWAY_SECONDS or at < issued - _LEEWAY_SECONDS:
        raise AccessDenied("the bearer token is not valid at this time", remedy=_SIGN_IN_AGAIN)

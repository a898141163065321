"""Sign-in: the passphrase stays here, the private key is unwrapped here, requests carry short-lived signed tokens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx
import jwt

from pam_jobs.client.http import RouterClient
from pam_jobs.client.profile import Profile, write_json
from pam_jobs.crypto import aes, p256
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.crypto.passphrase import derive
from pam_jobs.errors import AccessDenied, ConfigurationError, VaultError
from pam_jobs.secret import SecretValue

__all__ = ["AUDIENCE", "Session", "TokenSource", "connect", "sign_in"]

AUDIENCE = "pam-jobs"
_TOKEN_SECONDS = 240  # the router takes at most 300
_LEEWAY_SECONDS = 15  # for a router whose clock is behind ours


@dataclass(frozen=True, kw_only=True)
class Session:
    """A signed-in user."""

    username: str
    private_key: p256.PrivateKey = field(repr=False)

    @property
    def public_key(self) -> bytes:
        """The user's public key, a 65-byte point."""
        return p256.public_point(self.private_key)

    def save(self, profile: Profile) -> None:
        """Keep the session for later commands, readable by its owner alone."""
        der = p256.private_der(self.private_key)
        write_json(profile.session_file, {"username": self.username, "private_key": to_base64(der)})

    @classmethod
    def load(cls, profile: Profile) -> Session:
        """Return the stored session.

        Raises:
            AccessDenied: nobody is signed in, or somebody else is.
            ConfigurationError: the file is damaged.
        """
        try:
            content = json.loads(profile.session_file.read_text())
            session = cls(
                username=content["username"], private_key=p256.load_private(from_base64(content["private_key"]))
            )
        except FileNotFoundError:
            raise AccessDenied("nobody is signed in here", remedy="sign in with `pam login`") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, VaultError):
            raise ConfigurationError(
                f"the session file {profile.session_file} is damaged", remedy="sign in again with `pam login`"
            ) from None
        if profile.username and session.username != profile.username:
            raise AccessDenied(
                f"{session.username} is signed in here, not {profile.username}", remedy="sign in with `pam login`"
            )
        return session


class TokenSource:
    """Makes bearer tokens and uses each one until shortly before its end."""

    def __init__(self, session: Session, now: Callable[[], float] = time.time) -> None:
        self._session = session
        self._now = now
        self._token = ""
        self._until = 0.0

    def __call__(self) -> str:
        """Return a token that is valid for some time yet."""
        now = self._now()
        if now >= self._until:
            claims = {
                "sub": self._session.username,
                "aud": AUDIENCE,
                "iat": int(now) - _LEEWAY_SECONDS,
                "exp": int(now) + _TOKEN_SECONDS,
            }
            self._token = jwt.encode(claims, self._session.private_key, algorithm="ES256")
            self._until = now + _TOKEN_SECONDS / 2
        return self._token


def sign_in(client: RouterClient, username: str, passphrase: SecretValue) -> Session:
    """Return the session of a user who knows the passphrase, which never leaves this process.

    Raises:
        AccessDenied: the name or the passphrase is wrong, or too many were.
        VaultUnavailable: the router cannot be reached.
    """
    parameters = client.post("/api/v1/sign-in/parameters", {"username": username})
    keys = derive(passphrase, from_base64(parameters["salt"]), int(parameters["iterations"]))
    answer = client.post("/api/v1/sign-in", {"username": username, "proof": to_base64(keys.proof)})
    der = aes.decrypt(from_base64(answer["wrapped_private_key"]), keys.wrapping)
    return Session(username=username, private_key=p256.load_private(der))


def connect(
    profile: Profile | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    transport: httpx.BaseTransport | None = None,
) -> tuple[RouterClient, Session]:
    """Return a signed-in connection: by ``PAM_PASSPHRASE`` when it is set, else by the stored session.

    Raises:
        AccessDenied: nobody is signed in, or the passphrase is wrong.
        ConfigurationError: no router is known.
        VaultUnavailable: a sign-in was needed and the router cannot be reached.
    """
    env = os.environ if environment is None else environment
    known = profile or Profile.load(env)
    router = known.require_router()
    if env.get("PAM_PASSPHRASE"):
        if not known.username:
            raise ConfigurationError("PAM_PASSPHRASE is set but no user is named", remedy="set PAM_USERNAME too")
        with RouterClient(router, ca=known.ca, transport=transport) as anonymous:
            session = sign_in(anonymous, known.username, SecretValue(env["PAM_PASSPHRASE"]))
    else:
        session = Session.load(known)
    return RouterClient(router, ca=known.ca, token=TokenSource(session), transport=transport), session

"""Users: registered by an admin, signed in by a proof, never known by their passphrase."""

from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta
from typing import Annotated, Final

from pydantic import Field
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from pam_jobs.access.roles import Role
from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.crypto import aes, p256, passphrase
from pam_jobs.crypto.blob import Blob
from pam_jobs.db.tables import User
from pam_jobs.errors import AccessDenied, AlreadyExists, InvalidInput, VaultError
from pam_jobs.ids import new_uid
from pam_jobs.secret import SecretValue
from pam_jobs.vault.models import StrictModel, Uid

__all__ = [
    "LOCK_AFTER",
    "NewPassphrase",
    "NewUser",
    "by_name",
    "change_passphrase",
    "everyone",
    "make_passphrase",
    "make_user",
    "register",
    "sign_in",
]

LOCK_AFTER = 10
"""Wrong proofs in a row after which an account is locked for a time."""
_LOCK = timedelta(minutes=15)

USERNAME = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,253}$"

_Digest = Annotated[Blob, Field(min_length=32, max_length=32)]
_Salt = Annotated[Blob, Field(min_length=16, max_length=64)]
_Iterations = Annotated[int, Field(ge=passphrase.MINIMUM_ITERATIONS, le=10_000_000)]
_WrappedKey = Annotated[Blob, Field(min_length=60, max_length=512)]


class NewPassphrase(StrictModel):
    """What the router keeps of a passphrase, and the private key wrapped under it."""

    salt: _Salt
    iterations: _Iterations
    proof_hash: _Digest  # SHA-256 of the half that is sent at sign-in
    wrapped_private_key: _WrappedKey  # PKCS#8 DER, AES-256-GCM by the other half


class NewUser(NewPassphrase):
    """A user to register."""

    uid: Uid
    username: str = Field(pattern=USERNAME)
    role: Role
    public_key: Annotated[Blob, Field(min_length=65, max_length=65)]


def make_passphrase(private_key: p256.PrivateKey, words: SecretValue) -> NewPassphrase:
    """Return what the router keeps when this passphrase shall guard the key; done on the user's own machine."""
    salt = passphrase.new_salt()
    keys = passphrase.derive(words, salt)
    return NewPassphrase(
        salt=salt,
        iterations=passphrase.ITERATIONS,
        proof_hash=hashlib.sha256(keys.proof).digest(),
        wrapped_private_key=aes.encrypt(p256.private_der(private_key), keys.wrapping),
    )


def make_user(username: str, words: SecretValue, role: str) -> tuple[NewUser, p256.PrivateKey]:
    """Return a new user and the user's private key; done on the user's own machine."""
    private_key = p256.generate()
    guarded = make_passphrase(private_key, words)
    user = NewUser(
        uid=new_uid(),
        username=username,
        role=Role(role),
        public_key=p256.public_point(private_key),
        **guarded.model_dump(),
    )
    return user, private_key


def register(session: Session, clock: Clock, actor: Actor, new: NewUser) -> User:
    """Add a user.

    Raises:
        AlreadyExists: the name or the UID is taken.
        InvalidInput: the public key is no point on the curve.
    """
    try:
        p256.load_public(new.public_key)
    except VaultError as error:
        raise InvalidInput(error.message, remedy="make the user with `pam user add`") from error
    if session.scalar(select(User.uid).where((User.username == new.username) | (User.uid == new.uid))) is not None:
        raise AlreadyExists(f"the user {new.username} exists already", remedy="choose another name")
    user = User(
        uid=new.uid,
        username=new.username,
        public_key=new.public_key,
        kdf_salt=new.salt,
        kdf_iterations=new.iterations,
        proof_hash=new.proof_hash,
        wrapped_private_key=new.wrapped_private_key,
        role=new.role.value,
        created_at=clock.now(),
        failed_sign_ins=0,
    )
    session.add(user)
    session.flush()
    record_event(session, clock, actor, "create_user", to_username=new.username, role=new.role.value)
    return user


def everyone(session: Session) -> list[User]:
    """Return every user, by name."""
    return list(session.scalars(select(User).order_by(User.username)))


_BY_NAME: Final = select(User).where(User.username == bindparam("name"), User.disabled_at.is_(None))


def by_name(session: Session, username: str) -> User | None:
    """Return the user of that name who is not disabled."""
    return session.scalar(_BY_NAME, {"name": username})


def sign_in(session: Session, clock: Clock, actor: Actor, username: str, proof: bytes) -> User | None:
    """Return the user when the proof is right, else None; either way the outcome is counted and in the audit log.

    The caller commits before it answers, so that a refused attempt counts.
    """
    user = session.scalar(select(User).where(User.username == username, User.disabled_at.is_(None)).with_for_update())
    is_right = hmac.compare_digest(hashlib.sha256(proof).digest(), user.proof_hash if user else bytes(32))
    if user is None:
        record_event(session, clock, actor, "login_failure", result_code="unknown_user")
        return None
    if user.locked_until is not None and clock.now() < user.locked_until:
        record_event(session, clock, actor, "login_failure", result_code="locked")
        return None
    if not is_right:
        _count_failure(session, clock, actor, user)
        return None
    user.failed_sign_ins = 0
    user.locked_until = None
    record_event(session, clock, actor, "login")
    return user


def _count_failure(session: Session, clock: Clock, actor: Actor, user: User) -> None:
    user.failed_sign_ins += 1
    record_event(session, clock, actor, "login_failure", result_code="wrong_proof")
    if user.failed_sign_ins >= LOCK_AFTER:
        user.locked_until = clock.now() + _LOCK
        user.failed_sign_ins = 0
        record_event(session, clock, actor, "account_locked")


def change_passphrase(
    session: Session, clock: Clock, actor: Actor, user_uid: str, proof: bytes, new: NewPassphrase
) -> None:
    """Replace what the router keeps of the user's passphrase.

    Raises:
        AccessDenied: the proof of the old passphrase is wrong.
    """
    user = session.get(User, user_uid, with_for_update=True)
    if user is None or not hmac.compare_digest(hashlib.sha256(proof).digest(), user.proof_hash):
        raise AccessDenied("the present passphrase is wrong", remedy="type it again; nothing was changed")
    user.kdf_salt = new.salt
    user.kdf_iterations = new.iterations
    user.proof_hash = new.proof_hash
    user.wrapped_private_key = new.wrapped_private_key
    record_event(session, clock, actor, "change_master_password")

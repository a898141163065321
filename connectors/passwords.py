"""The password that a candidate sets, and what none can be whichever target it is for."""

from __future__ import annotations

from connectors.base import Candidate
from pam_jobs.errors import PolicyRefused, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["password_of", "plain_password_of"]

_REMEDY = "change the record's complexity"


def password_of(candidate: Candidate) -> SecretValue:
    """Return what to set, as it is.

    Raises:
        Unsupported: the candidate has no password.
    """
    if candidate.password is None:
        raise Unsupported("an account here has a password, no key", remedy="give the user record a password")
    return candidate.password


def plain_password_of(candidate: Candidate, *, most_bytes: int | None = None) -> SecretValue:
    """Return what to set, which is not empty, has no NUL, and can be written in UTF-8.

    Args:
        candidate: of the rotation.
        most_bytes: how long it may be in UTF-8; None: as long as it likes.

    Raises:
        Unsupported: the candidate has no password.
        PolicyRefused: its password cannot be one here.
    """
    password = password_of(candidate)
    text = password.reveal()
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise PolicyRefused("a password here is made of whole characters", remedy=_REMEDY) from None
    if not text or "\0" in text:
        raise PolicyRefused("a password here is not empty and has no NUL", remedy=_REMEDY)
    if most_bytes is not None and size > most_bytes:
        raise PolicyRefused(f"a password here has at most {most_bytes} bytes", remedy=_REMEDY)
    return password

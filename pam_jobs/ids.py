"""Identifiers: Keeper-style UIDs and job ids."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets

from pam_jobs.errors import InvalidInput

__all__ = ["b64url", "check_uid", "deterministic_uid", "is_uid", "new_uid", "unb64url"]

_UID = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_-]{20}[AQgw]$")


def b64url(raw: bytes) -> str:
    """Return unpadded base64url text."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64url(text: str) -> bytes:
    """Return the bytes of base64 text in either alphabet, padded or not.

    Raises:
        ValueError: the text is not base64.
    """
    clean = text.strip().replace("+", "-").replace("/", "_").rstrip("=")
    raw = base64.urlsafe_b64decode(clean + "=" * (-len(clean) % 4))
    if not re.fullmatch(r"[A-Za-z0-9_-]*", clean):
        raise ValueError("not base64")
    return raw


def new_uid() -> str:
    """Return a new UID: 16 random bytes as 22 base64url characters that never begin with ``-``.

    A leading dash would read as an option on a command line (Commander issue 2028).
    """
    while True:
        uid = b64url(secrets.token_bytes(16))
        if not uid.startswith("-"):
            return uid


def deterministic_uid(*parts: str) -> str:
    """Return the same UID for the same parts, always; distinct parts give distinct UIDs.

    Used where a second attempt must find the first one's row (schedule and due time, for instance).
    """
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    if digest[0] >> 2 == 62:  # the first character would be '-'
        digest = bytes([digest[0] & 0x03]) + digest[1:]
    return b64url(digest[:16])


def is_uid(text: str) -> bool:
    """Say whether the text has the form of a UID."""
    return bool(_UID.match(text))


def check_uid(text: str, what: str = "UID") -> str:
    """Return the text when it has the form of a UID.

    Raises:
        InvalidInput: it has not.
    """
    if not is_uid(text):
        raise InvalidInput(f"{text!r} is not a {what}", remedy="give the 22-character UID that the list commands print")
    return text

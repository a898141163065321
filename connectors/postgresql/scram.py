"""PostgreSQL password verifiers, computed here so that no secret travels to the server or its log.

Source: RFC 5802 and 7677 (SCRAM-SHA-256), RFC 4013 (SASLprep), and PostgreSQL's own reading of them: a password that
SASLprep would refuse is used as its plain UTF-8 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from pam_jobs.errors import Unsupported

__all__ = [
    "DEFAULT_ITERATIONS",
    "ScramKeys",
    "is_verifier_of",
    "iterations_of",
    "md5_verifier",
    "saslprep",
    "scram_verifier",
]

DEFAULT_ITERATIONS = 4096  # RFC 7677 asks for at least this many
_MOST_ITERATIONS = 1_000_000  # each login costs the server's client so many: 0.3 s and more beyond
_SALT_BYTES = 16

_SCRAM = re.compile(r"SCRAM-SHA-256\$(?P<iterations>\d{1,9}):(?P<salt>[A-Za-z0-9+/=]+)\$.*")

_PROHIBITED = (
    stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
    stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8,
    stringprep.in_table_c9, stringprep.in_table_a1,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ScramKeys:
    """What logs in without hashing the password again; as secret as the password itself."""

    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def client_key_text(self) -> str:
        """Return the client's key as libpq takes it."""
        return base64.b64encode(self.client_key).decode()

    def server_key_text(self) -> str:
        """Return the server's key as libpq takes it."""
        return base64.b64encode(self.server_key).decode()


def saslprep(password: str) -> bytes:
    """Return the bytes that client and server hash for the password."""
    if password.isascii():
        return password.encode()
    # A zero width space stands in both tables of the RFC; PostgreSQL makes it a space.
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in password
        if stringprep.in_table_c12(char) or not stringprep.in_table_b1(char)
    )
    # PostgreSQL looks for what is prohibited before it normalises, not after, as the RFC would have it.
    if not mapped or any(test(char) for char in mapped for test in _PROHIBITED) or not _direction_is_pure(mapped):
        return password.encode()
    return unicodedata.normalize("NFKC", mapped).encode()


def _direction_is_pure(text: str) -> bool:
    """Say whether the text keeps RFC 3454's rule on right-to-left characters."""
    if not any(stringprep.in_table_d1(char) for char in text):
        return True
    if any(stringprep.in_table_d2(char) for char in text):
        return False
    return stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])


def iterations_of(options: Mapping[str, str]) -> int | None:
    """Return how often the record wants a password hashed; None: as the server does (``scram_iterations``).

    Args:
        options: of the target.

    Raises:
        Unsupported: it is no number that a server and its clients can live with.
    """
    text = options.get("scram_iterations", "").strip()
    if not text:
        return None
    if not text.isdecimal() or not DEFAULT_ITERATIONS <= int(text) <= _MOST_ITERATIONS:
        raise Unsupported(
            f"the field 'SCRAM Iterations' is not a number from {DEFAULT_ITERATIONS} to {_MOST_ITERATIONS}",
            remedy="correct it, or leave it out",
        )
    return int(text)


def scram_verifier(
    password: str, *, iterations: int = DEFAULT_ITERATIONS, salt: bytes | None = None
) -> tuple[str, ScramKeys]:
    """Return the text that ``ALTER ROLE … PASSWORD`` stores, and the keys that log in with it.

    Args:
        password: not empty.
        iterations: rounds of hashing, 4096 or more.
        salt: 16 random bytes when absent.
    """
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password), salt, iterations)
    keys = ScramKeys(
        client_key=hmac.digest(salted, b"Client Key", "sha256"),
        server_key=hmac.digest(salted, b"Server Key", "sha256"),
    )
    stored = base64.b64encode(hashlib.sha256(keys.client_key).digest()).decode()
    return f"SCRAM-SHA-256${iterations}:{base64.b64encode(salt).decode()}${stored}:{keys.server_key_text()}", keys


def md5_verifier(password: str, login: str) -> str:
    """Return the verifier of servers older than PostgreSQL 10, which know nothing better."""
    return "md5" + hashlib.md5(password.encode() + login.encode(), usedforsecurity=False).hexdigest()


def is_verifier_of(verifier: str, password: str, login: str) -> bool:
    """Say whether a stored verifier was made of the password."""
    if verifier.startswith("md5"):
        return hmac.compare_digest(verifier, md5_verifier(password, login))
    parts = _SCRAM.fullmatch(verifier)
    if parts is None:
        return False
    try:
        salt = base64.b64decode(parts["salt"], validate=True)
    except ValueError:
        return False
    again, _ = scram_verifier(password, iterations=int(parts["iterations"]), salt=salt)
    return hmac.compare_digest(verifier, again)

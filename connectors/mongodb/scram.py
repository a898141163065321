"""SCRAM as MongoDB does it: the client's half of a login.

Source: RFC 5802, RFC 7677; MongoDB's driver specification, "Authentication".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping

from pymongo.saslprep import saslprep

from connectors.mongodb.errors import Garbled
from pam_jobs.errors import PolicyRefused
from pam_jobs.secret import SecretValue

__all__ = ["MECHANISMS", "Conversation", "check_password"]

MECHANISMS: Mapping[str, str] = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}
"""What a login may use, the better one first, and its hash."""

_FEWEST, _MOST = 4096, 1_000_000  # iterations: fewer would help a false server, more would hold us up


def check_password(text: str) -> None:
    """Make sure that every client would prepare the password in the same way.

    Raises:
        PolicyRefused: it is empty, or has characters that no password here may have.
    """
    try:
        prepared = saslprep(text)
    except (ValueError, LookupError):
        prepared = ""
    if not prepared or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PolicyRefused(
            "a password here is not empty and has no control characters (RFC 4013)",
            remedy="change the record's complexity",
        )


class Conversation:
    """One login."""

    def __init__(self, mechanism: str, user: str, password: SecretValue) -> None:
        self._hash = MECHANISMS[mechanism]
        text = password.reveal()
        if mechanism == "SCRAM-SHA-1":
            text = hashlib.md5(f"{user}:mongo:{text}".encode(), usedforsecurity=False).hexdigest()
        else:
            text = str(saslprep(text))
        self._password = SecretValue(text)
        self._nonce = base64.b64encode(secrets.token_bytes(24)).decode()
        name = user.replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={name},r={self._nonce}"
        self._server_signature = b""

    def first(self) -> bytes:
        """Return the first message."""
        return f"n,,{self._bare}".encode()

    def final(self, answer: bytes) -> bytes:
        """Return the proof that we know the password.

        Raises:
            Garbled: the answer is none, or asks for what would weaken the proof.
        """
        try:
            told = dict(part.partition("=")[::2] for part in answer.decode().split(","))
            nonce, salt, iterations = told["r"], base64.b64decode(told["s"], validate=True), int(told["i"])
        except (KeyError, ValueError):
            raise Garbled from None
        if not nonce.startswith(self._nonce) or not _FEWEST <= iterations <= _MOST:
            raise Garbled
        without_proof = f"c=biws,r={nonce}"
        message = f"{self._bare},{answer.decode()},{without_proof}".encode()
        salted = hashlib.pbkdf2_hmac(self._hash, self._password.reveal().encode(), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", self._hash)
        signature = hmac.digest(hashlib.new(self._hash, client_key).digest(), message, self._hash)
        self._server_signature = hmac.digest(hmac.digest(salted, b"Server Key", self._hash), message, self._hash)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def check(self, answer: bytes) -> None:
        """Make sure that the server knows the password too.

        Raises:
            Garbled: it does not.
        """
        try:
            told = base64.b64decode(dict(part.partition("=")[::2] for part in answer.decode().split(","))["v"])
        except (KeyError, ValueError):
            raise Garbled from None
        if not hmac.compare_digest(told, self._server_signature):
            raise Garbled

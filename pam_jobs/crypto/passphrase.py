"""A passphrase becomes two independent halves: one proves who signs in, the other unwraps the private key.

Source: PBKDF2 with HMAC-SHA256 at 600 000 iterations or more (OWASP Password Storage Cheat Sheet), split by HKDF
(RFC 5869), so that what is sent tells nothing of what is kept.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pam_jobs.errors import ConfigurationError
from pam_jobs.secret import SecretValue

__all__ = ["ITERATIONS", "MINIMUM_ITERATIONS", "PassphraseKeys", "derive", "new_salt"]

ITERATIONS = 600_000
MINIMUM_ITERATIONS = 600_000


@dataclass(frozen=True, kw_only=True)
class PassphraseKeys:
    """The two halves, 32 bytes each."""

    proof: bytes  # is sent to the server at sign-in
    wrapping: bytes  # never leaves the client


def new_salt() -> bytes:
    """Return 16 random bytes."""
    return secrets.token_bytes(16)


def derive(passphrase: SecretValue, salt: bytes, iterations: int = ITERATIONS) -> PassphraseKeys:
    """Return both halves; takes some tenths of a second on purpose.

    Raises:
        ConfigurationError: fewer iterations than the minimum are asked for, as a hostile server might.
    """
    if iterations < MINIMUM_ITERATIONS:
        raise ConfigurationError(
            f"the server asks for {iterations} PBKDF2 iterations, fewer than {MINIMUM_ITERATIONS}",
            remedy="do not sign in there; ask the operator of the server",
        )
    stretched = hashlib.pbkdf2_hmac("sha256", passphrase.reveal().encode(), salt, iterations)
    return PassphraseKeys(proof=_half(stretched, b"pam-jobs sign-in"), wrapping=_half(stretched, b"pam-jobs wrapping"))


def _half(stretched: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, None, purpose).derive(stretched)

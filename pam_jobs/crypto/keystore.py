"""The control plane's own keys: made at the first start, one file each, readable by their owner alone."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pam_jobs.crypto import aes, p256
from pam_jobs.errors import ConfigurationError
from pam_jobs.ids import b64url

__all__ = ["SERVER_KEY_ID", "KeyStore", "verify_signature", "write_private"]

SERVER_KEY_ID = "77"  # numeric and outside 1 to 20, which the vendor's clients know already


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all.

    Raises:
        FileExistsError: it exists already.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Random, not the process id: in a container ids repeat, and a killed start may have left its file behind.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)  # fails when another process was first, which then is the one that counts
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class KeyStore:
    """Keys under one folder; processes that share the folder share the keys."""

    folder: Path

    def ensure(self) -> None:
        """Make what is missing; safe when several processes start at once."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ensure("server.der", p256.private_der(p256.generate()))
        signing = Ed25519PrivateKey.generate()
        self._ensure(
            "signing.der",
            signing.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        self._ensure("sealing.key", aes.new_key())

    def _ensure(self, name: str, content: bytes) -> None:
        if not (self.folder / name).exists():
            try:
                write_private(self.folder / name, content)
            except FileExistsError:
                return

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"the key file {name} cannot be read from the keys folder",
                remedy="start the router once with the same PAM_KEYS_DIR, or restore the folder from its backup",
            ) from error

    @cached_property
    def server(self) -> p256.PrivateKey:
        """Return the P-256 key that clients wrap their transmission keys to."""
        return p256.load_private(self._read("server.der"))

    @cached_property
    def server_public(self) -> str:
        """Return the server's public point as unpadded base64url, the form of ``serverPublicKey``."""
        return b64url(p256.public_point(self.server))

    @cached_property
    def signing(self) -> Ed25519PrivateKey:
        """Return the Ed25519 key that signs messages to gateways (and tree heads)."""
        key = serialization.load_der_private_key(self._read("signing.der"), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError("signing.der holds no Ed25519 key", remedy="restore the keys folder")
        return key

    @cached_property
    def signing_public(self) -> bytes:
        """Return the 32 bytes that gateways check signatures with."""
        return self.signing.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def seal(self, plain: bytes) -> bytes:
        """Return ciphertext that only the control plane's own processes can open (receivers' tokens)."""
        return aes.encrypt(plain, self._read("sealing.key"))

    def open(self, sealed: bytes) -> bytes:
        """Return what ``seal`` took."""
        return aes.decrypt(sealed, self._read("sealing.key"))

    def derive(self, purpose: str, text: str) -> bytes:
        """Return 32 bytes that are the same for the same text always, and that nobody else can foretell."""
        return hmac.new(self._read("sealing.key"), f"{purpose}\0{text}".encode(), hashlib.sha256).digest()


def verify_signature(public: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether the Ed25519 signature is the message's."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True

"""What MySQL and MariaDB store of a password, computed here, so that the server never hears the secret itself.

Source: MariaDB documentation, "Authentication Plugin - mysql_native_password" and "- ed25519".
"""

from __future__ import annotations

import base64
import hashlib

__all__ = ["ed25519_hash", "native_hash"]


def native_hash(password: bytes) -> str:
    """Return the stored form of ``mysql_native_password``: an asterisk and SHA-1 twice, in upper-case hexadecimal."""
    once = hashlib.sha1(password, usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()


def ed25519_hash(password: bytes) -> str:
    """Return the stored form of MariaDB's ``ed25519``: the public key, in base64 without its padding."""
    from nacl import bindings

    scalar = bytearray(hashlib.sha512(password).digest()[:32])
    scalar[0] &= 248
    scalar[31] = (scalar[31] & 127) | 64
    public = bindings.crypto_scalarmult_ed25519_base_noclamp(bytes(scalar))
    return base64.b64encode(public).decode().rstrip("=")

"""AES-256 as Keeper frames it: GCM for keys and data, CBC for folder names and subfolder keys."""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pam_jobs.errors import VaultError

__all__ = ["decrypt", "decrypt_cbc", "encrypt", "encrypt_cbc", "new_key"]

_IV_BYTES = 12
_BLOCK_BITS = 128
_BLOCK_BYTES = 16


def new_key() -> bytes:
    """Return 32 random bytes."""
    return secrets.token_bytes(32)


def encrypt(plain: bytes, key: bytes) -> bytes:
    """Return ``iv(12) || ciphertext || tag(16)`` by AES-256-GCM without associated data."""
    iv = secrets.token_bytes(_IV_BYTES)
    return iv + AESGCM(key).encrypt(iv, plain, None)


def decrypt(sealed: bytes, key: bytes) -> bytes:
    """Return the plain bytes of what ``encrypt`` made.

    Raises:
        VaultError: another key sealed it, or it was changed or cut off.
    """
    try:
        return AESGCM(key).decrypt(sealed[:_IV_BYTES], sealed[_IV_BYTES:], None)
    except (InvalidTag, ValueError) as error:
        raise VaultError("the ciphertext does not open with this key") from error


def encrypt_cbc(plain: bytes, key: bytes) -> bytes:
    """Return ``iv(16) || ciphertext`` by AES-256-CBC with PKCS#7 padding."""
    iv = secrets.token_bytes(_BLOCK_BYTES)
    padder = padding.PKCS7(_BLOCK_BITS).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return iv + encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()


def decrypt_cbc(sealed: bytes, key: bytes) -> bytes:
    """Return the plain bytes of what ``encrypt_cbc`` made.

    Raises:
        VaultError: another key sealed it, or it was changed or cut off.
    """
    try:
        decryptor = Cipher(algorithms.AES(key), modes.CBC(sealed[:_BLOCK_BYTES])).decryptor()
        unpadder = padding.PKCS7(_BLOCK_BITS).unpadder()
        padded = decryptor.update(sealed[_BLOCK_BYTES:]) + decryptor.finalize()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        raise VaultError("the ciphertext does not open with this key") from error

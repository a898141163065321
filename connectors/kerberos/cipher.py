"""AES with HMAC-SHA1 as Kerberos uses it, over the primitives of ``cryptography``. Pure functions.

Source: RFC 3961 (key derivation, encryption), RFC 3962 (AES).
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from pam_jobs.secret import SecretValue

__all__ = [
    "CHECKSUMS",
    "ENCTYPES",
    "IntegrityError",
    "Key",
    "checksum",
    "decrypt",
    "encrypt",
    "random_key",
    "string_to_key",
]

ENCTYPES: Final = {18: 32, 17: 16}
"""Kinds of encryption by number, the best first, with the octets of their keys: AES alone. RC4 and DES are not spoken."""

CHECKSUMS: Final = {18: 16, 17: 15}
"""The kind of checksum that goes with each kind of encryption."""

_BLOCK: Final = 16
_MAC: Final = 12
_ITERATIONS: Final = 4096  # of the string-to-key function, where the controller names no other number
_MOST_ITERATIONS: Final = 1 << 20


class IntegrityError(ValueError):
    """What came was not encrypted with this key, or was altered on its way."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key of Kerberos."""

    enctype: int  # one of ENCTYPES
    octets: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if ENCTYPES.get(self.enctype) != len(self.octets):
            raise IntegrityError("it is no key of AES")


def random_key(enctype: int) -> Key:
    """Return a new key."""
    return Key(enctype=enctype, octets=secrets.token_bytes(ENCTYPES[enctype]))


def string_to_key(password: SecretValue, salt: bytes, parameters: bytes, enctype: int) -> Key:
    """Return the key of a password.

    Args:
        password: it.
        salt: as the domain controller names it.
        parameters: the number of iterations in four octets; empty for the usual one.
        enctype: one of ENCTYPES.

    Raises:
        IntegrityError: so few iterations that the key would be easily guessed, or so many that it would take minutes.
    """
    iterations = int.from_bytes(parameters, "big") if parameters else _ITERATIONS
    if not _ITERATIONS <= iterations <= _MOST_ITERATIONS:
        raise IntegrityError("the number of iterations is no reasonable one")
    return Key(enctype=enctype, octets=_stretched(password, salt, iterations, ENCTYPES[enctype]))


def _stretched(password: SecretValue, salt: bytes, iterations: int, size: int) -> bytes:
    octets = hashlib.pbkdf2_hmac("sha1", password.reveal().encode(), salt, iterations, size)
    return _derive(octets, b"kerberos")


def encrypt(key: Key, usage: int, plain: bytes) -> bytes:
    """Return the text encrypted and authenticated, behind a confounder.

    Args:
        key: it.
        usage: what for, as RFC 4120 and RFC 4121 number it.
        plain: the text.
    """
    sealing, checking = _keys(key.octets, usage)
    text = secrets.token_bytes(_BLOCK) + plain
    return _encrypt_stealing(sealing, text) + hmac.digest(checking, text, "sha1")[:_MAC]


def decrypt(key: Key, usage: int, sealed: bytes) -> bytes:
    """Return the text.

    Raises:
        IntegrityError: it is none of this key.
    """
    if len(sealed) < _BLOCK + _MAC:
        raise IntegrityError("it is too short")
    sealing, checking = _keys(key.octets, usage)
    text = _decrypt_stealing(sealing, sealed[:-_MAC])
    if not hmac.compare_digest(hmac.digest(checking, text, "sha1")[:_MAC], sealed[-_MAC:]):
        raise IntegrityError("it is not of this key")
    return text[_BLOCK:]


def checksum(key: Key, usage: int, text: bytes) -> bytes:
    """Return the keyed checksum of a text; its kind is in CHECKSUMS."""
    return hmac.digest(_derive(key.octets, usage.to_bytes(4, "big") + b"\x99"), text, "sha1")[:_MAC]


@lru_cache(maxsize=32)
def _folded(constant: bytes) -> bytes:
    """Stretch or fold a constant to one block (RFC 3961, 5.1): copies, each turned by 13 bits more, added up."""
    size = len(constant)
    whole = math.lcm(_BLOCK, size)
    bits = size * 8
    number = int.from_bytes(constant, "big")
    copies = bytearray()
    for index in range(whole // size):
        turn = 13 * index % bits
        copies += (((number >> turn) | (number << (bits - turn))) & ((1 << bits) - 1)).to_bytes(size, "big")
    total = sum(int.from_bytes(copies[start : start + _BLOCK], "big") for start in range(0, whole, _BLOCK))
    limit = 1 << (_BLOCK * 8)
    while total >= limit:  # the carry comes in again at the end
        total = total % limit + total // limit
    return total.to_bytes(_BLOCK, "big")


def _derive(octets: bytes, constant: bytes) -> bytes:
    block, made = _folded(constant), b""
    while len(made) < len(octets):
        block = _chained(octets, block)
        made += block
    return made[: len(octets)]


def _keys(octets: bytes, usage: int) -> tuple[bytes, bytes]:
    number = usage.to_bytes(4, "big")
    return _derive(octets, number + b"\xaa"), _derive(octets, number + b"\x55")


def _chained(octets: bytes, text: bytes) -> bytes:
    worker = Cipher(algorithms.AES(octets), modes.CBC(bytes(_BLOCK))).encryptor()
    return worker.update(text) + worker.finalize()


def _unchained(octets: bytes, text: bytes) -> bytes:
    worker = Cipher(algorithms.AES(octets), modes.CBC(bytes(_BLOCK))).decryptor()
    return worker.update(text) + worker.finalize()


def _encrypt_stealing(octets: bytes, text: bytes) -> bytes:
    """Encrypt with ciphertext stealing: the last two blocks change places, and the last one is cut."""
    chained = _chained(octets, text + bytes(-len(text) % _BLOCK))
    if len(chained) == _BLOCK:
        return chained
    rest = len(text) - (len(chained) - _BLOCK)
    return chained[: -2 * _BLOCK] + chained[-_BLOCK:] + chained[-2 * _BLOCK : -_BLOCK][:rest]


def _decrypt_stealing(octets: bytes, text: bytes) -> bytes:
    if len(text) == _BLOCK:
        return _unchained(octets, text)
    rest = len(text) % _BLOCK or _BLOCK
    head, last, cut = text[: -_BLOCK - rest], text[-_BLOCK - rest : -rest], text[-rest:]
    whole = cut + _unchained(octets, last)[rest:]  # the cut block's end is what the other one decrypts to
    return _unchained(octets, head + whole + last)[: len(text)]

"""SSH key pairs: recognised, generated, and chosen for a record."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from pam_jobs.errors import InvalidInput
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue

__all__ = ["ALGORITHMS", "KeyPair", "detect_algorithm", "generate_key", "public_of", "rotates_key", "wanted_algorithm"]

ALGORITHMS: Final = (
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-ed25519",
)

_RSA_BITS: Final = 4096
_RSA_LEAST_BITS: Final = 2048
_CURVES: Final[dict[str, Callable[[], ec.EllipticCurve]]] = {
    "ecdsa-sha2-nistp256": ec.SECP256R1,
    "ecdsa-sha2-nistp384": ec.SECP384R1,
    "ecdsa-sha2-nistp521": ec.SECP521R1,
}
_BY_CURVE: Final = {"secp256r1": "nistp256", "secp384r1": "nistp384", "secp521r1": "nistp521"}
_ARMOUR: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----(.*?)-----END \1-----", re.DOTALL)

_Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A private key and the line its public half makes in ``authorized_keys``."""

    private_pem: SecretValue  # OpenSSH format, not encrypted
    public: str  # "type base64", without a comment


def detect_algorithm(pem: SecretValue) -> str | None:
    """Return the SSH name of the private key's algorithm, or None when it is no key we know.

    An obsolete DSA key is told as ``ssh-dss``, so that the caller can say so.

    Args:
        pem: OpenSSH, PKCS#8, PKCS#1 or SEC 1 text.

    Raises:
        InvalidInput: the key is encrypted.
    """
    key = _load(pem)
    if isinstance(key, dsa.DSAPrivateKey):
        return "ssh-dss"
    return None if key is None else _name(key)


def generate_key(algorithm: str, *, like: SecretValue | None = None) -> KeyPair:
    """Return a new key pair.

    Args:
        algorithm: one of ``ALGORITHMS``.
        like: the key it follows; a new RSA key gets its size, within 2048 to 4096 bits. Without it, 4096.

    Raises:
        InvalidInput: the algorithm is not one of them, or ``like`` is encrypted.
    """
    algorithm = _checked(algorithm)
    key: _Private
    if algorithm == "ssh-rsa":
        old = _load(like) if like is not None else None
        bits = min(max(old.key_size, _RSA_LEAST_BITS), _RSA_BITS) if isinstance(old, rsa.RSAPrivateKey) else _RSA_BITS
        key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    elif algorithm == "ssh-ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = ec.generate_private_key(_CURVES[algorithm]())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return KeyPair(private_pem=SecretValue(text), public=_public(key))


def public_of(pem: SecretValue) -> str:
    """Return the public half of a private key as ``type base64``, without a comment.

    Raises:
        InvalidInput: the key is encrypted, obsolete, or no key we know.
    """
    key = _load(pem)
    if key is None:
        raise InvalidInput(
            "the record's private key is not in a known format", remedy="store an OpenSSH or PEM private key"
        )
    if isinstance(key, dsa.DSAPrivateKey):
        raise _obsolete()
    return _public(key)


def rotates_key(record: Record) -> bool:
    """Say whether a rotation of this user also changes the SSH key: one exists, and ``Private Key Rotate`` allows it.

    Raises:
        InvalidInput: ``Private Key Rotate`` is neither true nor false.
    """
    return record.flag("Private Key Rotate", True) and record.private_key is not None


def wanted_algorithm(record: Record) -> str:
    """Return the algorithm of the record's next key: ``Private Key Type`` when set, else that of the present key.

    A record without a key gets ``ssh-rsa``, the documented default.

    Raises:
        InvalidInput: the type is unknown or obsolete, or the present key is encrypted or not recognised.
    """
    chosen = record.custom("Private Key Type")
    if chosen is not None:
        return _checked(chosen.strip().casefold())
    present = record.private_key
    if present is None:
        return "ssh-rsa"
    found = detect_algorithm(present)
    if found is None:
        raise InvalidInput(
            "the algorithm of the record's private key cannot be told",
            remedy="set the custom field 'Private Key Type' to one of " + ", ".join(ALGORITHMS),
        )
    return _checked(found)


def _checked(algorithm: str) -> str:
    if algorithm == "ssh-dss":
        raise _obsolete()
    if algorithm not in ALGORITHMS:
        raise InvalidInput(f"{algorithm!r} is not an SSH key type", remedy="use one of " + ", ".join(ALGORITHMS))
    return algorithm


def _obsolete() -> InvalidInput:
    return InvalidInput(
        "ssh-dss keys are obsolete and OpenSSH 10 no longer accepts them",
        remedy="set the custom field 'Private Key Type' to ssh-ed25519 or another current type",
    )


def _load(pem: SecretValue) -> _Private | dsa.DSAPrivateKey | None:
    # Only the armour counts: text around it, CRLF and missing last newlines come from copying between clients.
    found = _ARMOUR.search(pem.reveal())
    if found is None:
        return None
    if found[1].startswith("ENCRYPTED") or "4,ENCRYPTED" in found[2]:
        raise _encrypted()
    text = "\n".join(line.strip() for line in found[0].splitlines()).encode() + b"\n"
    loader = load_ssh_private_key if found[1].startswith("OPENSSH") else load_pem_private_key
    try:
        key = loader(text, password=None)
    except TypeError:  # how the library says that a passphrase is missing
        raise _encrypted() from None
    except (ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in _BY_CURVE:
        return None
    known = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey
    return key if isinstance(key, known) else None


def _encrypted() -> InvalidInput:
    return InvalidInput(
        "the record's private key is encrypted, which is not supported",
        remedy="store it without a passphrase (ssh-keygen -p -N '' -f FILE)",
    )


def _name(key: _Private) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "ssh-rsa"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ssh-ed25519"
    return "ecdsa-sha2-" + _BY_CURVE[key.curve.name]


def _public(key: _Private) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

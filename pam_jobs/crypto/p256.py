"""P-256 keys in Keeper's encodings: 65-byte points, PKCS#8 DER, ECDSA with SHA-256, and ECIES."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pam_jobs.crypto import aes
from pam_jobs.errors import VaultError

__all__ = [
    "PrivateKey",
    "ecies_decrypt",
    "ecies_encrypt",
    "generate",
    "load_private",
    "load_public",
    "private_der",
    "public_point",
    "sign",
    "verify",
]

PrivateKey = ec.EllipticCurvePrivateKey

_POINT_BYTES = 65


def generate() -> PrivateKey:
    """Return a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_der(key: PrivateKey) -> bytes:
    """Return the key as PKCS#8 DER without encryption."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_private(der: bytes) -> PrivateKey:
    """Return the key of PKCS#8 DER.

    Raises:
        VaultError: it is no P-256 key.
    """
    try:
        key = serialization.load_der_private_key(der, None)
    except (ValueError, TypeError) as error:
        raise VaultError("the private key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise VaultError("the private key is not on the curve P-256")
    return key


def public_point(key: PrivateKey | ec.EllipticCurvePublicKey) -> bytes:
    """Return the public key as a 65-byte uncompressed point."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def load_public(point: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a 65-byte point.

    Raises:
        VaultError: the bytes are no point on P-256.
    """
    if len(point) != _POINT_BYTES:
        raise VaultError("the public key is not a 65-byte point")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise VaultError("the public key is not a point on P-256") from error


def sign(key: PrivateKey, message: bytes) -> bytes:
    """Return the DER signature, ECDSA with SHA-256."""
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def verify(point: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether the signature is the message's by this key."""
    try:
        load_public(point).verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, VaultError, ValueError):
        return False
    return True


def _shared_key(private: PrivateKey, public: ec.EllipticCurvePublicKey) -> bytes:
    return hashlib.sha256(private.exchange(ec.ECDH(), public)).digest()


def ecies_encrypt(plain: bytes, point: bytes) -> bytes:
    """Return ``ephemeral point(65) || AES-GCM`` under SHA-256 of the ECDH x-coordinate."""
    ephemeral = generate()
    return public_point(ephemeral) + aes.encrypt(plain, _shared_key(ephemeral, load_public(point)))


def ecies_decrypt(sealed: bytes, private: PrivateKey) -> bytes:
    """Return the plain bytes of what ``ecies_encrypt`` made for this key.

    Raises:
        VaultError: it was made for another key, or changed or cut off.
    """
    return aes.decrypt(sealed[_POINT_BYTES:], _shared_key(private, load_public(sealed[:_POINT_BYTES])))

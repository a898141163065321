"""A local certificate authority for the router, made at its first start (RFC 5280, browser profile of validity)."""

from __future__ import annotations

import fcntl
import ipaddress
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pam_jobs.clock import Clock
from pam_jobs.crypto import p256
from pam_jobs.crypto.keystore import write_private

__all__ = ["TlsFiles", "ensure_tls"]

_CA_DAYS = 3650
_LEAF_DAYS = 397
_RENEW_BEFORE_DAYS = 30


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Where the router's TLS files are."""

    ca: Path
    certificate: Path  # leaf, then CA
    key: Path


def ensure_tls(folder: Path, names: list[str], clock: Clock) -> TlsFiles:
    """Return the TLS files, having made the CA and a leaf for these names where none is valid.

    Args:
        folder: of the files; made with mode 0700.
        names: DNS names and IP addresses that clients use; the first is the subject.
        clock: tells what is valid.
    """
    files = TlsFiles(ca=folder / "ca.pem", certificate=folder / "router.pem", key=folder / "router.key")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # routers that start at once must not end with one's CA and another's key
        if not files.ca.exists():
            (folder / "ca.key").unlink(missing_ok=True)  # of a start that was killed before it wrote the certificate
            _make_ca(folder, files, clock.now())
        if not _leaf_is_good(files, names, clock.now()):
            files.certificate.unlink(missing_ok=True)
            files.key.unlink(missing_ok=True)
            _make_leaf(folder, files, names, clock.now())
    return files


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: str, issuer: x509.Name, public: ec.EllipticCurvePublicKey, start: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - timedelta(hours=1))
        .not_valid_after(start + timedelta(days=days))
    )


def _make_ca(folder: Path, files: TlsFiles, now: datetime) -> None:
    key = p256.generate()
    certificate = (
        _builder("pam-jobs local CA", _name("pam-jobs local CA"), key.public_key(), now, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(folder / "ca.key", _pem(key))
    write_private(files.ca, certificate.public_bytes(serialization.Encoding.PEM))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _make_leaf(folder: Path, files: TlsFiles, names: list[str], now: datetime) -> None:
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the CA key is not an EC key")
    key = p256.generate()
    certificate = (
        _builder(names[0], ca.subject, key.public_key(), now, _LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_private(files.key, _pem(key))
    chain = certificate.public_bytes(serialization.Encoding.PEM) + files.ca.read_bytes()
    write_private(files.certificate, chain)


def _leaf_is_good(files: TlsFiles, names: list[str], now: datetime) -> bool:
    if not files.certificate.exists() or not files.key.exists():
        return False
    leaf = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    wanted = {_alternative(name) for name in names}
    present = set(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    return wanted <= present and leaf.not_valid_after_utc - timedelta(days=_RENEW_BEFORE_DAYS) > now

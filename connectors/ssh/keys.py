"""Keys of SSH: which one a server may show, and the private one that logs in."""

from __future__ import annotations

import fcntl
import io
import os
import threading
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization.ssh import SSHPrivateKeyTypes

from connectors.base import Target
from pam_jobs.errors import ConfigurationError, HostKeyMismatch, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["HostKeys", "load_private_key"]

_POLICIES = ("accept-new", "strict")


class HostKeys:
    """Which key each server may have: the ones on its record, else the first one that was seen."""

    def __init__(self) -> None:
        """Know no server."""
        self._seen: dict[tuple[str, int], str] = {}
        self._lock = threading.Lock()
        self._file: Path | None = None

    def keep_in(self, file: Path) -> None:
        """Remember in this file what is seen, also for later processes and for others that run beside this one.

        Args:
            file: one line a server, "host port type base64"; made with mode 0600 when the first server is seen.
        """
        self._file = file

    def preferred_types(self, target: Target) -> list[str]:
        """Return the types of the keys that are accepted, so that the server is asked for one of them."""
        known = list(target.host_keys) or [self._seen.get((target.host, target.port), "")]
        types = [key.split(" ")[0] for key in known if key]
        return [name for each in types for name in (("rsa-sha2-512", "rsa-sha2-256") if each == "ssh-rsa" else (each,))]

    def check(self, target: Target, key: str) -> None:
        """Accept a server's key or refuse it.

        Args:
            target: its ``host_keys`` decide; without any, its option ``host_key_policy``: ``accept-new`` (the first
                key seen is the one from then on) or ``strict`` (refuse).
            key: "type base64".

        Raises:
            HostKeyMismatch: refused.
            ConfigurationError: no such policy.
        """
        if target.host_keys:
            if key not in {" ".join(each.split()[:2]) for each in target.host_keys}:
                remedy = "check the machine; if its key really changed, put the new one into the resource record"
                raise HostKeyMismatch("the server's key is not the one on record", remedy=remedy)
            return
        policy = target.options.get("host_key_policy", "accept-new")
        if policy not in _POLICIES:
            raise ConfigurationError(f"there is no host_key_policy {policy!r}", remedy="use accept-new or strict")
        if policy == "strict":
            raise HostKeyMismatch(
                "no key of this server is on record", remedy="put its host key into the resource record"
            )
        first = self._first_seen(target.host, target.port, key)
        if first != key:
            remedy = "check the machine; if its key really changed, put the new one into the resource record"
            raise HostKeyMismatch("the server's key changed since it was first seen", remedy=remedy)

    def _first_seen(self, host: str, port: int, key: str) -> str:
        """Return the key that the server had when it was first seen, which is now where it is new."""
        with self._lock:
            if (host, port) not in self._seen and self._file is not None:
                self._seen[host, port] = _first_in_file(self._file, f"{host} {port} ", key)
            return self._seen.setdefault((host, port), key)


def _first_in_file(file: Path, server: str, key: str) -> str:
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:  # a first contact that cannot be remembered would be trusted anew each time
        raise ConfigurationError(
            f"{file} cannot be written ({error.strerror})",
            remedy="give the gateway a writable folder beside its configuration, or put host keys into the records",
        ) from None
    with os.fdopen(descriptor, "r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # several instances of a gateway share the file
        stream.seek(0)
        for line in stream:
            if line.startswith(server):
                return line.removeprefix(server).strip()
        stream.write(f"{server}{key}\n")
        stream.flush()
        os.fsync(stream.fileno())
    return key


def load_private_key(private_key: SecretValue) -> paramiko.PKey:
    """Return the key in the form the transport takes.

    Args:
        private_key: PEM of OpenSSH, PKCS#1 or PKCS#8, not encrypted.

    Raises:
        Unsupported: it cannot be read, is encrypted, or of another type.
    """
    key = _loaded(private_key.reveal().strip().encode() + b"\n")
    if isinstance(key, rsa.RSAPrivateKey):
        return paramiko.RSAKey(key=key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return paramiko.ECDSAKey(vals=(key, key.public_key()))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        return paramiko.Ed25519Key(file_obj=io.StringIO(pem.decode()))
    remedy = "use an unencrypted RSA, ECDSA or Ed25519 key in PEM"
    raise Unsupported("the private key cannot be used", remedy=remedy)


def _loaded(pem: bytes) -> object:
    """Return the key, or None.

    The primes of an RSA key are not tested: that takes 0.4 s for 4096 bits, and the key comes from the vault.
    """
    try:
        key: SSHPrivateKeyTypes = serialization.load_ssh_private_key(
            pem, password=None, unsafe_skip_rsa_key_validation=True
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass
    else:
        return key
    try:
        return serialization.load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None

"""The acceptor of Kerberos for the emulated machine: Debian's own MIT library, so that a second hand judges our tokens.

It reads the machine's key from a keytab, opens the ticket, looks at its clock, at replays and at the channel's bindings, and
proves itself in return.
"""

from __future__ import annotations

import ctypes
import struct
import time
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from connectors.kerberos.cipher import string_to_key
from deploy.lab.processes import LabError
from pam_jobs.secret import SecretValue

__all__ = ["Acceptor", "Context", "Refused", "binding_of", "write_keytab"]

_AES256: Final = 18
_COMPLETE: Final = 0
_ACCEPT: Final = 2
_IS_BOUND: Final = 0x800
_HEADER, _DATA, _PADDING, _ALLOCATE = 2, 1, 9, 0x10000


class Refused(Exception):
    """The library did not take a token; the text is its own."""


class _Buffer(ctypes.Structure):
    _fields_ = (("length", c_size_t), ("value", c_void_p))

    @classmethod
    def of(cls, octets: bytes) -> _Buffer:
        made = cls(len(octets), ctypes.cast(c_char_p(octets), c_void_p))
        made.kept = octets  # for as long as the buffer is used
        return made

    def read(self) -> bytes:
        return ctypes.string_at(self.value, self.length) if self.value else b""


class _Bindings(ctypes.Structure):
    _fields_ = (
        ("initiator_type", c_uint32), ("initiator", _Buffer), ("acceptor_type", c_uint32), ("acceptor", _Buffer),
        ("application", _Buffer),
    )  # fmt: skip


class _Element(ctypes.Structure):
    _fields_ = (("key", c_char_p), ("value", c_char_p))


class _Store(ctypes.Structure):
    _fields_ = (("count", c_uint32), ("elements", POINTER(_Element)))


class _Part(ctypes.Structure):
    _fields_ = (("kind", c_uint32), ("buffer", _Buffer))


@cache
def _library() -> Any:
    try:
        return ctypes.CDLL("libgssapi_krb5.so.2")
    except OSError as error:
        raise LabError("no acceptor of Kerberos in the lab (apt-get install libgssapi-krb5-2)") from error


def _check(major: int, minor: c_uint32) -> None:
    if major & 0xFFFF0000:
        said = []
        for code, kind in ((major, 1), (minor.value, 2)):
            text, more = _Buffer(), c_uint32()
            _library().gss_display_status(byref(c_uint32()), code, kind, None, byref(more), byref(text))
            said.append(text.read().decode())
        raise Refused("; ".join(said))


@dataclass(frozen=True, kw_only=True)
class Acceptor:
    """A service of a domain, with its key."""

    realm: str
    keytab: Path
    replays: Path  # the tokens that came, so that none counts twice

    def begin(self, bindings: bytes | None = None) -> Context:
        """Return a new context.

        Args:
            bindings: the application's data of the channel. A token that is bound to another channel is refused.
        """
        return Context(self, bindings)


class Context:
    """One login and what is sealed with it."""

    def __init__(self, acceptor: Acceptor, bindings: bytes | None) -> None:
        self._context = c_void_p()
        self._acceptor = acceptor
        self._bindings = bindings
        self.principal = ""  # user@REALM, once the token was taken
        self.is_bound = False  # to the channel

    def accept(self, token: bytes) -> bytes:
        """Take the token and return the acceptor's own.

        Raises:
            Refused: the token is not good.
        """
        library, minor = _library(), c_uint32()
        texts = ((b"keytab", f"FILE:{self._acceptor.keytab}"), (b"rcache", f"file2:{self._acceptor.replays}"))
        elements = (_Element * 2)(*(_Element(key, text.encode()) for key, text in texts))
        credential, name = c_void_p(), c_void_p()
        major = library.gss_acquire_cred_from(
            byref(minor), None, c_uint32(0), None, c_int(_ACCEPT), byref(_Store(2, elements)), byref(credential), None, None
        )  # fmt: skip
        _check(major, minor)
        bindings = None
        if self._bindings is not None:
            bindings = byref(_Bindings(0, _Buffer(), 0, _Buffer(), _Buffer.of(self._bindings)))
        answer, flags = _Buffer(), c_uint32()
        try:
            major = library.gss_accept_sec_context(
                byref(minor), byref(self._context), credential, byref(_Buffer.of(token)), bindings, byref(name), None,
                byref(answer), byref(flags), None, None,
            )  # fmt: skip
            _check(major, minor)
            if major != _COMPLETE:
                raise Refused("it takes another step")
            shown = _Buffer()
            _check(library.gss_display_name(byref(minor), name, byref(shown), None), minor)
            self.principal = shown.read().decode()
            self.is_bound = bool(flags.value & _IS_BOUND)
            return answer.read()
        finally:
            library.gss_release_cred(byref(minor), byref(credential))

    def unwrap(self, sealed: bytes) -> bytes:
        """Return the text of a sealed message.

        Raises:
            Refused: it is not right, or was not encrypted.
        """
        minor, text, is_sealed = c_uint32(), _Buffer(), c_int()
        major = _library().gss_unwrap(
            byref(minor), self._context, byref(_Buffer.of(sealed)), byref(text), byref(is_sealed), None
        )
        _check(major, minor)
        if major != _COMPLETE or not is_sealed.value:
            raise Refused("a message came again, out of its order or in the clear")
        return text.read()

    def wrap(self, text: bytes) -> tuple[bytes, bytes]:
        """Return signature and sealed text, as WS-Management sends them."""
        minor, state = c_uint32(), c_int()
        data = ctypes.create_string_buffer(text, len(text))
        parts = (_Part * 3)(
            _Part(_HEADER | _ALLOCATE, _Buffer()),
            _Part(_DATA, _Buffer(len(text), ctypes.cast(data, c_void_p))),
            _Part(_PADDING | _ALLOCATE, _Buffer()),
        )
        major = _library().gss_wrap_iov(
            byref(minor), self._context, c_int(1), c_uint32(0), byref(state), parts, c_int(3)
        )
        _check(major, minor)
        return parts[0].buffer.read(), parts[1].buffer.read() + parts[2].buffer.read()


def binding_of(certificate: Path) -> bytes:
    """Return what binds a login to a channel with this certificate, which is signed with SHA-256."""
    digest = x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256())
    return b"tls-server-end-point:" + digest


def write_keytab(path: Path, principal: str, realm: str, password: SecretValue, salt: str) -> None:
    """Write the service's key, which only its owner reads.

    Args:
        path: of the new file.
        principal: of the service, such as HTTP/host.
        realm: in capitals.
        password: of the account that the service runs as.
        salt: of that account's keys: the realm and its name.
    """

    def counted(text: bytes) -> bytes:
        return struct.pack(">H", len(text)) + text

    names = principal.split("/")
    key = string_to_key(password, salt.encode(), b"", _AES256)
    entry = struct.pack(">H", len(names)) + counted(realm.encode())
    entry += b"".join(counted(name.encode()) for name in names) + struct.pack(">IIB", 1, int(time.time()), 1)
    entry += struct.pack(">H", _AES256) + counted(key.octets)
    path.touch(mode=0o600)
    path.write_bytes(b"\x05\x02" + struct.pack(">i", len(entry)) + entry)

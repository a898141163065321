"""What the emulated Oracle speaks: TNS packets, and of TTC the messages of a login and of simple statements.

It takes the part of a 19c server, which knows no shorter login and marks no end of a response.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

__all__ = [
    "CONNECT",
    "DATA",
    "Challenge",
    "Gone",
    "Reader",
    "Wire",
    "error",
    "parameters",
    "protocol_answer",
    "rows",
    "status",
    "types_answer",
    "warning",
]

CONNECT, ACCEPT, REFUSE, DATA, MARKER = 1, 2, 4, 6, 12
_VERSION = 317  # of the protocol: the newest that needs no answer to a break out of band
_FIELDS = 12  # version of the messages' fields: 19.1
_ITERATIONS, _DERIVATIONS = 4096, 3  # as the server has them by default
_LONG = 0xFE
_PIECE = 8000  # bytes of a message in one packet, within what was agreed
_UTF8, _UTF16 = 873, 2000
_VERIFIER_12C = 0x4815


class Gone(Exception):
    """The client left."""


class Reader:
    """Reads what a client sent."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def is_done(self) -> bool:
        """Say whether all was read."""
        return self._place >= len(self._data)

    def raw(self, count: int) -> bytes:
        """Return so many bytes."""
        self._place += count
        return self._data[self._place - count : self._place]

    def byte(self) -> int:
        """Return one byte."""
        return self.raw(1)[0]

    def number(self) -> int:
        """Return a number that is preceded by its length."""
        return int.from_bytes(self.raw(self.byte()), "big")

    def text(self) -> bytes:
        """Return bytes that are preceded by their length, or come in pieces."""
        length = self.byte()
        if length != _LONG:
            return b"" if length == 0xFF else self.raw(length)
        pieces = b""
        while size := self.number():
            pieces += self.raw(size)
        return pieces

    def long_text(self) -> bytes:
        """Return bytes whose length is told twice."""
        return self.text() if self.number() else b""

    def statement(self) -> tuple[str, list[str]]:
        """Return a statement and its bound texts, of a message that executes it at once."""
        self.number()  # options
        self.number()  # cursor
        self.byte()
        self.number()
        self.byte()
        self.number()
        self.raw(2)
        for _ in range(3):
            self.number()
        self.byte()
        binds = self.number()
        self.raw(6)  # five pointers, and that of defines
        self.number()
        self.number()
        self.raw(3)
        self.number()
        self.byte()
        self.number()
        self.number()
        self.byte()
        self.number()
        self.byte()
        for _ in range(2):  # signature and id of the statement
            self.byte()
            self.number()
        self.raw(2)
        self.number()
        sql = self.text().decode()
        for _ in range(13):
            self.number()
        for _ in range(binds):
            self.raw(4)
            for _ in range(6):
                self.number()
            self.byte()
            self.number()
            self.number()
        if binds:
            self.byte()
        return sql, [self.text().decode() for _ in range(binds)]


class Wire:
    """A client's connection, packet by packet."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._is_large = False  # lengths have four bytes, after the connection was accepted

    def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next packet.

        Raises:
            Gone: there is none.
        """
        head = self._exactly(8)
        length = struct.unpack(">I" if self._is_large else ">H", head[: 4 if self._is_large else 2])[0]
        return head[4], self._exactly(length - 8)

    def accept(self) -> None:
        """Take the connection."""
        body = struct.pack(">HH10xB9xI", _VERSION, 0, 0, 8192)
        self._send(ACCEPT, body)
        self._is_large = True

    def refuse(self, code: int) -> None:
        """Refuse the connection as a listener does."""
        text = f"(DESCRIPTION=(TMP=)(VSNNUM=318767104)(ERR={code})(ERROR_STACK=(ERROR=(CODE={code})(EMFI=4))))".encode()
        self._send(REFUSE, struct.pack(">BBH", 1, 0, len(text)) + text)

    def answer(self, body: bytes) -> None:
        """Send a message."""
        for place in range(0, len(body), _PIECE):
            self._send(DATA, b"\0\0" + body[place : place + _PIECE])

    def _send(self, kind: int, body: bytes) -> None:
        length = struct.pack(
            ">I" if self._is_large else ">HH", *([len(body) + 8] if self._is_large else [len(body) + 8, 0])
        )
        self._raw.sendall(length + bytes([kind, 0, 0, 0]) + body)

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            piece = self._raw.recv(count - len(got))
            if not piece:
                raise Gone
            got += piece
        return got


def protocol_answer() -> bytes:
    """Return what the server says of itself: banner, character sets, capabilities."""
    compiled = bytearray(51)
    compiled[7] = _FIELDS
    running = bytearray(11)
    running[6] = 4
    sets = bytes(9) + struct.pack(">H", _UTF16)
    return (
        b"\x01\x06\0Oracle Database, emulated\0" + struct.pack("<HBH", _UTF8, 1, 0) + struct.pack(">H", len(sets)) + sets
        + _text(bytes(compiled)) + _text(bytes(running))
    )  # fmt: skip


def types_answer() -> bytes:
    """Return that the client's data types are fine."""
    return b"\x02\0\0"


def parameters(pairs: Sequence[tuple[str, str, int]]) -> bytes:
    """Return keys, values and flags, and that the call has ended."""
    body = b"\x08" + _number(len(pairs))
    for key, value, flags in pairs:
        body += _long_text(key.encode()) + _long_text(value.encode()) + _number(flags)
    return body + status()


def status() -> bytes:
    """Return that the call has ended."""
    return b"\x09" + _number(0) + _number(0)


def warning(number: int, text: str) -> bytes:
    """Return a warning, which comes before the end of a call."""
    return b"\x0f" + _number(number) + _number(len(text.encode())) + _number(0) + _text(text.encode())


def error(number: int, text: str = "", rows_done: int = 0) -> bytes:
    """Return the end of a call: an error, or with the number 0 none."""
    body = b"\x04" + b"".join(_number(each) for each in (0, 0, 0, number, 0, 0, 0, 0)) + bytes(6)
    body += _number(0) + _number(0) + b"\0" + _number(0) + _number(0)  # rowid
    body += _number(0) + b"\0\0" + b"".join(_number(0) for _ in range(6))
    body += _number(number) + _number(rows_done)
    return body + (_text(text.encode()) if number else b"")


def rows(columns: Sequence[str], found: Sequence[Sequence[object]]) -> bytes:
    """Return the answer to a question: columns of text, all rows at once, and that there are no more."""
    body = b"\x10\0" + _number(4000) + _number(len(columns)) + b"\0"
    for place, name in enumerate(columns, 1):
        body += bytes([1, 0, 0, 0]) + _number(4000) + _number(0) + _number(0) + _number(0) + _number(0) + _number(_UTF8)
        body += b"\x01" + _number(4000) + _number(0) + b"\x01" + bytes([len(name)])
        body += _long_text(name.upper().encode()) + _number(0) + _number(0) + _number(place) + _number(0)
    body += b"".join(_number(0) for _ in range(6))
    for row in found:
        body += b"\x06\0" + b"".join(_number(0) for _ in range(6))
        body += b"\x07" + b"".join(_text(b"" if cell is None else str(cell).encode()) for cell in row)
    return body + error(1403, "ORA-01403: no data found", len(found))


@dataclass(kw_only=True)
class Challenge:
    """One login by a 12c verifier: the server proves that it knows the password, and so does the client."""

    password: str
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    key_salt: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    half: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    combined: bytes = b""

    def pairs(self) -> list[tuple[str, str, int]]:
        """Return what the client is told first."""
        return [
            ("AUTH_SESSKEY", _cbc(self._verifier(), self.half).hex().upper(), 0),
            ("AUTH_VFR_DATA", self.salt.hex().upper(), _VERIFIER_12C),
            ("AUTH_PBKDF2_CSK_SALT", self.key_salt.hex().upper(), 0),
            ("AUTH_PBKDF2_VGEN_COUNT", str(_ITERATIONS), 0),
            ("AUTH_PBKDF2_SDER_COUNT", str(_DERIVATIONS), 0),
        ]

    def opened(self, session_key: str, sealed: str) -> str | None:
        """Return the password that the client sent under the key that both made; None when the keys differ."""
        theirs = _cbc(self._verifier(), bytes.fromhex(session_key), decrypts=True)
        halves = (theirs[:32] + self.half).hex().upper().encode()
        self.combined = hashlib.pbkdf2_hmac("sha512", halves, self.key_salt, _DERIVATIONS, 32)
        plain = _cbc(self.combined, bytes.fromhex(sealed), decrypts=True)[16:]
        if not 1 <= plain[-1] <= 16 or set(plain[-plain[-1] :]) != {plain[-1]}:
            return None
        try:
            return plain[: -plain[-1]].decode()
        except UnicodeDecodeError:
            return None

    def proof(self) -> str:
        """Return what proves to the client that the server has the key."""
        return _cbc(self.combined, secrets.token_bytes(16) + b"SERVER_TO_CLIENT").hex().upper()

    def _verifier(self) -> bytes:
        salt = self.salt + b"AUTH_PBKDF2_SPEEDY_KEY"
        key = hashlib.pbkdf2_hmac("sha512", self.password.encode(), salt, _ITERATIONS, 64)
        return hashlib.sha512(key + self.salt).digest()[:32]


def _cbc(key: bytes, data: bytes, *, decrypts: bool = False) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.CBC(bytes(16)))
    return (cipher.decryptor() if decrypts else cipher.encryptor()).update(data)


def _number(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(raw)]) + raw


def _text(raw: bytes) -> bytes:
    if len(raw) < 0xFD:
        return bytes([len(raw)]) + raw
    return bytes([_LONG]) + _number(len(raw)) + raw + _number(0)


def _long_text(raw: bytes) -> bytes:
    return _number(len(raw)) + (_text(raw) if raw else b"")

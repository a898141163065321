"""A login over AMQP 0-9-1, up to the answer that says that the password was taken, and an orderly farewell.

Source: AMQP 0-9-1 specification, "connection" class; RabbitMQ documentation, "Authentication failure notifications".
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
from dataclasses import dataclass

from connectors.base import Deadline
from connectors.rabbitmq.errors import AmqpRefusal, Garbled
from pam_jobs.secret import SecretValue

__all__ = ["Greeting", "greeting_of", "log_in"]

_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD = 1
_END = 0xCE
_LONGEST = 1 << 17
_START, _START_OK, _SECURE, _TUNE, _TUNE_OK, _OPEN, _OPEN_OK, _CLOSE, _CLOSE_OK = 10, 11, 20, 30, 31, 40, 41, 50, 51
_FAREWELL_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a broker says before anybody has logged in."""

    product: str
    version: str
    mechanisms: tuple[str, ...]


class _Frames:
    """Methods of channel 0 over a socket, within a deadline."""

    def __init__(self, raw: socket.socket, deadline: Deadline) -> None:
        self._raw = raw
        self._deadline = deadline

    def send(self, data: bytes) -> None:
        self._bound()
        self._raw.sendall(data)

    def method(self, number: int, arguments: bytes) -> None:
        """Send a method of the class connection."""
        payload = struct.pack("!HH", 10, number) + arguments
        self.send(struct.pack("!BHI", _METHOD, 0, len(payload)) + payload + bytes([_END]))

    def read(self) -> tuple[int, bytes]:
        """Return number and arguments of the next method of the class connection.

        Raises:
            Garbled: it is none.
            OSError: the broker closed the connection, or said nothing in time.
        """
        head = self._exactly(7)
        kind, channel, size = struct.unpack("!BHI", head)
        if head[:4] == b"AMQP" or (kind, channel) != (_METHOD, 0) or not 4 <= size <= _LONGEST:
            raise Garbled
        payload = self._exactly(size + 1)
        class_number, number = struct.unpack("!HH", payload[:4])
        if payload[-1] != _END or class_number != 10:
            raise Garbled
        return number, payload[4:-1]

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            self._bound()
            piece = self._raw.recv(count - len(got))
            if not piece:
                raise ConnectionResetError("the broker closed the connection")
            got += piece
        return got

    def _bound(self) -> None:
        if self._deadline.is_over:
            raise TimeoutError("the broker did not answer in time")
        self._raw.settimeout(self._deadline.remaining())


def greeting_of(host: str, port: int, context: ssl.SSLContext | None, deadline: Deadline) -> Greeting:
    """Return what the broker says when somebody speaks AMQP to it, and leave.

    Raises:
        Garbled: it does not speak AMQP 0-9-1.
        OSError: no connection, or no answer in time.
    """
    with _connected(host, port, context, deadline) as raw:
        return _begun(_Frames(raw, deadline))


def log_in(
    host: str, port: int, context: ssl.SSLContext | None, login: str, password: SecretValue, vhost: str,
    deadline: Deadline,
) -> None:  # fmt: skip
    """Log in, open the virtual host and close again; once the password was taken nothing after it matters.

    Raises:
        AmqpRefusal: the broker ended the login, with 403 for a wrong password.
        Garbled: it does not speak AMQP 0-9-1, or takes no PLAIN.
        OSError: no connection, or no answer in time.
    """
    with _connected(host, port, context, deadline) as raw:
        frames = _Frames(raw, deadline)
        if "PLAIN" not in _begun(frames).mechanisms:
            raise AmqpRefusal(code=503, text="the broker takes no PLAIN login")
        response = f"\0{login}\0{password.reveal()}".encode()
        frames.method(_START_OK, _table(_CAPABILITIES) + _short("PLAIN") + _long(response) + _short("en_US"))
        number, arguments = frames.read()
        if number == _CLOSE:
            raise _refusal(arguments)
        if number != _TUNE or len(arguments) < 8:
            raise AmqpRefusal(code=503, text="the broker asks for more than a password")
        with contextlib.suppress(OSError, Garbled, ValueError):
            _leave(_Frames(raw, Deadline(deadline.remaining(_FAREWELL_SECONDS))), arguments[:6], vhost)


def _begun(frames: _Frames) -> Greeting:
    frames.send(_HEADER)
    number, arguments = frames.read()
    if number != _START or arguments[:2] != b"\x00\x09":
        raise Garbled
    try:
        size = struct.unpack("!I", arguments[2:6])[0]
        properties, rest = arguments[6 : 6 + size], arguments[6 + size :]
        mechanisms = rest[4 : 4 + struct.unpack("!I", rest[:4])[0]].decode("ascii", "replace")
    except struct.error:
        raise Garbled from None
    return Greeting(
        product=_property(properties, b"product"), version=_property(properties, b"version"),
        mechanisms=tuple(mechanisms.split()),
    )  # fmt: skip


def _leave(frames: _Frames, limits: bytes, vhost: str) -> None:
    """Open and close as a client does, so that the broker's log tells of no broken connection."""
    frames.method(_TUNE_OK, limits + struct.pack("!H", 0))
    frames.method(_OPEN, _short(vhost) + _short("") + b"\0")
    number, _ = frames.read()
    if number == _CLOSE:  # no right to the virtual host, or a limit of connections: the password was taken before
        frames.method(_CLOSE_OK, b"")
    elif number == _OPEN_OK:
        frames.method(_CLOSE, struct.pack("!H", 200) + _short("goodbye") + struct.pack("!HH", 0, 0))
        frames.read()


def _refusal(arguments: bytes) -> AmqpRefusal:
    if len(arguments) < 3:
        raise Garbled
    code, length = struct.unpack("!HB", arguments[:3])
    return AmqpRefusal(code=code, text=arguments[3 : 3 + length].decode("utf-8", "replace")[:200])


def _connected(host: str, port: int, context: ssl.SSLContext | None, deadline: Deadline) -> socket.socket:
    raw = socket.create_connection((host, port), timeout=deadline.remaining())
    if context is None:
        return raw
    try:
        raw.settimeout(deadline.remaining())
        return context.wrap_socket(raw, server_hostname=host)
    except BaseException:
        raw.close()
        raise


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data  # a virtual host's name beyond 255 bytes is a ValueError


def _long(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def _table(content: bytes) -> bytes:
    return _long(content)


def _property(properties: bytes, name: bytes) -> str:
    """Return a text of the broker's properties, which are a table: length, name, the letter S, length, text."""
    found = re.search(re.escape(bytes([len(name)]) + name + b"S") + rb"(.{4})", properties, re.DOTALL)
    if found is None:
        return ""
    length = min(struct.unpack("!I", found[1])[0], 100)
    return properties[found.end() : found.end() + length].decode("utf-8", "replace")


_CAPABILITIES = (  # with it the broker names a refused login, in place of closing the connection
    _short("product") + b"S" + _long(b"pam-jobs")
    + _short("capabilities") + b"F" + _table(_short("authentication_failure_close") + b"t\x01")
)  # fmt: skip

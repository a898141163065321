"""The first bytes of MySQL's protocol: enough to recognise a server, which speaks first.

Source: MySQL documentation, "Protocol::HandshakeV10" and "ERR_Packet".
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from connectors.base import Deadline

__all__ = ["Greeting", "read_greeting"]

_CONNECT_SECONDS = 5.0  # a server that greets does so at once; others wait for the client to begin
_LONGEST = 2048
_CLIENT_SSL = 0x0800
_TOO_EARLY = frozenset({1040, 1129, 1130})  # refused before a greeting: too many connections, host blocked or unknown


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a server says of itself."""

    version: str  # empty when it refused before it told
    speaks_tls: bool


def read_greeting(host: str, port: int, deadline: Deadline) -> Greeting:
    """Return what the server says when somebody connects, and leave.

    Raises:
        OSError: it cannot be reached, or says nothing in time.
        ValueError: it does not greet as MySQL does.
    """
    deadline = Deadline(deadline.remaining(_CONNECT_SECONDS))
    with socket.create_connection((host, port), timeout=deadline.remaining()) as raw:
        head = _receive(raw, 4, deadline)
        length = int.from_bytes(head[:3], "little")
        if head[3] != 0 or not 4 <= length <= _LONGEST:
            raise ValueError("no greeting of MySQL")
        return _read(_receive(raw, length, deadline))


def _read(packet: bytes) -> Greeting:
    if packet[0] == 0xFF and int.from_bytes(packet[1:3], "little") in _TOO_EARLY:
        return Greeting(version="", speaks_tls=False)
    version, end, rest = packet[1:].partition(b"\0")
    told = version.decode("ascii", "replace")
    if packet[0] != 10 or not end or len(rest) < 15 or not re.fullmatch(r"[\x21-\x7e]{1,80}", told):
        raise ValueError("no greeting of MySQL")
    capabilities = int.from_bytes(rest[13:15], "little")  # after thread, salt and a filler
    return Greeting(version=told, speaks_tls=bool(capabilities & _CLIENT_SSL))


def _receive(raw: socket.socket, count: int, deadline: Deadline) -> bytes:
    got = b""
    while len(got) < count:
        raw.settimeout(deadline.remaining())
        piece = raw.recv(count - len(got))
        if not piece or deadline.is_over:
            raise ConnectionResetError("the server closed the connection")
        got += piece
    return got

"""The first packets of TDS: enough to recognise a server, which waits for the client to begin.

Source: Microsoft, [MS-TDS] 2.2.6.5 PRELOGIN.
"""

from __future__ import annotations

import socket
import struct

from connectors.base import Deadline

__all__ = ["read_prelogin"]

_CONNECT_SECONDS = 5.0
_PRELOGIN, _ANSWER, _LAST = 0x12, 0x04, 0x01
_VERSION, _ENCRYPTION, _END = 0x00, 0x01, 0xFF
_NOT_SUPPORTED = 0x02
_LONGEST = 4096


def read_prelogin(host: str, port: int, deadline: Deadline) -> tuple[str, bool]:
    """Return the version that the server tells before a login, and whether it speaks TLS; then leave.

    Raises:
        OSError: it cannot be reached, or says nothing in time.
        ValueError: it does not answer as a SQL Server does.
    """
    deadline = Deadline(deadline.remaining(_CONNECT_SECONDS))
    options = struct.pack(">BHHBHHB", _VERSION, 11, 6, _ENCRYPTION, 17, 1, _END)
    body = options + struct.pack(">IH", 0, 0) + b"\0"  # no version of ours; encryption off, as a question
    with socket.create_connection((host, port), timeout=deadline.remaining()) as raw:
        raw.sendall(struct.pack(">BBHHBB", _PRELOGIN, _LAST, len(body) + 8, 0, 1, 0) + body)
        kind, _, length, _, _, _ = struct.unpack(">BBHHBB", _receive(raw, 8, deadline))
        if kind != _ANSWER or not 8 < length <= _LONGEST:
            raise ValueError("no answer of a SQL Server")
        return _read(_receive(raw, length - 8, deadline))


def _read(body: bytes) -> tuple[str, bool]:
    found: dict[int, bytes] = {}
    for position in range(0, len(body) - 4, 5):
        if body[position] == _END:
            break
        token, offset, length = struct.unpack_from(">BHH", body, position)
        found[token] = body[offset : offset + length]
    version = found.get(_VERSION, b"")
    if len(version) < 4:
        raise ValueError("no answer of a SQL Server")
    return f"{version[0]}.{version[1]}.{int.from_bytes(version[2:4], 'big')}", found.get(_ENCRYPTION) != bytes(
        [_NOT_SUPPORTED]
    )


def _receive(raw: socket.socket, count: int, deadline: Deadline) -> bytes:
    got = b""
    while len(got) < count:
        raw.settimeout(deadline.remaining())
        piece = raw.recv(count - len(got))
        if not piece or deadline.is_over:
            raise ConnectionResetError("the server closed the connection")
        got += piece
    return got

"""The first bytes of PostgreSQL's protocol: enough to recognise a server and to ask whether it speaks TLS.

Source: PostgreSQL documentation, "Message Formats" (SSLRequest, StartupMessage).
"""

from __future__ import annotations

import socket
import struct

from connectors.base import Deadline
from connectors.postgresql.errors import ServerRefusal

__all__ = ["CONNECT_SECONDS", "asks_for_tls", "is_postgresql"]

CONNECT_SECONDS = 15.0
_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_PROTOCOL_3 = 196608


def asks_for_tls(host: str, port: int, deadline: Deadline) -> bool:
    """Ask a server whether it speaks TLS, and leave.

    Raises:
        ServerRefusal: nobody answers, or not as PostgreSQL does.
        TimeoutError: no answer in time.
    """
    try:
        with socket.create_connection((host, port), timeout=deadline.remaining(CONNECT_SECONDS)) as raw:
            raw.sendall(_SSL_REQUEST)
            answer = _receive(raw, 1)
    except TimeoutError:
        raise
    except OSError as error:
        raise ServerRefusal(sqlstate=None, severity="FATAL", text=str(error)) from None
    if answer == b"E":  # a server too busy to talk says so here; the login will tell the code
        return False
    if answer not in {b"S", b"N"}:
        raise ServerRefusal(sqlstate=None, severity="FATAL", text="what listens there is not PostgreSQL")
    return answer == b"S"


def is_postgresql(host: str, port: int, deadline: Deadline) -> bool:
    """Say whether the server answers a start-up as PostgreSQL does: it asks for a login, or names an error.

    Raises:
        OSError: it cannot be reached, or closes without an answer.
    """
    body = struct.pack("!I", _PROTOCOL_3) + b"user\0pam-jobs-recognise\0database\0postgres\0\0"
    with socket.create_connection((host, port), timeout=deadline.remaining(CONNECT_SECONDS)) as raw:
        raw.sendall(struct.pack("!I", len(body) + 4) + body)
        answer = _receive(raw, 9)
    kind, length = answer[:1], struct.unpack("!I", answer[1:5])[0]
    asks_for_login = kind == b"R" and 8 <= length <= 2000 and answer[5:8] == b"\0\0\0"
    names_an_error = kind == b"E" and 8 <= length <= 30000 and answer[5:6] == b"S"
    return asks_for_login or names_an_error


def _receive(raw: socket.socket, count: int) -> bytes:
    """Return so many bytes.

    Raises:
        OSError: the other side closed before.
    """
    got = b""
    while len(got) < count:
        piece = raw.recv(count - len(got))
        if not piece:
            raise ConnectionResetError("the server closed the connection")
        got += piece
    return got

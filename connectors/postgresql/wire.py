"""The first bytes of PostgreSQL's protocol: enough to recognise a server, and to ask for TLS or how a login is checked.

Source: PostgreSQL documentation, "Message Formats" (SSLRequest, StartupMessage).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator

from connectors.base import Deadline
from connectors.postgresql.errors import ServerRefusal

__all__ = ["CONNECT_SECONDS", "asks_for_tls", "is_postgresql", "proof_asked"]

CONNECT_SECONDS = 15.0
_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_PROTOCOL_3 = 196608


def asks_for_tls(host: str, port: int, deadline: Deadline) -> bool:
    """Ask a server whether it speaks TLS, and leave.

    Raises:
        ServerRefusal: nobody answers, or not as PostgreSQL does.
        TimeoutError: no answer in time.
    """
    with _connected((host, port), deadline) as raw:
        raw.sendall(_SSL_REQUEST)
        answer = _receive(raw, 1)
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
    with socket.create_connection((host, port), timeout=deadline.remaining(CONNECT_SECONDS)) as raw:
        raw.sendall(_start_up("pam-jobs-recognise", "postgres"))
        answer = _receive(raw, 9)
    kind, length = answer[:1], struct.unpack("!I", answer[1:5])[0]
    asks_for_login = kind == b"R" and 8 <= length <= 2000 and answer[5:8] == b"\0\0\0"
    names_an_error = kind == b"E" and 8 <= length <= 30000 and answer[5:6] == b"S"
    return asks_for_login or names_an_error


def proof_asked(
    place: tuple[str, int], login: str, database: str, tls: ssl.SSLContext | None, deadline: Deadline
) -> int:
    """Begin a login, and leave when the server has said which proof it wants; no secret is sent and none counts as wrong.

    Args:
        place: host and port.
        login: without NUL.
        database: without NUL.
        tls: used where the server speaks it; None asks for none.
        deadline: bounds every wait.

    Returns:
        The number of the authentication request: 0 none, 3 the password itself, 5 MD5, 7 GSSAPI, 9 SSPI, 10 SASL.

    Raises:
        ServerRefusal: the server does not go on with such a login, or nobody answers as PostgreSQL does.
        TimeoutError: no answer in time.
    """
    with _connected(place, deadline) as raw:
        if tls is not None:
            raw.sendall(_SSL_REQUEST)
            if _receive(raw, 1) == b"S":
                with tls.wrap_socket(raw, server_hostname=place[0]) as secured:
                    return _asked(secured, login, database)
        return _asked(raw, login, database)


@contextlib.contextmanager
def _connected(place: tuple[str, int], deadline: Deadline) -> Iterator[socket.socket]:
    """Lend a connection for a few bytes.

    Raises:
        ServerRefusal: it could not be made, or broke.
        TimeoutError: no answer in time.
    """
    try:
        with socket.create_connection(place, timeout=deadline.remaining(CONNECT_SECONDS)) as raw:
            yield raw
    except TimeoutError:
        raise
    except OSError as error:
        raise ServerRefusal(sqlstate=None, severity="FATAL", text=str(error)) from None


def _asked(raw: socket.socket, login: str, database: str) -> int:
    raw.sendall(_start_up(login, database))
    kind, length = struct.unpack("!cI", _receive(raw, 5))
    if kind not in {b"R", b"E"} or not 8 <= length <= 30000:
        raise ServerRefusal(sqlstate=None, severity="FATAL", text="what listens there is not PostgreSQL")
    body = _receive(raw, length - 4)
    if kind == b"R":
        return int(struct.unpack("!I", body[:4])[0])
    told = {field[:1]: field[1:].decode(errors="replace") for field in body.split(b"\0") if field}
    raise ServerRefusal(sqlstate=told.get(b"C"), severity="FATAL", text=told.get(b"M", ""), routine=told.get(b"R", ""))


def _start_up(login: str, database: str) -> bytes:
    body = struct.pack("!I", _PROTOCOL_3) + f"user\0{login}\0database\0{database}\0\0".encode()
    return struct.pack("!I", len(body) + 4) + body


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

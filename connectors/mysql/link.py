"""One connection to a MySQL or MariaDB server through PyMySQL, on which every wait ends at a deadline.

The driver's own limits count each read anew, so a server that trickles would hold it without end; here each read and
write gets what is left of the deadline. TLS is settled by the server's greeting, within the one connection of a login.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pymysql import connections, err
from pymysql.constants import CLIENT, CR

from connectors.base import Deadline
from connectors.mysql.errors import ServerRefusal

__all__ = ["CONNECT_SECONDS", "Link", "Login", "Row"]

Row = tuple[Any, ...]

CONNECT_SECONDS = 15.0
_TEXT_LIMIT = 300  # characters of a server's sentence that are passed on
_SYNTAX = 1064  # its sentence quotes the statement
_PRIVATE_PLUGINS = frozenset({b"mysql_clear_password", b"dialog", b"mysql_old_password"})


@dataclass(frozen=True, kw_only=True)
class Login:
    """Who logs in, and how the way there is protected."""

    host: str
    port: int
    user: str
    password: bytes  # UTF-8; never shown
    context: ssl.SSLContext | None  # None: no TLS
    needs_tls: bool = False  # refuse a server without TLS

    def __repr__(self) -> str:
        return f"Login({self.user!r} at {self.host}:{self.port})"


class _Wire(connections.Connection):  # type: ignore[misc]  # the driver is not typed
    """The driver's connection with one deadline over all of its reads and writes."""

    deadline: Deadline
    asked_plugin = ""  # how the server wanted the password
    is_verified = False  # the server has proven who it is

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """Do nothing: the handshake names the character set, and a login needs no further question."""

    def _read_bytes(self, num_bytes: int) -> bytes:
        got = bytearray()
        while len(got) < num_bytes:
            piece = self._within_deadline(self._rfile.read1, num_bytes - len(got))
            if not piece:
                self._force_close()
                raise err.OperationalError(CR.CR_SERVER_LOST, "the server closed the connection")
            got += piece
        return bytes(got)

    def _write_bytes(self, data: bytes) -> None:
        self._within_deadline(self._sock.sendall, data)

    def _within_deadline(self, action: Callable[..., Any], argument: Any) -> Any:
        if self.deadline.is_over:
            self._force_close()
            raise TimeoutError
        self._sock.settimeout(self.deadline.remaining())
        try:
            return action(argument)
        except BaseException:
            self._force_close()
            raise

    def _process_auth(self, plugin_name: bytes, auth_packet: Any, handler: Any = None) -> Any:
        self.asked_plugin = plugin_name.decode("ascii", "replace")
        if plugin_name in _PRIVATE_PLUGINS and not self.is_verified:
            text = (
                f"the server asks for the password by {self.asked_plugin}, which needs TLS with a verified certificate"
            )
            raise err.OperationalError(CR.CR_AUTH_PLUGIN_CANNOT_LOAD, text)
        return super()._process_auth(plugin_name, auth_packet, handler)


class Link:
    """A logged-in connection; belongs to one thread at a time."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    @classmethod
    def connect(cls, login: Login, deadline: Deadline) -> Link:
        """Log in.

        Args:
            login: who and where.
            deadline: bounds the whole login; looking up the host's name may take longer.

        Raises:
            ServerRefusal: the server refused the login.
            TimeoutError: no answer in time.
            pymysql.err.MySQLError, OSError: no connection, or no TLS where it is demanded.
        """
        wire = _Wire(
            host=login.host, port=login.port, user=login.user, password=login.password, charset="utf8mb4",
            ssl=login.context, ssl_disabled=login.context is None, program_name="pam-jobs", autocommit=None,
            defer_connect=True,
        )  # fmt: skip
        wire.deadline = deadline
        if login.context is not None:
            wire.is_verified = login.context.verify_mode is ssl.CERT_REQUIRED
            if not login.needs_tls:
                wire._ssl_required = False  # noqa: SLF001 - the driver's own way to this builds a context each time
                wire.client_flag &= ~CLIENT.SSL
        try:
            raw = socket.create_connection((login.host, login.port), timeout=deadline.remaining())
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            wire.connect(raw)
        except err.Error as error:
            wire._force_close()  # noqa: SLF001 - without a farewell, which could wait
            if isinstance(getattr(error, "original_exception", None), TimeoutError):
                raise TimeoutError("the server did not answer in time") from None
            raise _refusal(error, wire) or error from None
        except BaseException:
            wire._force_close()  # noqa: SLF001
            raise
        return cls(wire)

    @property
    def is_encrypted(self) -> bool:
        """Say whether the connection is encrypted."""
        return bool(self._wire._secure)  # noqa: SLF001

    @property
    def is_private(self) -> bool:
        """Say whether the connection is encrypted, or never leaves this machine."""
        return self.is_encrypted or self._is_local()

    @property
    def plugin(self) -> str:
        """Return the name of the plugin that checked the password, as the protocol calls it."""
        return self._wire.asked_plugin or str(self._wire._auth_plugin_name)  # noqa: SLF001

    def query(self, statement: str, values: Sequence[object], deadline: Deadline) -> list[Row]:
        """Return the rows of one statement whose ``%s`` are filled in by the driver's own quoting.

        Raises:
            ServerRefusal: the server answered with an error.
            TimeoutError: no answer in time; the link is closed.
            pymysql.err.MySQLError: the connection broke; the link is closed.
        """
        self._wire.deadline = deadline
        with self._closing_on_break(), self._wire.cursor() as cursor:
            cursor.execute(statement, tuple(values) if values else None)
            return list(cursor.fetchall())

    def is_idle(self) -> bool:
        """Say whether the link lives and the server sent nothing unasked."""
        if not self._wire.open:
            return False
        poller = select.poll()
        poller.register(self._wire._sock, select.POLLIN)  # noqa: SLF001
        return not poller.poll(0)  # readable without a question: the end of the connection, or its reason

    def close(self) -> None:
        """End the connection; never raises."""
        self._wire.deadline = Deadline(1.0)
        with contextlib.suppress(Exception):
            self._wire.close()

    @contextlib.contextmanager
    def _closing_on_break(self) -> Iterator[None]:
        """Close the link when an answer is missing: its next answer would belong to another question."""
        try:
            yield
        except err.Error as error:
            refusal = _refusal(error, None)
            if refusal is None:
                self._wire._force_close()  # noqa: SLF001
                raise
            raise refusal from None
        except BaseException:
            self._wire._force_close()  # noqa: SLF001
            raise

    def _is_local(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return str(self._wire._sock.getpeername()[0]) in {"127.0.0.1", "::1"}  # noqa: SLF001
        return False


def _refusal(error: err.Error, wire: _Wire | None) -> ServerRefusal | None:
    """Return the server's answer within the driver's exception; None when the driver failed on its own."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    if code < 1000 or (2000 <= code < 3000 and error.sqlstate is None):
        return None
    text = "" if code == _SYNTAX else str(error.args[1])[:_TEXT_LIMIT] if len(error.args) > 1 else ""
    if wire is None:
        return ServerRefusal(code=code, text=text)
    speaks_tls = bool(getattr(wire, "server_capabilities", 0) & CLIENT.SSL)
    return ServerRefusal(
        code=code,
        text=text,
        plugin=wire.asked_plugin,
        without_tls=speaks_tls and not wire._secure,  # noqa: SLF001
    )

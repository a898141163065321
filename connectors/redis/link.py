"""One connection to a Redis server; every wait ends at a deadline, and nothing is sent that was not asked for.

redis-py would greet, name itself and try again on its own; a rotation has to know of each byte whether it was sent.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl

from connectors.base import Deadline
from connectors.redis.errors import Garbled, ServerRefusal
from connectors.redis.wire import Reply, encoded, read_reply
from pam_jobs.secret import SecretValue

__all__ = ["CONNECT_SECONDS", "Link"]

CONNECT_SECONDS = 10.0
_CHUNK = 65536


class Link:
    """A connection; belongs to one thread at a time."""

    def __init__(self, raw: socket.socket, deadline: Deadline) -> None:
        self._raw: socket.socket | None = raw
        self._deadline = deadline
        self._buffer = bytearray()

    @classmethod
    def connect(cls, host: str, port: int, context: ssl.SSLContext | None, deadline: Deadline) -> Link:
        """Connect, with TLS where there is a context; nobody is logged in.

        Raises:
            OSError: no connection, or no TLS.
        """
        raw = socket.create_connection((host, port), timeout=deadline.remaining())
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if context is not None:
                raw.settimeout(deadline.remaining())
                raw = context.wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise
        return cls(raw, deadline)

    def use(self, deadline: Deadline) -> None:
        """Bound what follows by another deadline."""
        self._deadline = deadline

    def ask(self, *parts: str | bytes) -> Reply:
        """Return the answer to one command.

        Raises:
            ServerRefusal: an error; the command did nothing, and the link goes on.
            Garbled, OSError: no answer; the link is closed, since its next answer would belong to this question.
        """
        raw = self._raw
        if raw is None:
            raise ConnectionResetError("the connection is closed")
        try:
            self._wait(raw)
            raw.sendall(encoded(*parts))
            reply = read_reply(self._line, self._exactly)
        except BaseException:
            self.close()
            raise
        if isinstance(reply, ServerRefusal):
            raise reply
        return reply

    def log_in(self, login: str, password: SecretValue) -> None:
        """Authenticate this connection; before Redis 6 there is the user ``default`` alone, who has no name.

        Raises:
            ServerRefusal: refused.
            Garbled, OSError: no answer.
        """
        try:
            self.ask("AUTH", login, password.reveal())
        except ServerRefusal as refusal:
            if login != "default" or not _is_arity(refusal):
                raise
            self.ask("AUTH", password.reveal())

    def is_idle(self) -> bool:
        """Say whether the link lives and the server sent nothing unasked, such as that it ends."""
        if self._raw is None:
            return False
        poller = select.poll()
        poller.register(self._raw, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """End the connection; never raises."""
        raw, self._raw = self._raw, None
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.close()

    def _wait(self, raw: socket.socket) -> None:
        if self._deadline.is_over:
            raise TimeoutError("the server did not answer in time")
        raw.settimeout(self._deadline.remaining())

    def _more(self) -> None:
        raw = self._raw
        if raw is None:
            raise ConnectionResetError("the connection is closed")
        self._wait(raw)
        data = raw.recv(_CHUNK)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._buffer += data

    def _line(self, longest: int) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > longest:
                raise Garbled
            self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data


def _is_arity(refusal: ServerRefusal) -> bool:
    return "wrong number of arguments" in refusal.text or "syntax error" in refusal.text

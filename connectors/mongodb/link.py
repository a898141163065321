"""One connection to a MongoDB server; every wait ends at a deadline, and every command goes out once.

pymongo's own client watches the server from threads and tries commands again; a rotation has to know what was sent. Its
``bson`` encodes and decodes.

Source: MongoDB documentation, "Wire Protocol" (OP_MSG).
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from collections.abc import Mapping
from typing import Any

import bson

from connectors.base import Deadline
from connectors.mongodb.errors import Garbled, ServerRefusal
from connectors.mongodb.scram import MECHANISMS, Conversation
from pam_jobs.secret import SecretValue

__all__ = ["CONNECT_SECONDS", "Link"]

CONNECT_SECONDS = 10.0
_OP_MSG = 2013
_LONGEST = 48 << 20
_STEPS = 4  # of a login, an empty one at its end included
_FAILED = 18
_TEXT_LIMIT = 300


class Link:
    """A connection; belongs to one thread at a time."""

    def __init__(self, raw: socket.socket, deadline: Deadline) -> None:
        self._raw: socket.socket | None = raw
        self._deadline = deadline
        self._number = 0
        self.is_encrypted = isinstance(raw, ssl.SSLSocket)

    @classmethod
    def connect(cls, host: str, port: int, context: ssl.SSLContext | None, deadline: Deadline) -> Link:
        """Connect, with TLS where there is a context; nobody is logged in.

        Raises:
            OSError: no connection, or no TLS.
        """
        raw = socket.create_connection((host, port), timeout=deadline.remaining())
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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

    def command(self, database: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to one command.

        Raises:
            ServerRefusal: an error.
            Garbled, BSONError, OSError: no answer; the link is closed, since its next one would belong to this command.
        """
        try:
            answer = self._exchange(bson.encode({**content, "$db": database}))
        except BaseException:
            self.close()
            raise
        if not answer.get("ok"):
            code = answer.get("code")
            text = str(answer.get("errmsg") or answer.get("codeName") or "")[:_TEXT_LIMIT]
            raise ServerRefusal(code=code if isinstance(code, int) else 0, text=text)
        return answer

    def hello(self, who: str = "") -> dict[str, Any]:
        """Return what the server says of itself, with the mechanisms of an account ("database.user") when asked.

        Raises:
            ServerRefusal, Garbled, BSONError, OSError: it says nothing.
        """
        more = {"saslSupportedMechs": who} if who else {}
        try:
            return self.command("admin", {"hello": 1, **more})
        except ServerRefusal:  # before MongoDB 4.4.2
            return self.command("admin", {"isMaster": 1, **more})

    def log_in(self, user: str, database: str, password: SecretValue) -> None:
        """Log in by SCRAM, which does not show the password to the server.

        Raises:
            ServerRefusal: refused, with 18 for a wrong password or user.
            Garbled, BSONError, OSError: no answer, or one of a server that does not know the password.
        """
        offered = self.hello(f"{database}.{user}").get("saslSupportedMechs") or ["SCRAM-SHA-256"]
        mechanism = next((name for name in MECHANISMS if name in offered), "SCRAM-SHA-256")
        talk = Conversation(mechanism, user, password)
        start = {"saslStart": 1, "mechanism": mechanism, "payload": talk.first(), "autoAuthorize": 1}
        answer = self.command(database, {**start, "options": {"skipEmptyExchange": True}})
        number = answer.get("conversationId")
        answer = self._continued(database, number, talk.final(_payload(answer)))
        talk.check(_payload(answer))
        for _ in range(_STEPS):
            if answer.get("done"):
                return
            answer = self._continued(database, number, b"")
        raise Garbled

    def is_idle(self) -> bool:
        """Say whether the link lives and the server sent nothing unasked, such as that it ends."""
        if self._raw is None:
            return False
        poller = select.poll()
        poller.register(self._raw, select.POLLIN)
        return not poller.poll(0)

    def is_private(self) -> bool:
        """Say whether the connection is encrypted, or never leaves this machine."""
        if self.is_encrypted or self._raw is None:
            return self.is_encrypted
        with contextlib.suppress(OSError):
            return str(self._raw.getpeername()[0]) in {"127.0.0.1", "::1"}
        return False

    def close(self) -> None:
        """End the connection; never raises."""
        raw, self._raw = self._raw, None
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.close()

    def _continued(self, database: str, number: Any, payload: bytes) -> dict[str, Any]:
        return self.command(database, {"saslContinue": 1, "conversationId": number, "payload": payload})

    def _exchange(self, document: bytes) -> dict[str, Any]:
        raw = self._raw
        if raw is None:
            raise ConnectionResetError("the connection is closed")
        self._number += 1
        body = struct.pack("<IB", 0, 0) + document
        self._bound(raw)
        raw.sendall(struct.pack("<iiii", 16 + len(body), self._number, 0, _OP_MSG) + body)
        length, _, answered, code = struct.unpack("<iiii", self._exactly(raw, 16))
        if not 26 <= length <= _LONGEST or code != _OP_MSG or answered != self._number:
            raise Garbled
        content = self._exactly(raw, length - 16)
        if content[4] != 0:
            raise Garbled
        size = struct.unpack("<i", content[5:9])[0]
        return dict(bson.decode(content[5 : 5 + size]))

    def _exactly(self, raw: socket.socket, count: int) -> bytes:
        got = bytearray()
        while len(got) < count:
            self._bound(raw)
            piece = raw.recv(min(count - len(got), 1 << 20))
            if not piece:
                raise ConnectionResetError("the server closed the connection")
            got += piece
        return bytes(got)

    def _bound(self, raw: socket.socket) -> None:
        if self._deadline.is_over:
            raise TimeoutError("the server did not answer in time")
        raw.settimeout(self._deadline.remaining())


def _payload(answer: Mapping[str, Any]) -> bytes:
    payload = answer.get("payload")
    if not isinstance(payload, bytes):
        raise Garbled
    return payload

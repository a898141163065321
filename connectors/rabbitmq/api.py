"""One connection to RabbitMQ's management API: each request goes out once, within a deadline."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import secrets
import select
import socket
import ssl
from typing import Any
from urllib.parse import quote

from connectors.base import Credential, Deadline
from connectors.rabbitmq.errors import ApiRefusal, Garbled
from pam_jobs.secret import SecretValue

__all__ = ["HASHES", "Api", "password_hash", "speaks_tls"]

CONNECT_SECONDS = 10.0
_HANDSHAKE_SECONDS = 3.0
_LONGEST = 16 << 20
_CHUNK = 65536
_SALT_BYTES = 4

HASHES = {"rabbit_password_hashing_sha256": "sha256", "rabbit_password_hashing_sha512": "sha512"}
"""Names of the broker's hashes, and their algorithm."""


def password_hash(password: SecretValue, algorithm: str) -> str:
    """Return what the broker keeps of a password: salt and digest of salt and password, in base64.

    Source: RabbitMQ documentation, "Access control: computing password hash".

    Args:
        password: UTF-8.
        algorithm: a name of ``HASHES``.
    """
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.new(HASHES[algorithm], salt + password.reveal().encode()).digest()
    return base64.b64encode(salt + digest).decode()


def speaks_tls(host: str, port: int, deadline: Deadline) -> bool:
    """Say whether the port speaks TLS.

    Raises:
        OSError: nobody answers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    seconds = deadline.remaining(_HANDSHAKE_SECONDS)
    with socket.create_connection((host, port), timeout=seconds) as raw:
        try:
            context.wrap_socket(raw, server_hostname=host).close()
        except ssl.SSLEOFError:
            raise ConnectionResetError("the broker closed the connection") from None
        except ssl.SSLError:
            return False
    return True


class Api:
    """A connection on which every request carries the credential; belongs to one thread at a time."""

    def __init__(self, connection: http.client.HTTPConnection, credential: Credential, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        password = credential.password.reveal() if credential.password else ""
        self._is_somebody = bool(credential.login)
        pair = base64.b64encode(f"{credential.login}:{password}".encode()).decode()
        self._authorization = SecretValue(f"Basic {pair}")

    @classmethod
    def connect(
        cls, host: str, port: int, context: ssl.SSLContext | None, credential: Credential, deadline: Deadline
    ) -> Api:
        """Connect; nothing is asked yet.

        Raises:
            OSError: no connection, or no TLS.
        """
        raw = socket.create_connection((host, port), timeout=deadline.remaining(CONNECT_SECONDS))
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                raw = context.wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise
        connection = http.client.HTTPConnection(host, port)
        connection.sock = raw
        connection.auto_open = 0  # a request never goes out on a connection that nobody decided to make
        return cls(connection, credential, deadline)

    def use(self, deadline: Deadline) -> None:
        """Bound what follows by another deadline."""
        self._deadline = deadline

    def get(self, *path: str) -> Any:
        """Return what the API tells of a thing.

        Raises:
            ApiRefusal: an error, as 404 where there is no such thing.
            Garbled, OSError, http.client.HTTPException: no answer; the connection is closed.
        """
        return self._ask("GET", path, None)

    def put(self, *path: str, content: dict[str, str]) -> None:
        """Set a thing.

        Raises:
            ApiRefusal: an error.
            Garbled, OSError, http.client.HTTPException: no answer; the connection is closed.
        """
        self._ask("PUT", path, content)

    def is_idle(self) -> bool:
        """Say whether the connection lives and the server sent nothing unasked, such as that it ends."""
        raw = self._connection.sock
        if raw is None:
            return False
        poller = select.poll()
        poller.register(raw, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """End the connection; never raises."""
        with contextlib.suppress(Exception):
            self._connection.close()

    def _ask(self, method: str, path: tuple[str, ...], content: dict[str, str] | None) -> Any:
        try:
            self._bound()
            headers = {"Content-Type": "application/json"}
            if self._is_somebody:
                headers["Authorization"] = self._authorization.reveal()
            body = None if content is None else json.dumps(content).encode()
            self._connection.request(method, "/api/" + "/".join(quote(part, safe="") for part in path), body, headers)
            self._bound()
            answer = self._connection.getresponse()
            text = self._read(answer)
        except http.client.NotConnected:
            raise ConnectionResetError("the connection is closed") from None
        except BaseException:
            self.close()
            raise
        if not 200 <= answer.status < 300:
            raise ApiRefusal(status=answer.status, reason=_reason(text))
        return _document(text) if method == "GET" else None

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        got = bytearray()
        while piece := answer.read1(_CHUNK):
            got += piece
            if len(got) > _LONGEST:
                raise Garbled
            self._bound()
        answer.close()  # read1() leaves it open at its end, and the connection would count as busy
        return bytes(got)

    def _bound(self) -> None:
        if self._deadline.is_over:
            raise TimeoutError("the broker did not answer in time")
        if self._connection.sock is not None:
            self._connection.sock.settimeout(self._deadline.remaining())


def _document(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise Garbled from None


def _reason(text: bytes) -> str:
    """Return the API's sentence where it is one; a list would repeat what was sent."""
    with contextlib.suppress(ValueError):
        told = json.loads(text)
        reason = told.get("reason") if isinstance(told, dict) else None
        return reason[:200] if isinstance(reason, str) else ""
    return ""

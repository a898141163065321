"""Short calls to one server over kept TLS connections.

A gateway calls four times for each rotation, and a general client costs it more than all else that it does for them. What
is needed is little: one server, one kind of request, a certificate that is checked, and the truth about what was sent.
Errors are those of ``httpx``, which takes over where a proxy stands between.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from pam_jobs import __version__

__all__ = ["Answer", "Https", "KeptHttps", "Said", "make_https"]

_PORT: Final = 443
_IDLE_SECONDS: Final = 30.0  # less than the router keeps an idle connection: a call must not meet its end
_LARGEST_ANSWER: Final = 128 * 2**20  # bytes


class Said(Protocol):
    """What a server answered."""

    @property
    def status_code(self) -> int:
        """The status."""

    @property
    def content(self) -> bytes:
        """The body."""

    @property
    def is_success(self) -> bool:
        """Whether the status says that it was done."""

    def json(self) -> Any:
        """Return the body as JSON; ValueError when it is none."""


class Https(Protocol):
    """A client of one server; shared between threads."""

    def post(self, url: str, /, *, content: bytes, headers: Mapping[str, str]) -> Said:
        """Post the content; httpx.TransportError when there is no answer."""

    def close(self) -> None:
        """Close the kept connections."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer, whole."""

    status_code: int
    content: bytes

    @property
    def is_success(self) -> bool:
        """Say whether the server did it."""
        return 200 <= self.status_code < 300

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.content)


class KeptHttps:
    """Calls one server directly."""

    def __init__(self, host: str, context: ssl.SSLContext, *, connect_seconds: float, answer_seconds: float) -> None:
        """Prepare, without connecting.

        Args:
            host: name, perhaps with a port.
            context: checks the certificate and its name.
            connect_seconds: bounds connecting and the TLS handshake, each.
            answer_seconds: bounds each wait for the server after that.
        """
        place = urlsplit(f"https://{host}")
        self._place = (place.hostname or "", place.port or _PORT)
        self._head = f"Host: {host}\r\nUser-Agent: pam-jobs/{__version__}\r\nAccept: */*\r\n".encode()
        self._context = context
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._idle: deque[tuple[ssl.SSLSocket, float]] = deque()  # the one used last is taken first

    def post(self, url: str, /, *, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Post the content and return the answer.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: nothing was sent.
            httpx.TransportError: the server may have got it.
        """
        own = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"POST {quote(url)} HTTP/1.1\r\n".encode() + self._head + own.encode()
        request += b"Content-Length: %d\r\n\r\n" % len(content) + content
        connection = self._taken() or self._connected()
        is_kept = False
        try:
            connection.sendall(request)
            answer, is_kept = _answer(connection)
        except TimeoutError as error:
            raise httpx.ReadTimeout("no answer in time") from error
        except (OSError, ValueError) as error:
            raise httpx.ReadError(type(error).__name__) from error
        except HTTPException as error:
            raise httpx.RemoteProtocolError(type(error).__name__) from error
        finally:
            if is_kept:
                self._idle.append((connection, time.monotonic()))
            else:
                connection.close()
        return answer

    def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            self._idle.pop()[0].close()

    def _taken(self) -> ssl.SSLSocket | None:
        """Return a kept connection on which the server has said nothing since, not even goodbye."""
        while True:
            try:
                connection, since = self._idle.pop()
            except IndexError:
                return None
            if time.monotonic() - since < _IDLE_SECONDS and not _is_readable(connection):
                return connection
            connection.close()

    def _connected(self) -> ssl.SSLSocket:
        plain = None
        try:
            plain = socket.create_connection(self._place, self._connect_seconds)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._context.wrap_socket(plain, server_hostname=self._place[0])
        except TimeoutError as error:
            _close(plain)
            raise httpx.ConnectTimeout("not connected in time") from error
        except (OSError, ValueError) as error:
            _close(plain)
            raise httpx.ConnectError(type(error).__name__) from error
        connection.settimeout(self._answer_seconds)
        return connection


def make_https(host: str, context: ssl.SSLContext, *, connect_seconds: float, answer_seconds: float) -> Https:
    """Return a client of the server: directly, or through the proxy that the environment names.

    Args:
        host: name, perhaps with a port.
        context: checks the certificate and its name.
        connect_seconds: bounds connecting.
        answer_seconds: bounds each wait for the server after that.
    """
    name = urlsplit(f"https://{host}").hostname or ""
    proxies = getproxies()
    if ("https" in proxies or "all" in proxies) and not proxy_bypass(name):
        timeout = httpx.Timeout(answer_seconds, connect=connect_seconds)
        return httpx.Client(base_url=f"https://{host}", verify=context, timeout=timeout)
    return KeptHttps(host, context, connect_seconds=connect_seconds, answer_seconds=answer_seconds)


def _answer(connection: ssl.SSLSocket) -> tuple[Answer, bool]:
    """Return the answer, and whether the connection may be used again."""
    with HTTPResponse(connection, method="POST") as response:
        response.begin()
        if response.length is not None and response.length > _LARGEST_ANSWER:
            raise HTTPException("the answer is too large")
        content = response.read()  # raises where the connection ended before the announced length
        return Answer(status_code=response.status, content=content), not response.will_close


def _is_readable(connection: ssl.SSLSocket) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(0))


def _close(plain: socket.socket | None) -> None:
    if plain is not None:
        plain.close()

"""HTTPS for plugins: every wait ends at the deadline, and every failure says what became of the account."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from connectors.base import Deadline
from connectors.saas.plugin import SaasConfig
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    ConnectionLost,
    EffectUnknown,
    Forbidden,
    InvalidInput,
    NotApplied,
    TargetError,
    TimedOutAfterSend,
    Unreachable,
    Unsupported,
)

__all__ = ["Answer", "Web", "checked_url", "map_error", "refusal_of"]

_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 30.0
_MOST_BYTES: Final = 1 << 20  # of an answer
_BEFORE_SENDING: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
_REFUSALS: Final[Mapping[int, tuple[type[NotApplied], str, str]]] = {
    401: (AuthRejected, "the service refuses the plugin's own credential", "correct the SaaS configuration"),
    403: (Forbidden, "the plugin's own credential may not do this", "give it the right to, or use another"),
    404: (
        Unsupported,
        "the service does not know the account or the address",
        "correct the record's login or the SaaS configuration",
    ),
}
_AGAIN: Final = frozenset({408, 425, 429, 502, 503})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a service answered."""

    status: int
    content: bytes

    @property
    def is_ok(self) -> bool:
        """Say whether the service did what it was asked."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return the document; None when it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None

    def text(self, *path: str | int) -> str:
        """Return the text at a place of the document; "" when there is none."""
        found = self.json()
        for step in path:
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                return ""
        return found if isinstance(found, str) else ""


class Web:
    """Requests to one service; nothing is followed elsewhere, since tokens travel in the headers."""

    def __init__(
        self, base: str, config: SaasConfig, deadline: Deadline, *, headers: Mapping[str, str] | None = None,
        verify: bool = True,
    ) -> None:  # fmt: skip
        """Prepare; nothing is sent.

        Args:
            base: the service's address.
            config: names the CA file.
            deadline: every wait ends there.
            headers: of every request.
            verify: check the service's certificate.

        Raises:
            InvalidInput: the address cannot be used, or the CA file not be read.
        """
        self._base = checked_url(base)
        self._deadline = deadline
        self._client = httpx.Client(
            verify=_context(self._base, config.ca_file, verify=verify), headers=dict(headers or {}), follow_redirects=False,
            trust_env=False,
        )  # fmt: skip

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, method: str, path: str, *, changes: bool = False, **options: Any) -> Answer:
        """Send one request and return the answer, whatever its status.

        Args:
            method: of HTTP.
            path: below the service's address.
            changes: the request changes something: what goes wrong once it was sent leaves that unknown.
            **options: of httpx: ``json``, ``params``, ``auth``, ``headers``.

        Raises:
            Unreachable: nothing was sent, or nothing was changed by it.
            EffectUnknown: it was sent, and no answer came; only with ``changes``.
        """
        self._deadline.check("a request to the service")
        timeout = httpx.Timeout(
            self._deadline.remaining(_READ_SECONDS), connect=self._deadline.remaining(_CONNECT_SECONDS)
        )
        try:
            with self._client.stream(method, self._base + path, timeout=timeout, **options) as response:
                return Answer(status=response.status_code, content=self._read(response))
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise map_error(error, sent=changes) from error

    def _read(self, response: httpx.Response) -> bytes:
        content = b""
        for part in response.iter_bytes():
            content += part
            if len(content) > _MOST_BYTES:
                raise httpx.ReadError("the answer is too long")
            if self._deadline.is_over:
                raise httpx.ReadTimeout("the answer is too slow")
        return content


def map_error(error: Exception, *, sent: bool) -> TargetError:
    """Return what a failure of the HTTP client means.

    Args:
        error: of httpx.
        sent: a request that changes something may have reached the service.
    """
    name = type(error).__name__
    if not sent or isinstance(error, (*_BEFORE_SENDING, httpx.InvalidURL)):
        return Unreachable(
            f"the service cannot be reached ({name})",
            remedy="look at its address, its certificate and the way from the gateway to it",
        )
    if isinstance(error, httpx.TimeoutException):
        return TimedOutAfterSend("the service did not answer in time")
    return ConnectionLost(f"the connection to the service ended before it answered ({name})")


def refusal_of(answer: Answer, told: str = "", *, sent: bool = True) -> NotApplied | EffectUnknown:
    """Return what an answer other than success means for a request that was to change something.

    Args:
        answer: of the service.
        told: code of the service, which holds no value; shown to the operator.
        sent: the request was one that changes something.
    """
    shown = f"HTTP {answer.status}{f', {told}' if told else ''}"
    if answer.status in _REFUSALS:
        kind, said, remedy = _REFUSALS[answer.status]
        return kind(f"{said} ({shown})", remedy=remedy)
    if answer.status in _AGAIN:
        return Unreachable(f"the service cannot be asked now ({shown})", remedy="it is tried again later")
    if 400 <= answer.status < 500:
        return NotApplied(f"the service refused the request ({shown})", remedy="look at the plugin's configuration")
    if not sent:
        return Unreachable(f"the service failed ({shown})", remedy="it is tried again later")
    return AmbiguousReply(f"the service failed after it got the request ({shown})")


def checked_url(text: str) -> str:
    """Return an address without a slash at its end.

    Raises:
        InvalidInput: it is none, holds a name or password, or would send secrets in the clear.
    """
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or parts.scheme not in {"http", "https"} or parts.username or parts.fragment or port == 0:
        raise InvalidInput(
            "the service's address cannot be used", remedy="write it as https://host[:port][/path], without a login"
        )
    if parts.scheme == "http" and not _is_loopback(host):
        raise InvalidInput("the service's address would send secrets in the clear", remedy="use https://")
    return text.strip().rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _context(base: str, ca_file: str | None, *, verify: bool) -> ssl.SSLContext | bool:
    if base.startswith("http://"):
        return False
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"the CA file of the service cannot be read ({type(error).__name__})",
            remedy="name a PEM file on the gateway in the custom field 'CA File'",
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

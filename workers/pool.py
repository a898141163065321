"""Connections to the router: kept, with its certificate checked, through the proxy that the environment names.

No request is repeated here: whether that is safe is for ``workers.router`` to decide.
"""

from __future__ import annotations

import ssl
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import unquote, urlsplit

import urllib3
from requests.utils import get_environ_proxies, select_proxy
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProtocolError, URLSchemeUnknown

from pam_jobs import __version__
from pam_jobs.errors import ConfigurationError

__all__ = ["make_pool", "post"]

_PORT: Final = 443
_KEPT: Final = 64  # idle connections; each thread uses one at a time
_IDLE_SECONDS: Final = 30.0  # less than the router keeps an idle connection: a call must not meet its end
_LARGEST_ANSWER: Final = 128 * 2**20  # bytes


class _Connection(HTTPSConnection):
    """Fails to connect with one kind of error, so that whatever else fails may have reached the router."""

    _used_at = 0.0

    def connect(self) -> None:
        """Connect, through the proxy where there is one, and shake hands.

        Raises:
            ConnectTimeoutError: or its subclass NewConnectionError; nothing was sent.
        """
        try:
            super().connect()
        except ConnectTimeoutError:
            raise
        except (OSError, ValueError, HTTPException, HTTPError) as error:
            self.close()
            raise NewConnectionError(self, type(error).__name__) from error
        self._used_at = time.monotonic()

    def getresponse(self) -> Any:
        """Return the answer's beginning."""
        self._used_at = time.monotonic()
        return super().getresponse()

    @property
    def is_connected(self) -> bool:
        """Say whether the connection may be used: not for long idle, and the router has not even said goodbye."""
        return time.monotonic() - self._used_at < _IDLE_SECONDS and super().is_connected


class _Pool(HTTPSConnectionPool):
    ConnectionCls: ClassVar[type[_Connection]] = _Connection  # type: ignore[misc] # a class attribute there too


def make_pool(host: str, ca_file: Path | None, *, connect_seconds: float, answer_seconds: float) -> HTTPSConnectionPool:
    """Return the connections to a server, directly or through the proxy that the environment names; nothing is sent.

    Args:
        host: name, perhaps with a port.
        ca_file: the authority of the server's certificate; None: the system's.
        connect_seconds: bounds connecting and the TLS handshake, each.
        answer_seconds: bounds each wait for the server after that.

    Raises:
        ConfigurationError: the authority's file cannot be read, or the proxy is of a kind that is not known.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:
        raise ConfigurationError(
            f"the CA file {ca_file} cannot be read ({error.strerror or type(error).__name__})",
            remedy="set PAM_CA_FILE to the router's ca.pem",
        ) from None
    place = urlsplit(f"https://{host}")
    name, port = place.hostname or "", place.port or _PORT
    options: dict[str, Any] = {
        "maxsize": _KEPT,
        "timeout": urllib3.Timeout(connect=connect_seconds, read=answer_seconds),
        "retries": False,
        "ssl_context": context,
        "headers": {"User-Agent": f"pam-jobs/{__version__}"},
    }
    proxy = select_proxy(place.geturl(), get_environ_proxies(place.geturl()))
    if not proxy:
        return _Pool(name, port, **options)
    secret = urlsplit(proxy).netloc.rpartition("@")[0]
    headers = urllib3.make_headers(proxy_basic_auth=unquote(secret)) if secret else None
    try:
        manager = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
    except URLSchemeUnknown:
        raise ConfigurationError(
            "the proxy that the environment names is neither an HTTP nor an HTTPS one",
            remedy="correct HTTPS_PROXY, or name the router in NO_PROXY",
        ) from None
    manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme, "https": _Pool}
    pool = manager.connection_from_host(name, port, "https")
    assert isinstance(pool, HTTPSConnectionPool)  # noqa: S101 - of the scheme
    return pool


def post(pool: HTTPSConnectionPool, path: str, content: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Post the content once, and return the answer's status and body; a redirection is an answer like any other.

    Raises:
        ConnectTimeoutError: nothing was sent.
        HTTPError: any other one of urllib3: the server may have got it.
    """
    answer = pool.urlopen(
        "POST", path, body=content, headers={**pool.headers, **headers}, retries=False, redirect=False,
        preload_content=False, decode_content=False,
    )  # fmt: skip
    try:
        if int(answer.headers.get("content-length") or 0) > _LARGEST_ANSWER:
            raise ProtocolError("the answer is too large")
        return answer.status, answer.read()
    except ValueError as error:
        raise ProtocolError("the answer's length is no number") from error
    finally:
        answer.close()  # one that was read to its end has given its connection back

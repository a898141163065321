"""HTTPS to the router: JSON in and out, problem documents become our errors."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx

from pam_jobs import __version__, errors

__all__ = ["RouterClient"]

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 60.0


def _by_code() -> dict[str, type[errors.PamJobsError]]:
    found: dict[str, type[errors.PamJobsError]] = {}
    todo: list[type[errors.PamJobsError]] = [errors.PamJobsError]
    while todo:
        kind = todo.pop()
        found.setdefault(kind.code, kind)  # a subclass elsewhere may share its parent's code
        todo += kind.__subclasses__()
    return found


class RouterClient:
    """A connection to one router; every failure is one of ours, with a remedy."""

    def __init__(
        self,
        router: str,
        *,
        ca: Path | None = None,
        token: Callable[[], str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare the connection; nothing is sent yet.

        Args:
            router: ``https://host:port``.
            ca: certificate authority of the router; None takes the system's.
            token: makes the bearer token of a request; None sends none.
            transport: replaces the network, for a router in the same process.

        Raises:
            ConfigurationError: the address is not https, or the CA cannot be read.
        """
        if not router.startswith("https://"):
            raise errors.ConfigurationError(
                f"{router!r} is not the address of a router", remedy="give https://HOST:PORT"
            )
        self.router = router
        self._token = token
        timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
        self._client = httpx.Client(
            base_url=router,
            verify=_context(ca),
            timeout=timeout,
            transport=transport,
            trust_env=False,
            headers={"User-Agent": f"pam-jobs/{__version__}"},
        )

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of a GET; parameters that are None are left out."""
        return self.request("GET", path, params=params)

    def post(self, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> Any:
        """Return the JSON answer of a POST."""
        return self.request("POST", path, body=body, headers=headers)

    def put(self, path: str, body: Any = None) -> Any:
        """Return the JSON answer of a PUT."""
        return self.request("PUT", path, body=body)

    def patch(self, path: str, body: Any = None) -> Any:
        """Return the JSON answer of a PATCH."""
        return self.request("PATCH", path, body=body)

    def delete(self, path: str, **params: Any) -> Any:
        """Return the JSON answer of a DELETE, None where it is empty."""
        return self.request("DELETE", path, params=params)

    def content(self, path: str) -> bytes:
        """Return the bytes of a GET."""
        return self._send("GET", path, None, None, None).content

    def request(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Return the JSON answer, None where it is empty.

        Raises:
            VaultUnavailable: the router cannot be reached or does not answer in time.
            PamJobsError: the router refused; the class follows the problem's code.
        """
        answer = self._send(method, path, params, body, headers)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError:
            raise errors.VaultUnavailable(
                f"{self.router} did not answer as a router", remedy="check the address"
            ) from None

    def events(self, path: str, *, idle_seconds: float = 30.0) -> Iterator[Any]:
        """Yield the data of server-sent events until the stream ends or is silent for that long."""
        try:
            with self._client.stream(
                "GET", path, headers=self._headers(None), timeout=httpx.Timeout(idle_seconds, connect=_CONNECT_SECONDS)
            ) as answer:
                if answer.is_error:
                    answer.read()
                    self._raise(answer)
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line[5:])
        except httpx.ReadTimeout:
            return
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _headers(self, more: dict[str, str] | None) -> dict[str, str]:
        headers = dict(more or {})
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token()}"
        return headers

    def _send(
        self, method: str, path: str, params: dict[str, Any] | None, body: Any, headers: dict[str, str] | None
    ) -> httpx.Response:
        wanted = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            answer = self._client.request(method, path, params=wanted, json=body, headers=self._headers(headers))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if answer.is_error:
            self._raise(answer)
        return answer

    def _unreachable(self, error: httpx.HTTPError) -> errors.VaultUnavailable:
        text = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return errors.VaultUnavailable(
                f"the certificate of {self.router} is not signed by a CA that is trusted here",
                remedy="name its CA file by PAM_CA or `pam login --ca`",
            )
        if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
            return errors.VaultUnavailable(
                f"the router {self.router} does not answer in time", remedy="look at its log, then try again"
            )
        return errors.VaultUnavailable(
            f"the router {self.router} cannot be reached",
            remedy="start it with `pam up`, or name another one by PAM_ROUTER",
        )

    def _raise(self, answer: httpx.Response) -> None:
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        if not isinstance(problem, dict):
            problem = {}
        detail = str(problem.get("detail") or f"the router answered {answer.status_code}")
        remedy = problem.get("remedy")
        kind = _by_code().get(str(problem.get("code")), errors.PamJobsError)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            kind, remedy = errors.AccessDenied, remedy or "sign in with `pam login`"
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR and not remedy:
            remedy = "look at the router's log"
        raise kind(detail, remedy=str(remedy) if remedy else None)


def _context(ca: Path | None) -> ssl.SSLContext:
    if ca is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError):
        raise errors.ConfigurationError(
            f"the CA file {ca} cannot be read", remedy="name the router's ca.pem by PAM_CA or `pam login --ca`"
        ) from None

"""How much a request may carry, and how it shows in the log."""

from __future__ import annotations

import contextlib
import time
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pam_jobs.api.problems import problem

__all__ = [
    "BODY_BYTES",
    "DRAIN_BYTES",
    "AccessLog",
    "BodyLimit",
    "access_line",
    "body_limit",
    "drain",
    "shown_path",
    "too_large",
]

BODY_BYTES: Final = 8 * 2**20
"""Largest body of a request that carries no file."""

DRAIN_BYTES: Final = 64 * 2**20
"""How much of a refused body is still read, and thrown away, before the answer."""

_CAPABILITY_PREFIX = "/api/files/"
_log = structlog.get_logger("router.access")
_SILENT = frozenset({"/healthz", "/readyz", "/metrics"})


class _TooLarge(Exception):
    """The body has more bytes than it may."""


class BodyLimit:
    """Answers 413 as soon as a body is known to be too large: by its announced length, else while it comes in."""

    def __init__(self, app: ASGIApp, *, file_bytes: int) -> None:
        """Wrap the application.

        Args:
            app: what is called.
            file_bytes: largest file; requests that carry one may be that large in base64, with room for the rest.
        """
        self._app = app
        self._file_bytes = file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what it carries."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = body_limit(scope["path"], self._file_bytes)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > limit:
            await drain(receive)
            await too_large(limit)(scope, receive, send)
            return
        seen = 0
        is_whole = has_started = False

        async def counted() -> Message:
            nonlocal seen, is_whole
            message = await receive()
            seen += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if seen > limit:
                raise _TooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal has_started
            if seen > limit and not has_started:
                return  # the application makes an answer of its own out of our exception; ours says what happened
            has_started = True
            await send(message)

        with contextlib.suppress(_TooLarge):
            await self._app(scope, counted, noted)
        if seen > limit and not has_started:
            if not is_whole:
                await drain(receive)
            await too_large(limit)(scope, receive, send)


def too_large(limit: int) -> Response:
    """Return the refusal of a body with more bytes than it may have; the connection ends with it."""
    answer = problem(413, "too_large", f"the request is larger than {limit} bytes", "send less at a time")
    answer.headers["Connection"] = "close"
    return answer


async def drain(receive: Receive) -> None:
    """Read on, for a peer that is still sending would lose the answer with the connection."""
    left = DRAIN_BYTES
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def body_limit(path: str, file_bytes: int) -> int:
    """Return the most bytes of a request's body: room for a file in base64 where the path may carry one."""
    may_carry_file = path.startswith((_CAPABILITY_PREFIX, "/api/device/")) or path.endswith("/files")
    return file_bytes * 4 // 3 + BODY_BYTES if may_carry_file else BODY_BYTES


def shown_path(path: str) -> str:
    """Return the path as the log shows it: a capability address without its token, never a query string."""
    if path.startswith(_CAPABILITY_PREFIX):
        return _CAPABILITY_PREFIX + "***"
    return path


def access_line(scope: Scope, status: int, seconds: float) -> None:
    """Write the line of a request."""
    client = scope.get("client")
    _log.info(
        "request",
        method=scope["method"],
        path=shown_path(scope["path"]),
        status=int(status),
        milliseconds=round(seconds * 1000, 1),
        remote=client[0] if client else None,
    )


class AccessLog:
    """One line a request: method, path, status, milliseconds. No query, header or body, for they carry tokens."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and write the line when its answer begins."""
        if scope["type"] != "http" or scope["path"] in _SILENT:
            await self._app(scope, receive, send)
            return
        start = time.monotonic()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                access_line(scope, message["status"], time.monotonic() - start)
            await send(message)

        await self._app(scope, receive, noted)

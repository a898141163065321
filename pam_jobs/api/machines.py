"""Requests of machines, answered before any other layer: what gateways and the vendor's SDKs call for every rotation.

The general way of a request (the framework's layers, its table of routes, dependencies, a pool of threads with limits)
costs several times what such a call does. Here it takes one table, one hop to a thread and two messages.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pam_jobs.api import device, ksm
from pam_jobs.api.limits import access_line, body_limit, drain, too_large
from pam_jobs.api.problems import answer_to
from pam_jobs.errors import PamJobsError

__all__ = ["MachineCalls"]

_THREADS: Final = 16
_SLOW_SECONDS: Final = 1.0
_FIRST_REFUSAL: Final = 400

_Serve = Callable[[Request, bytes, ThreadPoolExecutor], Awaitable[Response]]
_TABLE: Final[tuple[tuple[str, _Serve], ...]] = ((device.calls.prefix, device.calls.serve), (ksm.PREFIX, ksm.serve))


class MachineCalls:
    """Answers the POST requests below certain paths and passes on every other.

    A request has a line in the log only when it was refused or slow: what was done is in the audit log.
    """

    def __init__(self, app: ASGIApp, *, file_bytes: int) -> None:
        """Wrap the application.

        Args:
            app: what all other requests go to.
            file_bytes: largest file, which a discovery's result may be as well.
        """
        self._app = app
        self._file_bytes = file_bytes
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="machines")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        if scope["type"] == "http" and scope["method"] == "POST":
            for prefix, serve in _TABLE:
                if scope["path"].startswith(prefix):
                    await self._answer(serve, scope, receive, send)
                    return
        await self._app(scope, receive, send)

    async def _answer(self, serve: _Serve, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.monotonic()
        try:
            response = await self._response(serve, scope, receive)
        except ClientDisconnect:
            return
        took = time.monotonic() - start
        if response.status_code >= _FIRST_REFUSAL or took > _SLOW_SECONDS:
            access_line(scope, response.status_code, took)
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _response(self, serve: _Serve, scope: Scope, receive: Receive) -> Response:
        limit = body_limit(scope["path"], self._file_bytes)
        body = await _body(scope, receive, limit)
        if body is None:
            return too_large(limit)
        try:
            return await serve(Request(scope), body, self._threads)
        except (PamJobsError, RequestValidationError, HTTPException) as error:
            return answer_to(error)


async def _body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """Return the body; None when it is larger than it may be, and then the rest of it was read and thrown away.

    Raises:
        ClientDisconnect: the client went away before it had sent all of it.
    """
    announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if not announced.isdigit() or int(announced) > limit:
        await drain(receive)
        return None
    body = b""
    is_whole = False
    while not is_whole:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        is_whole = not message.get("more_body", False)
        if len(body) > limit:
            if not is_whole:
                await drain(receive)
            return None
    return body

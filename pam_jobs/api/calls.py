"""Calls of machines: JSON in, JSON out, one hop to a thread.

A gateway calls four times for each rotation. The general way of a route (dependencies, conversions and an answer that
goes through a second thread) costs several times what such a call does; these calls need none of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Calls"]

Desk = TypeVar("Desk")
_Handler = TypeVar("_Handler", bound=Callable[..., BaseModel | None])
_UID = "{uid}"


@dataclass(frozen=True, kw_only=True)
class _Call:
    said: type[BaseModel]
    handler: Callable[..., BaseModel | None]
    has_uid: bool


class Calls(Generic[Desk]):
    """A table of POST calls; each handler takes the path's ``uid`` where it has one, the body's model, and the desk."""

    def __init__(self, prefix: str, desk: Callable[[Request], Awaitable[Desk]]) -> None:
        """Start empty.

        Args:
            prefix: what every path begins with.
            desk: who calls, and the services for the call; awaited on the event loop, before the body is looked at.
        """
        self.prefix = prefix
        self._desk = desk
        self._calls: dict[str, _Call] = {}

    @property
    def paths(self) -> list[str]:
        """Return the paths of all calls, without the prefix."""
        return list(self._calls)

    def post(self, path: str) -> Callable[[_Handler], _Handler]:
        """Register a handler for a path such as ``/hello`` or ``/jobs/{uid}/claim``; None as its answer is 204."""

        def register(handler: _Handler) -> _Handler:
            said = get_type_hints(handler)["said"]
            self._calls[path] = _Call(said=said, handler=handler, has_uid=_UID in path)
            return handler

        return register

    async def serve(self, request: Request, body: bytes, threads: ThreadPoolExecutor) -> Response:
        """Answer one call, in one of the threads.

        Raises:
            HTTPException: there is no such call.
            RequestValidationError: the body is not what the call takes.
            PamJobsError: as the handler.
        """
        call, uid = self._find(request.scope["path"].removeprefix(self.prefix))
        desk = await self._desk(request)
        content = await asyncio.get_running_loop().run_in_executor(threads, _answer, call, uid, body, desk)
        if content is None:
            return Response(status_code=204)
        return Response(content, media_type="application/json")

    def _find(self, path: str) -> tuple[_Call, str]:
        parts = path.split("/")  # "", "jobs", uid, verb …
        uid = ""
        if len(parts) > 3 and parts[1] == "jobs":
            uid, parts[2] = parts[2], _UID
        call = self._calls.get("/".join(parts))
        if call is None:
            raise HTTPException(404)
        return call, uid


def _answer(call: _Call, uid: str, body: bytes, desk: object) -> str | None:
    try:
        said = call.said.model_validate_json(body)
    except ValidationError as error:
        found: list[Any] = error.errors(include_input=False, include_url=False, include_context=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from error
    answer = call.handler(uid, said, desk) if call.has_uid else call.handler(said, desk)
    return None if answer is None else answer.model_dump_json()

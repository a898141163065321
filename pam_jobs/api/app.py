"""The router: every HTTP interface of the control plane in one application."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from pam_jobs import __version__
from pam_jobs.api import (
    audit,
    calendars,
    discovery,
    files,
    health,
    jobs,
    ksm,
    metrics,
    pam,
    problems,
    schedules,
    services,
    siem,
    tokens,
    users,
    vault,
)
from pam_jobs.api.context import AppContext
from pam_jobs.api.limits import AccessLog, BodyLimit
from pam_jobs.api.machines import MachineCalls

__all__ = ["create_app"]

_MANY_WRITERS: Final = 16
_ONE_WRITER: Final = 3  # SQLite has one: more threads only wait for each other


class _Router(FastAPI):
    """The application; machines are answered before any of its layers, which together cost as much as such a call."""

    machines: MachineCalls | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        machines = self.machines
        if machines is None or not machines.takes(scope):
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        await machines(scope, receive, send)


def create_app(context: AppContext) -> FastAPI:
    """Return the application over the given services; nothing is connected yet.

    Args:
        context: database, keys, clock and the two hooks that run after a commit.
    """
    app = _Router(
        title="pam-jobs",
        version=__version__,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        summary="Rotation of privileged credentials and discovery of infrastructure",
    )
    app.state.context = context
    problems.install(app)
    users.install(app, context)
    ksm.install(app, context)
    metrics.install(app, context)
    vault_routes = (files, users, tokens, vault)
    job_routes = (jobs, pam, services, schedules, calendars, discovery)
    for module in (*vault_routes, *job_routes, health, audit, siem, metrics):
        app.include_router(module.router)
    app.add_middleware(BodyLimit, file_bytes=context.settings.max_file_bytes)
    app.add_middleware(AccessLog)
    app.machines = MachineCalls(
        file_bytes=context.settings.max_file_bytes, threads=_ONE_WRITER if context.database.is_sqlite else _MANY_WRITERS
    )
    return app

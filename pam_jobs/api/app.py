"""The router: every HTTP interface of the control plane in one application."""

from __future__ import annotations

from fastapi import FastAPI

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


def create_app(context: AppContext) -> FastAPI:
    """Return the application over the given services; nothing is connected yet.

    Args:
        context: database, keys, clock and the two hooks that run after a commit.
    """
    app = FastAPI(
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
    app.add_middleware(MachineCalls, file_bytes=context.settings.max_file_bytes)  # the last one added is asked first
    return app

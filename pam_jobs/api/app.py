"""The router: every HTTP interface of the control plane in one application."""

from __future__ import annotations

from fastapi import FastAPI

from pam_jobs import __version__
from pam_jobs.api import problems
from pam_jobs.api.context import AppContext

__all__ = ["create_app"]


def create_app(context: AppContext) -> FastAPI:
    """Return the application over the given services; nothing is connected yet.

    Args:
        context: database, keys, clock and the two hooks that run after a commit.
    """
    from pam_jobs.api import audit, device, discovery, health, jobs, ksm, pam, siem, tokens, users, vault

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
    for module in (health, users, tokens, vault, pam, jobs, discovery, audit, siem, device, ksm):
        app.include_router(module.router)
    return app

"""Whether the process lives, whether it can work, and what clients need to know of it."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from pam_jobs import __version__
from pam_jobs.api.context import Context
from pam_jobs.api.problems import problem
from pam_jobs.crypto.keystore import SERVER_KEY_ID
from pam_jobs.jobs.signing import key_id

__all__ = ["router"]

router = APIRouter(tags=["server"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None)
def readyz(context: Context) -> dict[str, str] | JSONResponse:
    """Say that the database answers too."""
    try:
        with context.database.transaction(read_only=True) as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return problem(503, "database_unavailable", "the database does not answer", "look at the database, then wait")
    return {"status": "ok"}


@router.get("/api/v1/server")
def server(context: Context) -> dict[str, str]:
    """Return what clients need to know of this router; nothing of it is secret."""
    return {
        "version": __version__,
        "public_host": context.settings.public_host,
        "server_public_key": context.keys.server_public,
        "server_public_key_id": SERVER_KEY_ID,
        "signing_key_id": key_id(context.keys.signing_public),
    }

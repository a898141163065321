"""Discovery for operators: start, look, take the sealed result, note that it was processed, remove."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from pydantic import BaseModel, ConfigDict, Field

from pam_jobs.api.auth import Principal, require
from pam_jobs.api.context import Context
from pam_jobs.discovery import jobs, results
from pam_jobs.discovery.results import DiscoveryView, ResultView
from pam_jobs.jobs import view
from pam_jobs.jobs.view import JobView

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/discovery", tags=["discovery"])

_Discoverer = Annotated[Principal, Depends(require("discover"))]


class NewDiscovery(BaseModel):
    """What to discover."""

    model_config = ConfigDict(extra="forbid")

    configuration_uid: str = Field(max_length=64)
    resource_uid: str | None = Field(None, max_length=64)
    parameters: dict[str, Any] | None = None


class DiscoveryList(BaseModel):
    """Discoveries, newest first."""

    jobs: list[DiscoveryView]


@router.post("", status_code=202)
def start_discovery(
    body: NewDiscovery,
    principal: _Discoverer,
    context: Context,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> JobView:
    """Start a discovery; one at a time for each configuration."""
    with context.database.transaction() as session:
        job, is_new = jobs.start(
            session,
            context.clock,
            principal.actor(),
            user_uid=principal.user_uid,
            configuration_uid=body.configuration_uid,
            resource_uid=body.resource_uid,
            parameters=body.parameters,
            idempotency_key=idempotency_key,
        )
        shown = view.views(session, [job])[0]
    if is_new:
        context.after_commit([shown.uid])
    else:
        response.status_code = 200
    return shown


@router.get("")
def list_discoveries(principal: _Discoverer, context: Context, configuration_uid: str | None = None) -> DiscoveryList:
    """Return the latest discoveries of the user's configurations."""
    with context.database.transaction(read_only=True) as session:
        return DiscoveryList(jobs=results.list_discoveries(session, principal.user_uid, configuration_uid))


@router.get("/{job_uid}/result")
def get_result(job_uid: str, principal: _Discoverer, context: Context) -> ResultView:
    """Return what the discovery found, sealed by the configuration record's key."""
    with context.database.transaction(read_only=True) as session:
        return results.read_result(session, principal.user_uid, job_uid)


@router.post("/{job_uid}/processed", status_code=204)
def mark_processed(job_uid: str, principal: _Discoverer, context: Context) -> None:
    """Note that the result was processed."""
    with context.database.transaction() as session:
        results.mark_processed(session, context.clock, principal.actor(), principal.user_uid, job_uid)


@router.delete("/{job_uid}")
def remove_discovery(job_uid: str, principal: _Discoverer, context: Context) -> JobView | None:
    """Cancel a discovery that is under way, or forget a finished one with its result."""
    with context.database.transaction() as session:
        return results.remove(session, context.clock, principal.actor(), principal.user_uid, job_uid)

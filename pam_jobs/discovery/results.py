"""What discoveries found: sealed content, plain counts, and whether somebody has processed it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.crypto.blob import Blob
from pam_jobs.db.tables import DiscoveryResult, FolderMember, Job, JobKind, JobStep, OutboxMessage, StoredRecord
from pam_jobs.db.tables.vault import Folder
from pam_jobs.errors import NotFound, StateError
from pam_jobs.jobs import cancel, view
from pam_jobs.jobs.sql import DISCOVERY, changed
from pam_jobs.jobs.states import FINAL
from pam_jobs.jobs.trail import job_event
from pam_jobs.jobs.view import JobView
from pam_jobs.vault import records

__all__ = ["DiscoveryView", "ResultView", "list_discoveries", "mark_processed", "read_result", "remove"]

_LISTED = 200


class DiscoveryView(JobView):
    """A discovery job with what became of its result."""

    counts: dict[str, Any] | None
    stored_at: datetime | None
    processed_at: datetime | None


class ResultView(BaseModel):
    """The result itself."""

    content: Blob  # JSON by the configuration record's key
    counts: dict[str, Any]
    stored_at: datetime
    processed_at: datetime | None


def list_discoveries(session: Session, user_uid: str, configuration_uid: str | None = None) -> list[DiscoveryView]:
    """Return the latest discoveries of the user's configurations, newest first."""
    query = (
        select(Job, DiscoveryResult.counts, DiscoveryResult.stored_at, DiscoveryResult.processed_at)
        .outerjoin(DiscoveryResult, DiscoveryResult.job_uid == Job.uid)
        .join(StoredRecord, StoredRecord.uid == Job.configuration_uid)
        .join(Folder, Folder.uid == StoredRecord.folder_uid)
        .join(FolderMember, FolderMember.folder_uid == Folder.root_uid)
        .where(DISCOVERY, FolderMember.user_uid == user_uid)
        .order_by(Job.created_at.desc(), Job.uid.desc())
        .limit(_LISTED)
    )
    if configuration_uid is not None:
        query = query.where(Job.configuration_uid == configuration_uid)
    rows = session.execute(query).all()
    jobs = view.views(session, [row[0] for row in rows])
    return [
        DiscoveryView(**job.model_dump(), counts=counts, stored_at=stored_at, processed_at=processed_at)
        for job, (_, counts, stored_at, processed_at) in zip(jobs, rows, strict=True)
    ]


def read_result(session: Session, user_uid: str, job_uid: str) -> ResultView:
    """Return what a discovery found.

    Raises:
        NotFound: there is no such discovery of the user's, or it has no result.
    """
    return ResultView.model_validate(_result(session, _require(session, user_uid, job_uid)), from_attributes=True)


def mark_processed(session: Session, clock: Clock, actor: Actor, user_uid: str, job_uid: str) -> None:
    """Note that somebody has processed the result; again changes nothing.

    Raises:
        NotFound: there is no such discovery of the user's, or it has no result.
    """
    job = _require(session, user_uid, job_uid)
    row = _result(session, job)
    if row.processed_at is None:
        row.processed_at = clock.now()
        job_event(session, clock, actor, "discovery_job_processed", job)


def remove(session: Session, clock: Clock, actor: Actor, user_uid: str, job_uid: str) -> JobView | None:
    """Cancel a discovery that is under way, or forget a finished one with its result.

    Returns:
        The job where it was cancelled; None where it is gone.

    Raises:
        NotFound: there is no such discovery of the user's.
        StateError: it cannot be cancelled at this moment.
    """
    job = _require(session, user_uid, job_uid)
    if job.state not in FINAL:
        return view.views(session, [cancel.cancel(session, clock, actor, job_uid)])[0]
    job_event(session, clock, actor, "discovery_job_removed", job)
    for table in (OutboxMessage, JobStep, DiscoveryResult):
        changed(session, delete(table).where(table.job_uid == job_uid))
    if changed(session, delete(Job).where(Job.uid == job_uid, Job.state.in_(FINAL))) != 1:
        raise StateError(f"discovery {job_uid} changed meanwhile", remedy="try again")
    return None


def _require(session: Session, user_uid: str, job_uid: str) -> Job:
    job = session.get(Job, job_uid)
    if job is None or job.kind != JobKind.DISCOVER:
        raise NotFound(f"there is no discovery {job_uid}", remedy="take the UID from `pam action discover status`")
    records.require(session, user_uid, job.configuration_uid)
    return job


def _result(session: Session, job: Job) -> DiscoveryResult:
    row = session.get(DiscoveryResult, job.uid)
    if row is None:
        raise NotFound(f"discovery {job.uid} has no result ({job.state})", remedy="wait until it has succeeded")
    return row

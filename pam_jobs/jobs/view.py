"""Jobs as operators see them: identifiers, codes and times plain, detail and output as ciphertext."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy import bindparam, select, tuple_
from sqlalchemy.orm import Session

from pam_jobs.crypto.blob import Blob
from pam_jobs.db.tables import Job, JobKind, JobState, JobStep
from pam_jobs.errors import NotFound

__all__ = ["MAX_PAGE", "JobFilter", "JobList", "JobView", "StepView", "list_jobs", "read_job", "require_job", "views"]

MAX_PAGE: Final = 1000


class StepView(BaseModel):
    """One post-rotation step."""

    key: str
    position: int
    kind: str
    place: str
    state: str
    exit_code: int | None
    cause: str | None
    attempts: int
    most_attempts: int
    output: Blob | None  # by the user record's key
    started_at: datetime | None
    finished_at: datetime | None


class JobView(BaseModel):
    """One job."""

    uid: str
    kind: str
    state: str
    trigger: str
    record_uid: str | None
    configuration_uid: str
    gateway_uid: str
    requested_by: str
    schedule_uid: str | None
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    due_at: datetime | None
    not_before: datetime | None
    expires_at: datetime | None
    cancel_requested_at: datetime | None
    epoch: int
    attempts: int
    lease_instance: str | None
    status: str | None
    post_rotation_status: str | None
    services_status: str | None
    effect: str | None
    cause: str | None
    timings: dict[str, Any]
    detail: Blob | None  # by the record's key; discovery: the configuration's
    steps: list[StepView]
    parameters: dict[str, Any]


class JobList(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    next: str | None  # give it as ``before`` for the next page; None: this was the last


class JobFilter(BaseModel):
    """Which jobs; members that are None do not matter."""

    record_uid: str | None = None
    configuration_uid: str | None = None
    gateway_uid: str | None = None
    state: JobState | None = None
    kind: JobKind | None = None


_STEPS: Final = (
    select(JobStep)
    .where(JobStep.job_uid.in_(bindparam("jobs", expanding=True)))
    .order_by(JobStep.position, JobStep.key)
    .execution_options(populate_existing=True)
)


def require_job(session: Session, job_uid: str) -> Job:
    """Return the job.

    Raises:
        NotFound: there is none.
    """
    job = session.get(Job, job_uid, populate_existing=True)
    if job is None:
        raise NotFound(f"there is no job {job_uid}", remedy="take the UID from `pam job list`")
    return job


def read_job(session: Session, job_uid: str) -> JobView:
    """Return the view of one job.

    Raises:
        NotFound: there is none.
    """
    return views(session, [require_job(session, job_uid)])[0]


def list_jobs(session: Session, wanted: JobFilter, *, limit: int, before: str | None = None) -> JobList:
    """Return a page of jobs, newest first.

    Args:
        session: read only is enough.
        wanted: which.
        limit: 1 to ``MAX_PAGE`` jobs.
        before: uid of a job; the page begins with the next older one.

    Raises:
        NotFound: there is no job ``before``.
    """
    query = select(Job).order_by(Job.created_at.desc(), Job.uid.desc()).limit(limit + 1)
    for name, value in wanted.model_dump(exclude_none=True).items():
        query = query.where(getattr(Job, name) == value)
    if before is not None:
        last = require_job(session, before)
        query = query.where(tuple_(Job.created_at, Job.uid) < tuple_(last.created_at, last.uid))
    rows = session.scalars(query).all()
    page = rows[:limit]
    return JobList(jobs=views(session, page), next=page[-1].uid if len(rows) > limit else None)


def views(session: Session, jobs: Sequence[Job]) -> list[JobView]:
    """Return the views of the jobs, in their order, with one query for all their steps."""
    steps: dict[str, list[JobStep]] = {}
    if jobs:
        rows = session.scalars(_STEPS, {"jobs": [job.uid for job in jobs]})
        for row in rows:
            steps.setdefault(row.job_uid, []).append(row)
    return [_view(job, steps.get(job.uid, [])) for job in jobs]


def _view(job: Job, steps: Sequence[JobStep]) -> JobView:
    members = {name: getattr(job, name) for name in JobView.model_fields if name != "steps"}
    rows = [StepView(**{name: getattr(step, name) for name in StepView.model_fields}) for step in steps]
    return JobView(**members, steps=rows)

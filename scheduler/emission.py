"""Scheduled jobs, made many at a time: rows, messages to send and events, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import insert
from sqlalchemy.orm import Session

from pam_jobs.app import queue_name
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Job, JobKind, JobState, OutboxMessage
from pam_jobs.ids import deterministic_uid
from pam_jobs.jobs.sql import IgnoringInsert
from pam_jobs.jobs.submission import KEEP_WAITING, SCHEDULED
from pam_jobs.jobs.trail import BEAT, created_events, job_event

__all__ = ["DueRun", "create_jobs", "job_uid_of"]

_COLUMNS = tuple(attribute.key for attribute in Job.__mapper__.column_attrs)
_INSERT: Final = IgnoringInsert(Job, Job.uid)


@dataclass(frozen=True, kw_only=True)
class DueRun:
    """A run whose time has come and that nothing keeps from starting."""

    schedule_uid: str
    due_at: datetime
    kind: JobKind
    record_uid: str | None  # None for discovery
    configuration_uid: str
    gateway_uid: str
    planned_at: datetime | None = None  # by the schedule alone, where that is another time
    moved_by: str | None = None  # the calendar that moved it


def job_uid_of(schedule_uid: str, due_at: datetime) -> str:
    """Return the uid of the one job of a schedule and due time, whoever makes it and however often."""
    return deterministic_uid("due", schedule_uid, due_at.isoformat())


def create_jobs(session: Session, clock: Clock, runs: Sequence[DueRun]) -> list[str]:
    """Add a job, a message and an event for each run, in a few statements.

    What ``submit`` does for one job; here one round trip serves hundreds. A run whose job stands already, or whose
    record has a waiting scheduled job of the kind, makes none: unique constraints decide, not what was read before.

    Returns:
        The uids of the jobs that were created; publish them after the commit.
    """
    if not runs:
        return []
    now = clock.now()
    jobs = {job.uid: job for job in (_job(run, now) for run in runs)}
    # Only what a scheduled job has: the length of the statement is what hundreds of rows cost.
    names = [name for name in _COLUMNS if any(getattr(job, name) is not None for job in jobs.values())]
    values = [{name: getattr(job, name) for name in names} for job in jobs.values()]
    created = list(_INSERT.run(session, values).scalars())
    if not created:
        return []
    session.execute(
        insert(OutboxMessage),
        [
            {"job_uid": uid, "queue": queue_name(jobs[uid].gateway_uid), "created_at": now, "attempts": 0}
            for uid in created
        ],
    )
    created_events(session, clock, BEAT, [jobs[uid] for uid in created])
    for uid in created:
        if jobs[uid].moved_by is not None:
            _tell_moved(session, clock, jobs[uid])
    return created


def _tell_moved(session: Session, clock: Clock, job: Job) -> None:
    job_event(
        session,
        clock,
        BEAT,
        "pam_run_moved",
        job,
        schedule_uid=job.schedule_uid,
        planned_at=job.planned_at.isoformat() if job.planned_at else None,
        due_at=job.due_at.isoformat() if job.due_at else None,
        calendar_uid=job.moved_by,
    )


def _job(run: DueRun, now: datetime) -> Job:
    return Job(
        uid=job_uid_of(run.schedule_uid, run.due_at),
        kind=run.kind,
        state=JobState.CREATED,
        trigger=SCHEDULED,
        gateway_uid=run.gateway_uid,
        configuration_uid=run.configuration_uid,
        record_uid=run.record_uid,
        parameters={},
        schedule_uid=run.schedule_uid,
        due_at=run.due_at,
        planned_at=run.planned_at,
        moved_by=run.moved_by,
        requested_by=BEAT.username,
        created_at=now,
        expires_at=now + KEEP_WAITING,
        epoch=0,
        attempts=0,
        timings={},
    )

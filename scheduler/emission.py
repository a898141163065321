"""Scheduled jobs, made many at a time: rows, messages to send and events, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from pam_jobs.app import queue_name
from pam_jobs.audit.log import event_row, record_events
from pam_jobs.clock import Clock
from pam_jobs.db.base import table_of
from pam_jobs.db.many import ManyInsert
from pam_jobs.db.tables import Job, JobKind, JobState, OutboxMessage
from pam_jobs.ids import deterministic_uid
from pam_jobs.jobs.submission import KEEP_WAITING, SCHEDULED, priority_of
from pam_jobs.jobs.trail import BEAT

__all__ = ["DueRun", "create_jobs", "job_uid_of"]

_COLUMNS: Final = (
    "uid", "kind", "state", "trigger", "gateway_uid", "configuration_uid", "record_uid", "parameters", "schedule_uid",
    "due_at", "planned_at", "moved_by", "requested_by", "created_at", "expires_at", "epoch", "attempts", "timings",
    "priority", "crashes",
)  # fmt: skip
_INSERT: Final = ManyInsert(table_of(Job), _COLUMNS, ignoring=True, returning="uid")
_ENQUEUE: Final = ManyInsert(table_of(OutboxMessage), ("job_uid", "queue", "created_at", "attempts"))


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
    of_uid = {job_uid_of(run.schedule_uid, run.due_at): run for run in runs}
    created: list[str] = list(_INSERT.run(session, [_job(uid, run, now) for uid, run in of_uid.items()]).scalars())
    if not created:
        return []
    _ENQUEUE.run(
        session,
        [
            {"job_uid": uid, "queue": queue_name(of_uid[uid].gateway_uid), "created_at": now, "attempts": 0}
            for uid in created
        ],
    )
    record_events(session, [event for uid in created for event in _events(clock, uid, of_uid[uid])])
    return created


def _events(clock: Clock, uid: str, run: DueRun) -> Iterator[dict[str, Any]]:
    identifiers = {
        "job_uid": uid,
        "job_kind": run.kind.value,
        "record_uid": run.record_uid,
        "configuration_uid": run.configuration_uid,
        "gateway_uid": run.gateway_uid,
        "schedule_uid": run.schedule_uid,
    }
    yield event_row(clock, BEAT, "pam_job_created", **identifiers, trigger=SCHEDULED)
    if run.moved_by is not None:
        yield event_row(
            clock,
            BEAT,
            "pam_run_moved",
            **identifiers,
            planned_at=run.planned_at.isoformat() if run.planned_at else None,
            due_at=run.due_at.isoformat(),
            calendar_uid=run.moved_by,
        )


def _job(uid: str, run: DueRun, now: datetime) -> dict[str, Any]:
    return {
        "uid": uid,
        "kind": run.kind.value,
        "state": JobState.CREATED.value,
        "trigger": SCHEDULED,
        "priority": int(priority_of(SCHEDULED, run.kind)),
        "gateway_uid": run.gateway_uid,
        "configuration_uid": run.configuration_uid,
        "record_uid": run.record_uid,
        "parameters": {},
        "schedule_uid": run.schedule_uid,
        "due_at": run.due_at,
        "planned_at": run.planned_at,
        "moved_by": run.moved_by,
        "requested_by": BEAT.username,
        "created_at": now,
        "expires_at": now + KEEP_WAITING,
        "epoch": 0,
        "attempts": 0,
        "crashes": 0,
        "timings": {},
    }

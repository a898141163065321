"""Submitting jobs: the job, its message to send and the event, in the caller's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, insert, select, update
from sqlalchemy.orm import Session

from pam_jobs.app import queue_name
from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import CredentialEpoch, Job, JobKind, JobState, OutboxMessage, Priority
from pam_jobs.errors import Conflict, InvalidInput
from pam_jobs.ids import new_uid
from pam_jobs.jobs.sql import IgnoringInsert, LockingInsert, changed
from pam_jobs.jobs.states import OPEN, WAITING
from pam_jobs.jobs.trail import created_events, job_event

__all__ = ["KEEP_WAITING", "ON_DEMAND", "SCHEDULED", "enqueue", "priority_of", "serialise", "submit"]

ON_DEMAND: Final = "on_demand"
SCHEDULED: Final = "scheduled"
KEEP_WAITING: Final = timedelta(days=7)
"""How long a job may wait for its first attempt before it expires."""

_MAX_KEY = 200
_NAMES: Final = tuple(attribute.key for attribute in Job.__mapper__.column_attrs)
_JOBS: Final = table_of(Job)
_INSERT: Final = IgnoringInsert(_JOBS, _JOBS.c.uid)  # these are made once: they run with every submission
_SERIALISE: Final = LockingInsert(table_of(CredentialEpoch), "record_uid")
_ENQUEUE: Final = insert(table_of(OutboxMessage))
_OPEN_JOB: Final = (
    select(_JOBS.c.uid)
    .where(
        _JOBS.c.record_uid == bindparam("record_uid"),
        _JOBS.c.kind == bindparam("kind"),
        _JOBS.c.state.in_(OPEN),
        _JOBS.c.cancel_requested_at.is_(None),
    )
    .order_by(_JOBS.c.created_at)
    .limit(1)
)


def submit(  # noqa: PLR0913 - each argument is a column of the job
    session: Session,
    clock: Clock,
    *,
    kind: JobKind,
    record_uid: str | None,
    configuration_uid: str,
    gateway_uid: str,
    trigger: str,
    requested_by: Actor,
    parameters: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    schedule_uid: str | None = None,
    due_at: datetime | None = None,
    job_uid: str | None = None,
    expires_after: timedelta = KEEP_WAITING,
) -> tuple[Job, bool]:
    """Add a job, or find the one that already does what is asked.

    A scheduled job joins the one that already waits for the record and kind; the same schedule and due time, or the same
    ``job_uid``, always mean the same job. A request on demand joins any open job of the record and kind, which then
    waits no longer than it must.

    Args:
        session: the caller's transaction; publish the job's uid after its commit.
        clock: the time of submission.
        kind: what to do.
        record_uid: the user record; None for discovery.
        configuration_uid: the PAM configuration.
        gateway_uid: the gateway that serves it.
        trigger: ``on_demand`` or ``scheduled``.
        requested_by: who asks; an idempotency key is theirs alone.
        parameters: identifiers and switches, no secrets.
        idempotency_key: at most 200 characters; the same key finds the same job.
        schedule_uid: of the schedule that is due.
        due_at: when it was due.
        job_uid: the job's uid where the caller derives it; otherwise a new one.
        expires_after: how long the job may wait for its first attempt.

    Returns:
        The job, and whether it was created by this call.

    Raises:
        Conflict: the idempotency key was used for a different request.
        InvalidInput: trigger or key have a wrong form.
    """
    if trigger not in {ON_DEMAND, SCHEDULED}:
        raise InvalidInput(f"{trigger!r} is not a trigger", remedy=f"use {ON_DEMAND} or {SCHEDULED}")
    now = clock.now()
    wanted = Job(
        uid=job_uid or new_uid(), kind=kind, state=JobState.CREATED, trigger=trigger, priority=priority_of(trigger, kind),
        gateway_uid=gateway_uid, configuration_uid=configuration_uid, record_uid=record_uid,
        parameters=dict(parameters or {}), schedule_uid=schedule_uid, due_at=due_at, requested_by=requested_by.username,
        idempotency_key=_scoped(requested_by, idempotency_key), created_at=now, expires_at=now + expires_after,
        epoch=0, attempts=0, crashes=0, timings={},
    )  # fmt: skip
    known = _known(session, clock, requested_by, wanted)
    return (known, False) if known is not None else _add(session, clock, requested_by, wanted)


def priority_of(trigger: str, kind: JobKind) -> Priority:
    """Return what a new job goes before."""
    if trigger == ON_DEMAND:
        return Priority.ON_DEMAND
    return Priority.BACKGROUND if kind == JobKind.VERIFY else Priority.SCHEDULED


def enqueue(session: Session, clock: Clock, job_uid: str, gateway_uid: str) -> None:
    """Add a message for the sender to publish after the commit."""
    message = {"job_uid": job_uid, "queue": queue_name(gateway_uid), "created_at": clock.now(), "attempts": 0}
    prepared.run(session, _ENQUEUE, message)


def _scoped(actor: Actor, key: str | None) -> str | None:
    if key is None:
        return None
    if not 1 <= len(key) <= _MAX_KEY:
        raise InvalidInput(
            f"the idempotency key has {len(key)} characters", remedy=f"use 1 to {_MAX_KEY} characters, such as a UUID"
        )
    return hashlib.sha256(f"{actor.username}\x1f{key}".encode()).hexdigest()


def serialise(session: Session, record_uid: str) -> None:
    """Let two requests for one record (or configuration) follow each other: the second finds the first one's job."""
    _SERIALISE.run(session, {"record_uid": record_uid, "epoch": 0})


def _known(session: Session, clock: Clock, actor: Actor, wanted: Job) -> Job | None:
    """Return the job that does already what is asked, by its key or, on demand, because it is open."""
    if wanted.trigger == ON_DEMAND and wanted.record_uid is not None:
        serialise(session, wanted.record_uid)
    if wanted.idempotency_key is not None:
        known = session.scalar(select(Job).where(Job.idempotency_key == wanted.idempotency_key))
        if known is not None:
            _check_same(known, wanted)
            return known
    if wanted.trigger != ON_DEMAND or (joined := _join(session, clock, wanted)) is None:
        return None
    job_event(session, clock, actor, "pam_job_joined", joined, trigger=joined.trigger)  # else nobody knew who asked
    return joined


def _add(session: Session, clock: Clock, actor: Actor, wanted: Job) -> tuple[Job, bool]:
    job = _insert(session, wanted)
    if job is None:
        return _standing(session, wanted), False
    enqueue(session, clock, job.uid, job.gateway_uid)
    created_events(session, clock, actor, [job])
    return job, True


def _request_of(job: Job) -> tuple[object, ...]:
    return job.kind, job.record_uid, job.configuration_uid, dict(job.parameters)


def _check_same(known: Job, wanted: Job) -> None:
    if _request_of(known) != _request_of(wanted):
        raise Conflict(
            f"this idempotency key belongs to the different request that made job {known.uid}",
            remedy="send a new key with a new request",
        )


def _join(session: Session, clock: Clock, wanted: Job) -> Job | None:
    if wanted.record_uid is None:
        return None
    uid = prepared.scalar(session, _OPEN_JOB, {"record_uid": wanted.record_uid, "kind": wanted.kind})
    if uid is None:
        return None
    job = session.get_one(Job, uid, populate_existing=True)
    changes: dict[str, Any] = {}
    if wanted.idempotency_key is not None and job.idempotency_key is None and _request_of(job) == _request_of(wanted):
        changes["idempotency_key"] = wanted.idempotency_key
    if job.priority != Priority.ON_DEMAND and job.state in (*WAITING, JobState.UNKNOWN):
        changes["priority"] = Priority.ON_DEMAND  # somebody waits for it now: neither line nor calendar holds it up
    waits = job.not_before is not None and job.not_before > clock.now()
    if job.state == JobState.UNKNOWN or (job.state in WAITING and waits):
        # Somebody asks now: the back-off ends. The lockout budget still bounds what reaches the target.
        changes["not_before"] = None
        changes["state"] = JobState.QUEUED
    if changes and changed(session, update(Job).where(Job.uid == job.uid, Job.state == job.state).values(**changes)):
        if "state" in changes:
            enqueue(session, clock, job.uid, job.gateway_uid)
        session.refresh(job)
    return job


def _insert(session: Session, job: Job) -> Job | None:
    added = _INSERT.one(session, {name: getattr(job, name) for name in _NAMES})
    return job if added is not None else None


def _standing(session: Session, job: Job) -> Job:
    """Return the job that the insertion ran into."""
    by_uid = session.get(Job, job.uid)
    if by_uid is not None:
        return by_uid
    for conditions in _rivals(job):
        found = session.scalar(select(Job).where(*conditions).limit(1))
        if found is not None:
            if job.idempotency_key is not None and found.idempotency_key == job.idempotency_key:
                _check_same(found, job)
            return found
    raise Conflict("a job like this one ended at the very moment it was submitted", remedy="submit it again")


def _rivals(job: Job) -> Iterator[tuple[ColumnElement[bool], ...]]:
    """Yield the conditions that a unique constraint may have found another job by."""
    if job.idempotency_key is not None:
        yield (Job.idempotency_key == job.idempotency_key,)
    if job.schedule_uid is not None:
        yield Job.schedule_uid == job.schedule_uid, Job.due_at == job.due_at
    if job.record_uid is not None:
        yield (
            Job.record_uid == job.record_uid,
            Job.kind == job.kind,
            Job.trigger == SCHEDULED,
            Job.state.in_(WAITING),
        )

"""What the audit log says of jobs; always in the transaction of the change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, event_row, record_event, record_events
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Job, JobKind

__all__ = ["BEAT", "CONTROL", "created_events", "ended_event", "gateway_actor", "job_event"]

BEAT: Final = Actor(username="beat")
CONTROL: Final = Actor(username="control")


def gateway_actor(gateway_uid: str, remote_address: str | None = None, version: str | None = None) -> Actor:
    """Return a gateway as the one who did it."""
    return Actor(username=f"gateway:{gateway_uid}", remote_address=remote_address, client_version=version)


def job_event(
    session: Session, clock: Clock, actor: Actor, event: str, job: Job, **fields: str | int | bool | None
) -> None:
    """Record an event with the job's identifiers and the given fields."""
    record_event(session, clock, actor, event, **_identifiers(job), **fields)


def created_events(session: Session, clock: Clock, actor: Actor, jobs: Iterable[Job]) -> None:
    """Record that the jobs were created, in one statement however many they are."""
    rows = [
        event_row(
            clock, actor, "pam_job_created", **_identifiers(job), trigger=job.trigger, schedule_uid=job.schedule_uid
        )
        for job in jobs
    ]
    record_events(session, rows)


def _identifiers(job: Job) -> dict[str, str | None]:
    return {
        "job_uid": job.uid,
        "job_kind": str(job.kind),
        "record_uid": job.record_uid,
        "configuration_uid": job.configuration_uid,
        "gateway_uid": job.gateway_uid,
    }


def ended_event(job: Job, *, is_ok: bool) -> str:
    """Return the name of the event that tells how a job ended.

    Rotations go by the vendor's four names, discovery by its one; other kinds by ours.
    """
    if job.kind == JobKind.ROTATE:
        return f"record_rotation_{job.trigger}_{'ok' if is_ok else 'fail'}"
    if job.kind == JobKind.DISCOVER:
        return "discovery_job_completed"
    return "pam_job_completed" if is_ok else "pam_job_failed"

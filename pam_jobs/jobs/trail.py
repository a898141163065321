"""What the audit log says of jobs; always in the transaction of the change."""

from __future__ import annotations

from typing import Final

from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Job, JobKind

__all__ = ["BEAT", "CONTROL", "ended_event", "gateway_actor", "job_event"]

BEAT: Final = Actor(username="beat")
CONTROL: Final = Actor(username="control")


def gateway_actor(gateway_uid: str, remote_address: str | None = None, version: str | None = None) -> Actor:
    """Return a gateway as the one who did it."""
    return Actor(username=f"gateway:{gateway_uid}", remote_address=remote_address, client_version=version)


def job_event(
    session: Session, clock: Clock, actor: Actor, event: str, job: Job, **fields: str | int | bool | None
) -> None:
    """Record an event with the job's identifiers and the given fields."""
    record_event(
        session,
        clock,
        actor,
        event,
        job_uid=job.uid,
        job_kind=str(job.kind),
        record_uid=job.record_uid,
        configuration_uid=job.configuration_uid,
        gateway_uid=job.gateway_uid,
        **fields,
    )


def ended_event(job: Job, *, is_ok: bool) -> str:
    """Return the name of the event that tells how a job ended.

    Rotations go by the vendor's four names, discovery by its one; other kinds by ours.
    """
    if job.kind == JobKind.ROTATE:
        return f"record_rotation_{job.trigger}_{'ok' if is_ok else 'fail'}"
    if job.kind == JobKind.DISCOVER:
        return "discovery_job_completed"
    return "pam_job_completed" if is_ok else "pam_job_failed"

"""Jobs that took gateways down with them: set aside after they lost their leases again and again, until an operator says.

Nobody knows what such a job breaks; its schedule would only bring the next one. So the schedule is paused with it, and
what the operator resumes is a new job that does the same, by the same steps: it recovers what the old one left.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Job, JobKind, JobState, Schedule
from pam_jobs.errors import NotFound, StateError
from pam_jobs.jobs.submission import ON_DEMAND, submit
from pam_jobs.jobs.trail import CONTROL, job_event
from pam_jobs.rotation import pausing
from pam_jobs.rotation.schedules import schedule_uid

__all__ = ["CAUSE", "is_poisoned", "resume", "set_aside"]

CAUSE: Final = "lost_every_lease"


def is_poisoned(job: Job) -> bool:
    """Say whether the job was set aside because it lost its leases."""
    return job.state == JobState.WAITING_HUMAN and job.cause == CAUSE


def set_aside(session: Session, clock: Clock, job: Job, *, crashes: int) -> None:
    """Tell of a job that was set aside, and pause the schedule that would bring the next one."""
    job_event(session, clock, CONTROL, "pam_job_set_aside", job, instance=job.lease_instance, attempt=crashes)
    if (uid := _schedule_of(session, job)) is not None:
        pausing.pause(session, clock, CONTROL, uid)


def resume(session: Session, clock: Clock, actor: Actor, job_uid: str) -> Job:
    """Do again what a job was set aside from, and resume its schedule.

    Returns:
        The job that does it now; publish its uid after the commit.

    Raises:
        NotFound: there is no such job.
        StateError: it was not set aside.
    """
    job = session.get(Job, job_uid)
    if job is None:
        raise NotFound(f"there is no job {job_uid}", remedy="take the UID from `pam job list`")
    if not is_poisoned(job):
        raise StateError(
            f"job {job_uid} was not set aside: it is {job.state}", remedy=f"see why: `pam job explain {job_uid}`"
        )
    successor, _ = submit(
        session,
        clock,
        kind=JobKind(job.kind),
        record_uid=job.record_uid,
        configuration_uid=job.configuration_uid,
        gateway_uid=pausing.configuration_gateway(session, job.configuration_uid) or job.gateway_uid,
        trigger=ON_DEMAND,
        requested_by=actor,
        parameters=job.parameters,
    )
    job_event(session, clock, actor, "pam_job_resumed", job, successor_uid=successor.uid)
    if (uid := _schedule_of(session, job)) is not None:
        pausing.resume(session, clock, actor, uid)
    return successor


def _schedule_of(session: Session, job: Job) -> str | None:
    uid = schedule_uid(JobKind(job.kind), job.record_uid or job.configuration_uid)
    return uid if session.get(Schedule, uid) is not None else None

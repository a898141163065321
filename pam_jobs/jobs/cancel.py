"""Cancelling a job, as long as nothing has been changed."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db.tables import CredentialVersion, Job, JobState, VersionState
from pam_jobs.errors import Effect, NotFound, StateError
from pam_jobs.jobs.sql import changed
from pam_jobs.jobs.states import FINAL, WAITING
from pam_jobs.jobs.trail import job_event
from pam_jobs.jobs.wire import Status

__all__ = ["cancel", "has_begun"]


def cancel(session: Session, clock: Clock, actor: Actor, job_uid: str) -> Job:
    """Cancel a job that waits, or ask the gateway that holds it to stop before it changes anything.

    Returns:
        The job: ``cancelled``; or still ``leased`` with the request noted, which the gateway hears at its next
        heartbeat and, at the latest, when it wants to begin.

    Raises:
        NotFound: there is no such job.
        StateError: it has ended, or has begun to change its target.
    """
    job = session.get(Job, job_uid)
    if job is None:
        raise NotFound(f"there is no job {job_uid}", remedy="take the UID from `pam job list`")
    _check_untouched(session, job)
    now = clock.now()
    done = changed(
        session,
        update(Job)
        .where(Job.uid == job_uid, Job.state.in_(WAITING))
        .values(
            state=JobState.CANCELLED,
            status=Status.CANCELLED,
            cancel_requested_at=now,
            finished_at=now,
            not_before=None,
            target_tags=None,
        ),
    )
    if done == 0:
        done = changed(
            session,
            update(Job)
            .where(Job.uid == job_uid, Job.state == JobState.LEASED, Job.cancel_requested_at.is_(None))
            .values(cancel_requested_at=now),
        )
    session.refresh(job)
    if done == 0 and job.cancel_requested_at is None:
        raise _too_late(job)
    if done and job.state == JobState.CANCELLED:
        job_event(session, clock, actor, "pam_job_cancelled", job, result_code=str(Status.CANCELLED))
    elif done:
        job_event(session, clock, actor, "pam_job_cancel_requested", job)
    return job


def _check_untouched(session: Session, job: Job) -> None:
    if job.state in FINAL:
        raise StateError(
            f"job {job.uid} has ended already: {job.state}", remedy=f"see how: `pam action job-info {job.uid}`"
        )
    if has_begun(session, job):
        raise _too_late(job)


def has_begun(session: Session, job: Job) -> bool:
    """Say whether an attempt of the job may have changed its target, or has run a script; also when it waits again."""
    if job.state in (JobState.RUNNING, JobState.UNKNOWN) or job.effect in (Effect.APPLIED, Effect.UNKNOWN):
        return True
    if job.attempts == 0 or job.record_uid is None:
        return False
    applying = session.scalar(
        select(CredentialVersion.seq).where(
            CredentialVersion.record_uid == job.record_uid,
            CredentialVersion.job_uid == job.uid,
            CredentialVersion.state == VersionState.APPLYING,
        )
    )
    return applying is not None


def _too_late(job: Job) -> StateError:
    return StateError(
        f"job {job.uid} has begun to change its target and must be brought to an end",
        remedy=f"wait for it: `pam job watch {job.uid}`",
    )

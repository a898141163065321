"""What becomes of a record's open jobs when its rotation is disabled, moved or removed."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db.tables import CredentialVersion, Job, JobKind, VersionState
from pam_jobs.errors import StateError
from pam_jobs.jobs.cancel import cancel, has_begun
from pam_jobs.jobs.states import OPEN, WAITING

__all__ = ["end_all", "end_waiting_rotations"]


def end_all(session: Session, clock: Clock, actor: Actor, record_uid: str) -> None:
    """Cancel every job that waits for the record.

    Raises:
        StateError: one is at work, or its outcome is not known yet: the settings it goes by must stay.
    """
    jobs = session.scalars(
        select(Job).where(Job.record_uid == record_uid, Job.state.in_(OPEN)).order_by(Job.created_at)
    ).all()
    for job in jobs:
        if job.state not in WAITING or has_begun(session, job) or _is_applying(session, record_uid):
            raise StateError(
                f"job {job.uid} is at work on record {record_uid}", remedy=f"wait for it: `pam job watch {job.uid}`"
            )
    for job in jobs:
        cancel(session, clock, actor, job.uid)


def end_waiting_rotations(session: Session, clock: Clock, actor: Actor, record_uid: str) -> None:
    """Cancel the rotations that wait; one that has begun to change its target is brought to its end all the same."""
    if _is_applying(session, record_uid):
        return
    jobs = session.scalars(
        select(Job).where(Job.record_uid == record_uid, Job.kind == JobKind.ROTATE, Job.state.in_(WAITING))
    ).all()
    for job in jobs:
        if not has_begun(session, job):
            cancel(session, clock, actor, job.uid)


def _is_applying(session: Session, record_uid: str) -> bool:
    applying = select(CredentialVersion.id).where(
        CredentialVersion.record_uid == record_uid, CredentialVersion.state == VersionState.APPLYING
    )
    return session.scalar(applying.limit(1)) is not None

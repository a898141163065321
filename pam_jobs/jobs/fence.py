"""The fence: one row a credential, whose number a claim adds one to and every later write must carry.

Each write of an attempt first takes that row. Whoever comes with an older number, or after the lease's end, is refused
before anything is written. The row is always taken before the job's, so that two attempts wait for each other in one
order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import CredentialEpoch, Job
from pam_jobs.errors import AccessDenied, EpochConflict, LeaseLost, NotFound
from pam_jobs.jobs.sql import run
from pam_jobs.jobs.states import HELD

__all__ = ["Holder", "free", "hold", "subject_of"]

_JOBS: Final = table_of(Job)
_EPOCHS: Final = table_of(CredentialEpoch).c
_HELD: Final = (  # made once: it runs with every write of every attempt
    select(
        _JOBS,
        _EPOCHS.epoch.label("newest_epoch"),
        _EPOCHS.job_uid.label("held_by"),
        _EPOCHS.lease_until.label("held_until"),
    )
    .join(table_of(CredentialEpoch), _EPOCHS.record_uid == func.coalesce(_JOBS.c.record_uid, _JOBS.c.configuration_uid))
    .where(_JOBS.c.uid == bindparam("job_uid"))
    .with_for_update(of=table_of(CredentialEpoch))
)
_FREE: Final = (
    update(table_of(CredentialEpoch))
    .where(
        _EPOCHS.record_uid == bindparam("subject"),
        _EPOCHS.epoch == bindparam("at_epoch"),
        _EPOCHS.job_uid == bindparam("holder"),
    )
    .values(job_uid=None, lease_until=None)
)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who says that it holds a job's lease."""

    job_uid: str
    gateway_uid: str
    instance: str
    epoch: int


def subject_of(job: Job) -> str:
    """Return whose epoch the job goes by: the user record's, or for discovery the configuration's."""
    return job.record_uid or job.configuration_uid


def hold(session: Session, clock: Clock, holder: Holder) -> Job:
    """Return the job when the holder has its lease; until the transaction ends nobody else can take it.

    It is a row with the job's columns, as of the statement: change them by updates with their condition.

    Raises:
        NotFound: there is no such job.
        AccessDenied: it is another gateway's.
        EpochConflict: a newer attempt on the credential exists.
        LeaseLost: the lease has ended, or is another instance's.
    """
    job = prepared.row(session, _HELD, {"job_uid": holder.job_uid})
    if job is None:
        raise NotFound(f"job {holder.job_uid} does not exist or was never claimed")
    epoch, lease_until = job.newest_epoch, job.held_until
    if job.gateway_uid != holder.gateway_uid:
        raise AccessDenied(f"job {job.uid} belongs to another gateway")
    if epoch != holder.epoch:
        raise EpochConflict(
            f"attempt {holder.epoch} was overtaken by attempt {epoch} on this credential",
            remedy="stop at once; the newer attempt goes on with the same value",
        )
    is_held = job.held_by == job.uid and job.state in HELD and job.lease_instance == holder.instance
    if not is_held or lease_until is None or lease_until <= clock.now():
        raise LeaseLost(remedy="stop at once; the job is given to the next attempt")
    return cast("Job", job)


def free(session: Session, job: Job, epoch: int) -> None:
    """End the lease on the credential; its number stays and only grows."""
    run(session, _FREE, {"subject": subject_of(job), "at_epoch": epoch, "holder": job.uid})

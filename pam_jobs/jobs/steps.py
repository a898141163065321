"""Post-rotation steps: declared once, started once, so that a finished script never runs a second time."""

from __future__ import annotations

from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.tables import Job, JobState, JobStep, StepState
from pam_jobs.errors import InvalidInput, NotFound, StateError
from pam_jobs.jobs import wire
from pam_jobs.jobs.fence import Holder, hold
from pam_jobs.jobs.sql import IgnoringInsert, changed

__all__ = ["declare", "finish", "rows_of", "start"]

_ENDS = (StepState.SUCCEEDED, StepState.FAILED, StepState.UNKNOWN)
_MAX_STEPS = wire.MOST_STEPS
_MAX_OUTPUT = 1_000_000  # bytes of ciphertext
_ADD: Final = IgnoringInsert(JobStep)


def rows_of(session: Session, job_uid: str) -> list[wire.StepRow]:
    """Return the job's steps in their order, without output."""
    rows = session.execute(
        select(
            JobStep.key,
            JobStep.position,
            JobStep.kind,
            JobStep.place,
            JobStep.state,
            JobStep.exit_code,
            JobStep.cause,
            JobStep.attempts,
            JobStep.most_attempts,
        )
        .where(JobStep.job_uid == job_uid)
        .order_by(JobStep.position, JobStep.key)
    )
    return [wire.StepRow(**row._asdict()) for row in rows]


def declare(session: Session, clock: Clock, holder: Holder, steps: list[wire.StepRow]) -> list[wire.StepRow]:
    """Add the steps that the job does not have yet, all ``pending``; return all as they stand.

    Raises:
        InvalidInput: too many steps, or one key twice.
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    if len(steps) > _MAX_STEPS or len({step.key for step in steps}) != len(steps):
        raise InvalidInput(
            f"a job has at most {_MAX_STEPS} steps, each with its own key",
            remedy="attach fewer scripts, or map fewer services to the user",
        )
    job = hold(session, clock, holder)
    rows = [
        {
            "job_uid": job.uid,
            "key": step.key,
            "position": step.position,
            "kind": step.kind,
            "place": step.place,
            "state": StepState.PENDING,
            "epoch": holder.epoch,
            "attempts": 0,
            "most_attempts": step.most_attempts,
        }
        for step in steps
    ]
    if rows:
        _ADD.run(session, rows)
    return rows_of(session, job.uid)


def start(session: Session, clock: Clock, holder: Holder, key: str) -> None:
    """Move the step ``pending → running``, durably before it runs.

    One whose end is unknown goes the same way again, as often as it was declared for.

    Raises:
        NotFound: the step was not declared.
        StateError: it is not to be started, or the job was cancelled before anything was changed.
        EpochConflict, LeaseLost, AccessDenied: as ``hold``.
    """
    job = hold(session, clock, holder)
    if job.state == JobState.LEASED:
        # A script is as irreversible as a change: from here on the job cannot be cancelled.
        began = changed(
            session,
            update(Job)
            .where(Job.uid == job.uid, Job.state == JobState.LEASED, Job.cancel_requested_at.is_(None))
            .values(state=JobState.RUNNING),
        )
        if began != 1:
            raise StateError(f"job {job.uid} was cancelled")
    started = changed(
        session,
        update(JobStep)
        .where(
            JobStep.job_uid == job.uid,
            JobStep.key == key,
            (JobStep.state == StepState.PENDING)
            | ((JobStep.state == StepState.UNKNOWN) & (JobStep.attempts < JobStep.most_attempts)),
        )
        .values(
            state=StepState.RUNNING,
            epoch=holder.epoch,
            attempts=JobStep.attempts + 1,
            cause=None,
            started_at=clock.now(),
            finished_at=None,
        ),
    )
    if started != 1:
        state = _state(session, job.uid, key)
        raise StateError(f"step {key} is {state} and is not run again")


def finish(session: Session, clock: Clock, holder: Holder, outcome: wire.StepFinish) -> None:
    """Move the step ``running → succeeded | failed | unknown`` with its sealed output; the same again is allowed.

    Raises:
        InvalidInput: the state is none that a step ends in, or the output is too large.
        NotFound: the step was not declared.
        StateError: this attempt did not start it.
        EpochConflict, LeaseLost, AccessDenied: as ``hold``.
    """
    if outcome.state not in _ENDS:
        raise InvalidInput(f"a step does not end as {outcome.state!r}", remedy="use " + ", ".join(_ENDS))
    if outcome.output is not None and len(outcome.output) > _MAX_OUTPUT:
        raise InvalidInput(f"the output is larger than {_MAX_OUTPUT} bytes", remedy="cut it before sealing it")
    job = hold(session, clock, holder)
    ended = changed(
        session,
        update(JobStep)
        .where(
            JobStep.job_uid == job.uid,
            JobStep.key == outcome.key,
            JobStep.state == StepState.RUNNING,
            JobStep.epoch == holder.epoch,
        )
        .values(
            state=StepState(outcome.state),
            exit_code=outcome.exit_code,
            cause=outcome.cause,
            output=outcome.output,
            finished_at=clock.now(),
        ),
    )
    if ended != 1 and _state(session, job.uid, outcome.key) != outcome.state:
        raise StateError(f"step {outcome.key} is not running in this attempt")


def _state(session: Session, job_uid: str, key: str) -> StepState:
    state = session.scalar(select(JobStep.state).where(JobStep.job_uid == job_uid, JobStep.key == key))
    if state is None:
        raise NotFound(f"the job has no step {key}", remedy="declare the steps first")
    return StepState(state)

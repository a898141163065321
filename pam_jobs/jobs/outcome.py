"""How an attempt ended, and what becomes of its job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, assert_never

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.many import among
from pam_jobs.db.tables import (
    CredentialVersion,
    DiscoveryResult,
    Job,
    JobKind,
    JobState,
    VersionState,
)
from pam_jobs.errors import InvalidInput, StateError
from pam_jobs.jobs import dependants, dispatch, exclusive, findings, set_aside, wire
from pam_jobs.jobs.fence import Holder, free, hold
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.sql import run
from pam_jobs.jobs.states import CHANGING, sources
from pam_jobs.jobs.submission import enqueue
from pam_jobs.jobs.trail import ended_event, job_event
from pam_jobs.jobs.wire import PostStatus, Report, Status

__all__ = ["Outcome", "check_codes", "earlier_answer", "finish", "report", "store_discovery"]

_WELL: Final = {PostStatus.NONE, PostStatus.OK, PostStatus.NOT_RUN}
EXHAUSTED: Final = "attempts_exhausted"
EXPIRED: Final = "expired"
_MAX_DETAIL = 4_000_000  # bytes of ciphertext
_MAX_RESULT = 64_000_000
_MAX_CODE = 256
_ROLLED_BACK: Final = {
    Status.ROLLED_BACK: "record_rotation_rolled_back",
    Status.ROLLBACK_REFUSED: "record_rotation_rollback_refused",
}
_JOBS: Final = table_of(Job)
_END: Final = update(_JOBS).where(  # these are made once: they run with every report
    _JOBS.c.uid == bindparam("job"),
    _JOBS.c.epoch == bindparam("attempt"),
    among(_JOBS.c.state, "sources"),
)
_WAKE: Final = (
    update(_JOBS)
    .where(
        _JOBS.c.record_uid == bindparam("record"),
        _JOBS.c.uid != bindparam("job"),
        _JOBS.c.state == JobState.QUEUED,
        _JOBS.c.not_before.is_not(None),
    )
    .values(not_before=None)
    .returning(_JOBS.c.uid, _JOBS.c.gateway_uid)
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a report."""

    state: JobState
    publish: tuple[str, ...] = ()  # uids of jobs that waited for this one; publish them after the commit


def report(session: Session, clock: Clock, policy: JobPolicy, actor: Actor, holder: Holder, ended: Report) -> Outcome:
    """End the attempt as its gateway says; said again after it was taken, it answers the same.

    Raises:
        InvalidInput: detail or probe have a wrong form.
        StateError: the job was not cancelled, or has begun to change its target.
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    try:
        job = hold(session, clock, holder)
    except StateError:
        if (state := earlier_answer(session, holder)) is None:
            raise
        return Outcome(state=state)
    return finish(session, clock, policy, actor, job, ended)


def earlier_answer(session: Session, holder: Holder) -> JobState | None:
    """Return the state that this very attempt's report led to, when it was taken already and the answer got lost."""
    row = session.execute(
        select(Job.state, Job.gateway_uid, Job.status, Job.lease_instance, Job.lease_until).where(
            Job.uid == holder.job_uid, Job.epoch == holder.epoch
        )
    ).one_or_none()
    if row is None or row.gateway_uid != holder.gateway_uid or row.lease_instance != holder.instance:
        return None
    is_reported = row.lease_until is None and row.status is not None
    return JobState(row.state) if is_reported else None


def finish(session: Session, clock: Clock, policy: JobPolicy, actor: Actor, job: Job, ended: Report) -> Outcome:
    """End the attempt of a job whose fence this transaction holds.

    Raises:
        InvalidInput: detail or probe have a wrong form.
        StateError: cancelled is said of a job that has begun to change its target.
    """
    _check(ended)
    now = clock.now()
    state, cause = _state_for(session, policy, job, ended)
    if state == JobState.CANCELLED and job.state != JobState.LEASED:
        raise StateError(
            f"job {job.uid} has begun to change its target and cannot end as cancelled",
            remedy="report what became of the target",
        )
    # Before the job's row is written: an operator's edit takes the record first, too.
    findings.note(session, clock, actor, job, ended, is_final=state != JobState.UNKNOWN)
    not_before = _next_try(policy, job, ended, now) if state == JobState.UNKNOWN else None
    columns = {
        "state": state,
        "status": ended.status,
        "post_rotation_status": ended.post_rotation_status,
        "services_status": ended.services_status,
        "effect": ended.effect,
        "cause": cause,
        "timings": ended.timings,
        "detail": ended.detail,
        "not_before": not_before,
        "lease_until": None,
        "finished_at": None if state == JobState.UNKNOWN else now,
        "target_tags": job.target_tags if state == JobState.UNKNOWN else None,
    }
    if run(session, _END, {"job": job.uid, "attempt": job.epoch, "sources": list(sources(state)), **columns}) != 1:
        raise StateError(f"job {job.uid} ended meanwhile")
    free(session, job, job.epoch)
    _tell(session, clock, actor, job, state, ended, cause)
    publish = _wake(session, clock, job)
    if state != JobState.UNKNOWN:
        publish += exclusive.wake(session, clock, job)
    if state != JobState.UNKNOWN and ended.services_status is not PostStatus.NONE:
        dependants.tell(session, clock, actor, job)
    for finding in ([ended.administrator] if ended.administrator is not None else []) + ended.machines:
        publish += set_aside.record_finding(session, clock, actor, job, finding)
    publish += dispatch.wake(session, clock, policy, job.uid)
    return Outcome(state=state, publish=publish)


def check_codes(document: Mapping[str, Any], what: str) -> None:
    """Refuse what is not plain codes, numbers and times: evidence is readable by everybody.

    Raises:
        InvalidInput: a value is nested or long.
    """
    for name, value in document.items():
        fits = (
            value is None
            or isinstance(value, bool | int | float)
            or (isinstance(value, str) and len(value) <= _MAX_CODE)
        )
        if not fits or len(name) > _MAX_CODE:
            raise InvalidInput(f"the {what} holds something else than a short code", remedy="send codes only")


def store_discovery(session: Session, clock: Clock, holder: Holder, upload: wire.DiscoveryUpload) -> None:
    """Keep the sealed result of a discovery; sent again, the later one counts.

    Raises:
        InvalidInput: the result is too large.
        StateError: the job is no discovery.
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    if len(upload.content) > _MAX_RESULT:
        raise InvalidInput(
            f"the result is larger than {_MAX_RESULT} bytes", remedy="discover the network in smaller parts"
        )
    job = hold(session, clock, holder)
    if job.kind != JobKind.DISCOVER:
        raise StateError(f"job {job.uid} is no discovery")
    row = session.get(DiscoveryResult, job.uid) or DiscoveryResult(job_uid=job.uid, processed_at=None)
    row.content, row.counts, row.stored_at = upload.content, dict(upload.counts), clock.now()
    session.add(row)


def _check(ended: Report) -> None:
    if ended.detail is not None and len(ended.detail) > _MAX_DETAIL:
        raise InvalidInput(f"the detail is larger than {_MAX_DETAIL} bytes", remedy="cut it before sealing it")
    if ended.probe is not None:
        check_codes(ended.probe, "probe")


def _state_for(session: Session, policy: JobPolicy, job: Job, ended: Report) -> tuple[JobState, str | None]:
    match ended.status:
        case Status.OK | Status.SKIPPED:
            if {ended.post_rotation_status, ended.services_status} <= _WELL:
                found = JobState.SUCCEEDED, ended.cause
            elif ended.services_status not in _WELL:
                found = JobState.FAILED, ended.cause or f"services_{ended.services_status}"
            else:
                found = JobState.FAILED, ended.cause or f"scripts_{ended.post_rotation_status}"
        case Status.PARTIAL | Status.ROLLED_BACK | Status.ROLLBACK_REFUSED:
            found = JobState.FAILED, ended.cause
        case Status.FAILED:
            is_open = _is_still_open(session, job, ended)
            found = _unknown(policy, job, ended.cause) if is_open else (JobState.FAILED, ended.cause)
        case Status.UNKNOWN:
            found = _unknown(policy, job, ended.cause)
        case Status.WAITING_HUMAN:
            found = JobState.WAITING_HUMAN, ended.cause
        case Status.CANCELLED:
            found = JobState.CANCELLED, ended.cause
        case _:
            assert_never(ended.status)
    return found


def _unknown(policy: JobPolicy, job: Job, cause: str | None) -> tuple[JobState, str | None]:
    if job.attempts >= policy.attempts_limit:
        return JobState.WAITING_HUMAN, cause or EXHAUSTED
    return JobState.UNKNOWN, cause


def _is_still_open(session: Session, job: Job, ended: Report) -> bool:
    """Say whether an earlier attempt's value may still be live although this attempt changed nothing.

    "Failed" promises that the target is as it was. That is true of this attempt alone: a value that an earlier one may
    have applied stays open until a login has shown which one counts.
    """
    if job.record_uid is None or job.kind not in CHANGING:
        return False
    rows = {
        row.state: row
        for row in session.execute(
            select(CredentialVersion.seq, CredentialVersion.state, CredentialVersion.epoch).where(
                CredentialVersion.record_uid == job.record_uid,
                CredentialVersion.state.in_((VersionState.APPLYING, VersionState.CURRENT)),
            )
        )
    }
    applying, current = rows.get(VersionState.APPLYING), rows.get(VersionState.CURRENT)
    if applying is None or applying.epoch >= job.epoch:
        return False
    probe = ended.probe or {}
    is_proven = current is not None and probe.get("version_seq") == current.seq and probe.get("verdict") == "accepted"
    return not is_proven


def _next_try(policy: JobPolicy, job: Job, ended: Report, now: datetime) -> datetime:
    if ended.retry_after_seconds is not None:
        return now + timedelta(seconds=min(ended.retry_after_seconds, policy.backoff_cap_seconds))
    return now + policy.backoff(job.attempts)


def _tell(
    session: Session, clock: Clock, actor: Actor, job: Job, state: JobState, ended: Report, cause: str | None
) -> None:
    names: dict[JobState, Callable[[], str]] = {
        JobState.SUCCEEDED: lambda: ended_event(job, is_ok=True),
        JobState.FAILED: lambda: ended_event(job, is_ok=False),
        JobState.WAITING_HUMAN: lambda: ended_event(job, is_ok=False),
        JobState.UNKNOWN: lambda: "pam_job_unknown",
        JobState.CANCELLED: lambda: "pam_job_cancelled",
    }
    job_event(
        session,
        clock,
        actor,
        names[state](),
        job,
        result_code=str(ended.status if state != JobState.WAITING_HUMAN else Status.WAITING_HUMAN),
        post_rotation_code=str(ended.post_rotation_status),
        services_code=str(ended.services_status),
        effect=ended.effect,
        cause=cause,
        attempt=job.attempts,
    )
    if ended.status in _ROLLED_BACK:
        job_event(session, clock, actor, _ROLLED_BACK[ended.status], job, cause=cause, attempt=job.attempts)


def _wake(session: Session, clock: Clock, job: Job) -> tuple[str, ...]:
    """Let jobs that waited for this credential go on, and return their uids."""
    if job.record_uid is None:
        return ()
    waited = prepared.rows(session, _WAKE, {"record": job.record_uid, "job": job.uid})
    for uid, gateway_uid in waited:
        enqueue(session, clock, uid, gateway_uid)
    return tuple(uid for uid, _ in waited)

"""What an attempt does with the candidate ledger; each is durable with its own transaction before the next begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import (
    CredentialVersion,
    Job,
    JobState,
    StoredRecord,
    VersionKind,
    VersionState,
)
from pam_jobs.errors import Conflict, InvalidInput, StateError, VaultConflict
from pam_jobs.jobs import findings, outcome, wire
from pam_jobs.jobs.fence import Holder, hold
from pam_jobs.jobs.outcome import Outcome
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.sql import run
from pam_jobs.jobs.states import HELD
from pam_jobs.jobs.trail import job_event
from pam_jobs.vault import ledger

__all__ = ["abandon", "begin", "intend", "promote", "record_of", "stage", "write_record"]

_MAX_RECORD = 5_000_000  # bytes of ciphertext
_JOBS: Final = table_of(Job)
_RECORDS: Final = table_of(StoredRecord)
_BEGIN: Final = (  # these are made once: they run with every rotation
    update(_JOBS)
    .where(_JOBS.c.uid == bindparam("job"), _JOBS.c.state.in_(HELD), _JOBS.c.cancel_requested_at.is_(None))
    .values(state=JobState.RUNNING)
)
_WRITE_RECORD: Final = update(_RECORDS).where(
    _RECORDS.c.uid == bindparam("record"), _RECORDS.c.revision == bindparam("made_from")
)


def stage(session: Session, clock: Clock, actor: Actor, holder: Holder, ciphertext: bytes) -> int:
    """Add the candidate as ``staged`` and return its number; the very same again returns the same number.

    Raises:
        Conflict: another value is unresolved and must be resolved first.
        StateError: the job was cancelled.
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    job = hold(session, clock, holder)
    record_uid = record_of(job)
    _check_not_cancelled(job)
    try:
        row = ledger.stage(
            session,
            clock,
            record_uid=record_uid,
            kind=VersionKind.CREDENTIAL,
            ciphertext=ciphertext,
            epoch=holder.epoch,
            staged_by=job.gateway_uid,
            job_uid=job.uid,
        )
    except Conflict:
        standing = ledger.unresolved(session, record_uid)
        if standing is None or standing.job_uid != job.uid or standing.ciphertext != ciphertext:
            raise
        return standing.seq
    job_event(session, clock, actor, "credential_staged", job, version_seq=row.seq, epoch=holder.epoch)
    return row.seq


def begin(session: Session, clock: Clock, holder: Holder) -> Job:
    """Declare the job running: from the commit on its target may be changed, and it cannot be cancelled.

    Raises:
        StateError: the job was cancelled.
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    job = hold(session, clock, holder)
    _check_not_cancelled(job)
    if job.state != JobState.RUNNING and run(session, _BEGIN, {"job": job.uid}) != 1:
        raise _cancelled(job)
    return job


def intend(session: Session, clock: Clock, holder: Holder, seq: int) -> None:
    """Declare the candidate ``applying`` and the job running: from the commit on the target may have the value.

    It is the fence as well: a cancellation that came before it wins, one that comes after it is too late.

    Raises:
        StateError: the job was cancelled, or the version is decided.
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    job = begin(session, clock, holder)
    ledger.begin_applying(session, clock, record_of(job), seq, holder.epoch)


def promote(
    session: Session, clock: Clock, policy: JobPolicy, actor: Actor, holder: Holder, promotion: wire.Promotion
) -> tuple[int, Outcome]:
    """Make the candidate current, write the record at its revision and, with a report, end the job: all or nothing.

    Returns:
        The record's revision and the job's state. The very same again, after the answer got lost, returns the same.

    Raises:
        VaultConflict: the record has another revision; fetch it, merge again, promote again.
        InvalidInput: the evidence shows no login, or holds more than codes.
        EpochConflict, LeaseLost, AccessDenied, NotFound, StateError: as ``hold`` and the ledger.
    """
    outcome.check_codes(promotion.evidence, "evidence")
    if len(promotion.record_data) > _MAX_RECORD:
        raise InvalidInput(f"the record is larger than {_MAX_RECORD} bytes", remedy="shorten its notes")
    try:
        job = hold(session, clock, holder)
    except StateError:
        if (again := _promoted_already(session, holder, promotion)) is None:
            raise
        return again
    revision = _make_current(session, clock, actor, job, promotion)
    if promotion.report is None:
        return revision, Outcome(state=JobState(job.state))
    return revision, outcome.finish(session, clock, policy, actor, job, promotion.report)


def abandon(
    session: Session,
    clock: Clock,
    actor: Actor,
    holder: Holder,
    *,
    seq: int,
    reason: str,
    evidence: Mapping[str, Any],
) -> None:
    """Give the candidate up: the target refused that value by policy, and current was proven to log in.

    Raises:
        InvalidInput: the evidence does not show it, or holds more than codes.
        EpochConflict, LeaseLost, AccessDenied, NotFound, StateError: as ``hold`` and the ledger.
    """
    outcome.check_codes(evidence, "evidence")
    job = hold(session, clock, holder)
    told = {**evidence, "gateway": job.gateway_uid, "job": job.uid, "at": clock.now().isoformat()}
    ledger.abandon(session, clock, record_of(job), seq, epoch=holder.epoch, reason=reason, evidence=told)
    job_event(session, clock, actor, "credential_abandoned", job, version_seq=seq, epoch=holder.epoch, cause=reason)


def record_of(job: Job) -> str:
    """Return the uid of the job's user record.

    Raises:
        StateError: the job is about none.
    """
    if job.record_uid is None:
        raise StateError(f"job {job.uid} has no credential")
    return job.record_uid


def _cancelled(job: Job) -> StateError:
    return StateError(f"job {job.uid} was cancelled", remedy="report it as cancelled; the target was not changed")


def _check_not_cancelled(job: Job) -> None:
    if job.cancel_requested_at is not None and job.state == JobState.LEASED:
        raise _cancelled(job)


def _make_current(session: Session, clock: Clock, actor: Actor, job: Job, promotion: wire.Promotion) -> int:
    """Move the ledger, write the record and the settings, and return the record's new revision."""
    evidence = {**promotion.evidence, "gateway": job.gateway_uid, "job": job.uid, "at": clock.now().isoformat()}
    told, epoch, kept = promotion.seq, promotion.epoch, promotion.kept
    seq = ledger.promote(session, clock, record_of(job), told, epoch=epoch, evidence=evidence, kept=kept).seq
    if kept is not None:
        job_event(session, clock, actor, "credential_abandoned", job, version_seq=told, epoch=epoch, cause="in_part")
    verdict = str(promotion.evidence.get("login", ledger.ACCEPTED))
    revision = write_record(
        session, clock, actor, job, seq, promotion.record_data, promotion.record_revision, rotated=verdict
    )
    job_event(session, clock, actor, "credential_promoted", job, version_seq=seq, epoch=epoch)
    if promotion.evidence.get("old") == ledger.ACCEPTED:
        job_event(session, clock, actor, "credential_old_in_grace", job, version_seq=seq)
    return revision


def write_record(
    session: Session,
    clock: Clock,
    actor: Actor,
    job: Job,
    seq: int,
    record_data: bytes,
    record_revision: int,
    *,
    rotated: str | None = None,
) -> int:
    """Write the record merged with the version that was seen to log in, and return the record's new revision.

    Args:
        session: the caller's transaction, which has made the version the current one.
        clock: gives the time.
        actor: the gateway, for the audit log.
        job: whose lease the transaction holds.
        seq: the version.
        record_data: the whole record.
        record_revision: the revision that it was merged into.
        rotated: the version is a new one: the verdict on it; None: it was found.

    Raises:
        VaultConflict: the record has another revision.
    """
    record_uid, now = record_of(job), clock.now()
    revision = record_revision + 1
    record = {"data": record_data, "revision": revision, "updated_at": now}
    if run(session, _WRITE_RECORD, {"record": record_uid, "made_from": record_revision, **record}) != 1:
        raise VaultConflict(
            "the record was edited meanwhile", remedy="fetch it, merge the credential into it and promote again"
        )
    findings.proven(session, clock, actor, job, seq, rotated=rotated)
    return revision


def _promoted_already(session: Session, holder: Holder, promotion: wire.Promotion) -> tuple[int, Outcome] | None:
    """Return the answer of before, when this attempt has promoted this version and ended with it."""
    if promotion.report is None or (state := outcome.earlier_answer(session, holder)) is None:
        return None
    row = session.execute(
        select(StoredRecord.revision)
        .join(Job, Job.record_uid == StoredRecord.uid)
        .join(CredentialVersion, CredentialVersion.record_uid == StoredRecord.uid)
        .where(
            Job.uid == holder.job_uid,
            CredentialVersion.seq == promotion.seq,
            CredentialVersion.epoch == holder.epoch,
            CredentialVersion.state == VersionState.CURRENT,
        )
    ).scalar_one_or_none()
    return None if row is None else (row, Outcome(state=state))

"""What the report of an attempt tells of the credential: its last login, and whether vault and target agree."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import (
    CredentialVersion,
    DriftState,
    Job,
    JobKind,
    RotationSettings,
    StoredRecord,
    VersionState,
)
from pam_jobs.jobs.wire import LOCKOUT_BUDGET, Report, Status
from pam_jobs.vault import drift
from pam_jobs.vault.ledger import ACCEPTED, CONFIRMED

__all__ = ["DECIDED", "not_made", "note", "proven"]

DECIDED: Final = frozenset({"accepted", "refused", "partial"})
"""Verdicts in which the target spoke of the credential itself."""

_STANDS: Final = (DriftState.OUT_OF_SYNC, DriftState.LOCKED)  # until the target says something else
_SETTINGS: Final = table_of(RotationSettings)
_AT: Final = bindparam("at", type_=_SETTINGS.c.drift_since.type)
_LOGIN: Final = bindparam("login", type_=_SETTINGS.c.last_probe.type)
_PROVEN: Final = (  # both are made once: they run with every rotation
    update(_SETTINGS)
    .where(_SETTINGS.c.record_uid == bindparam("record"))
    .values(last_probe=_LOGIN, last_verdict=_LOGIN, prove_since=None, **drift.moved(DriftState.HEALTHY, _AT))
    .returning(_SETTINGS.c.drift_before)
)
_ROTATED: Final = _PROVEN.values(last_rotated_at=_AT)
_CONFIRMED: Final = (
    update(_SETTINGS)
    .where(_SETTINGS.c.record_uid == bindparam("record"))
    .values(
        last_probe=_LOGIN, prove_since=None, last_rotated_at=_AT, **drift.moved(DriftState.UNCHECKED, _AT, CONFIRMED)
    )
)
_CAUSE_LENGTH: Final = 64


def note(session: Session, clock: Clock, actor: Actor, job: Job, ended: Report, *, is_final: bool) -> None:
    """Keep what the attempt's login told, and record the event when the drift is another one now.

    A login with a value that is no longer the current one tells nothing: an operator gave another meanwhile.

    Args:
        session: in which the attempt ends.
        clock: gives the time.
        actor: the gateway.
        job: whose fence this transaction holds.
        ended: the report.
        is_final: no further attempt of the job follows by itself.
    """
    if job.record_uid is None or (job.kind == JobKind.ROTATE and ended.status is Status.OK):
        return  # the promotion has told it already
    seen = _seen(job, ended, is_final=is_final)
    login = None if (ended.probe or {}).get("cause") == LOCKOUT_BUDGET else ended.probe  # that one was not made
    if seen is None and login is None:
        return
    if login is not None and not _is_current(session, job.record_uid, login.get("version_seq")):
        return
    now = clock.now()
    values: dict[str, Any] = {}
    if login is not None:
        last = {**login, "at": now.isoformat(), "gateway": job.gateway_uid, "job": job.uid}
        values |= {"last_probe": last} | ({"last_verdict": last} if login.get("verdict") in DECIDED else {})
        if login.get("verdict") == ACCEPTED:
            values["prove_since"] = None
    statement = update(_SETTINGS).where(_SETTINGS.c.record_uid == job.record_uid)
    if seen is not None:
        state, cause = seen
        values |= drift.moved(state, now, cause)
        if state is DriftState.UNCHECKED:
            statement = statement.where(_SETTINGS.c.drift.not_in(_STANDS))
    before = session.execute(
        statement.values(**values).returning(RotationSettings.drift_before).execution_options(synchronize_session=False)
    ).scalar_one_or_none()
    if before is not None and seen is not None:
        drift.tell(session, clock, actor, before, seen[0], cause=seen[1], fields=_fields(job))


def not_made(session: Session, clock: Clock, actor: Actor, job: Job) -> None:
    """Make the credential unchecked whose verification ended without an attempt; nothing is said of other jobs.

    What the target itself said stands, and so does what somebody saw since the verification was asked for.
    """
    if job.record_uid is None or job.kind != JobKind.VERIFY:
        return
    before = session.execute(
        update(_SETTINGS)
        .where(
            _SETTINGS.c.record_uid == job.record_uid,
            _SETTINGS.c.drift.not_in(_STANDS),
            _SETTINGS.c.drift_checked_at.is_(None) | (_SETTINGS.c.drift_checked_at <= job.created_at),
        )
        .values(**drift.moved(DriftState.UNCHECKED, clock.now(), job.cause))
        .returning(_SETTINGS.c.drift_before)
    ).scalar_one_or_none()
    if before is not None:
        drift.tell(session, clock, actor, before, DriftState.UNCHECKED, cause=job.cause, fields=_fields(job))


def proven(session: Session, clock: Clock, actor: Actor, job: Job, seq: int, *, rotated: str | None) -> None:
    """Keep that the version which is the current one now was seen to log in.

    One statement, and an event where something was wrong before.

    Args:
        session: in which the version became the current one.
        clock: gives the time.
        actor: the gateway.
        job: whose login it was.
        seq: the version.
        rotated: the version is a new one: ``accepted``, or ``confirmed`` where nobody could log in; None: it was found.
    """
    now = clock.now()
    last = {
        "verdict": rotated or ACCEPTED,
        "version_seq": seq,
        "at": now.isoformat(),
        "gateway": job.gateway_uid,
        "job": job.uid,
    }
    seen = {"record": job.record_uid, "login": last, "at": now}
    if rotated == CONFIRMED:
        prepared.run(session, _CONFIRMED, seen)
        return
    before = prepared.scalar(session, _ROTATED if rotated else _PROVEN, seen)
    # `credential_promoted` says it of a value that nobody had tried before.
    if before is not None and before != DriftState.UNCHECKED:
        drift.tell(session, clock, actor, before, DriftState.HEALTHY, cause=None, fields=_fields(job))


def _seen(job: Job, ended: Report, *, is_final: bool) -> tuple[DriftState, str | None] | None:
    """Return the state that the report tells, with its cause; None when it tells nothing."""
    probe = ended.probe or {}
    cause = str(probe.get("cause") or ended.cause or "")[:_CAUSE_LENGTH] or None
    match probe.get("verdict"):
        case "accepted":
            return DriftState.HEALTHY, None
        case "refused" | "partial":
            return DriftState.OUT_OF_SYNC, ended.cause
        case "locked":
            return DriftState.LOCKED, cause
        case _:
            pass
    if not is_final or job.kind == JobKind.ROTATE or ended.status is Status.CANCELLED:
        return None
    if probe and cause != LOCKOUT_BUDGET:
        return DriftState.UNREACHABLE, cause
    return (DriftState.UNCHECKED, cause) if job.kind == JobKind.VERIFY else None


def _is_current(session: Session, record_uid: str, seq: int | None) -> bool:
    """Say whether the version is the current one, and keep it so until the transaction ends."""
    if seq is None:  # the ledger does not hold what the record says
        return True
    session.execute(select(StoredRecord.uid).where(StoredRecord.uid == record_uid).with_for_update())
    found = session.scalar(
        select(CredentialVersion.seq).where(
            CredentialVersion.record_uid == record_uid, CredentialVersion.state == VersionState.CURRENT
        )
    )
    return found == seq


def _fields(job: Job) -> dict[str, str | None]:
    return {
        "record_uid": job.record_uid,
        "configuration_uid": job.configuration_uid,
        "gateway_uid": job.gateway_uid,
        "job_uid": job.uid,
        "job_kind": str(job.kind),
    }

"""The candidate ledger: every value a credential had, has or is about to have.

A row's value never changes and no row is deleted while it may matter; its state moves along these arrows only::

    staged ──► applying ──► current ──► previous ──► retired
      │            └──────────┐
      ├──► current (a KSM client's transaction, which has no `applying`)
      └──► abandoned ◄────────┘

    staged, applying ──► previous (another value, unknown to the ledger, was seen to log in: ``recovered``)

A row that is `staged` or `applying` is *unresolved*: the target may have it, so it blocks a second candidate and every
deletion of its record. Functions work in the caller's transaction and take the record's row lock first, so that two
attempts on one record follow each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.tables import CredentialVersion, RotationSettings, VersionKind, VersionState
from pam_jobs.errors import Conflict, InvalidInput, StateError
from pam_jobs.vault import ledger_rows as rows
from pam_jobs.vault.ledger_rows import KEPT_PREVIOUS, UNRESOLVED, unresolved, versions

__all__ = [
    "ACCEPTED",
    "KEPT_PREVIOUS",
    "UNRESOLVED",
    "abandon",
    "begin_applying",
    "client_current",
    "operator_current",
    "promote",
    "recovered",
    "stage",
    "unresolved",
    "versions",
]

ACCEPTED: Final = "accepted"
CONFIRMED: Final = "confirmed"
"""The verdict of a login that succeeded, in ``evidence["login"]`` (candidate) and ``evidence["current"]``."""


def stage(  # noqa: PLR0913 - each argument is a column of the row
    session: Session,
    clock: Clock,
    *,
    record_uid: str,
    kind: VersionKind,
    ciphertext: bytes,
    epoch: int,
    staged_by: str,
    job_uid: str | None = None,
    base_revision: int | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> CredentialVersion:
    """Add a row ``staged``: durable with the commit, before the target hears of the value.

    Args:
        session: the caller's transaction.
        clock: gives the row's time.
        record_uid: whose value it is.
        kind: a credential of the rotation engine, or the whole record of a KSM client's transaction.
        ciphertext: the value by the record key.
        epoch: of the attempt; 0 for KSM clients.
        staged_by: gateway uid or client id.
        job_uid: of the attempt.
        base_revision: the record's revision that a whole record was made from.
        evidence: identifiers and codes to keep with it.

    Returns:
        The row with its number.

    Raises:
        Conflict: an unresolved version exists; it must be resolved first, with that same value.
        EpochConflict: a newer attempt has written already.
        NotFound: there is no such record.
    """
    rows.lock(session, record_uid)
    if (open_version := rows.unresolved(session, record_uid)) is not None:
        raise Conflict(
            f"version {open_version.seq} of this record is not resolved yet",
            remedy="finish or roll back that change first; its value may be live on the target",
        )
    newest = rows.newest(session, record_uid)
    if kind is VersionKind.CREDENTIAL and newest is not None and epoch < newest[1]:
        raise rows.stale(epoch, newest[1])
    return rows.add(
        session,
        record_uid=record_uid,
        seq=newest[0] + 1 if newest else 1,
        kind=kind,
        epoch=epoch,
        ciphertext=ciphertext,
        state=VersionState.STAGED,
        base_revision=base_revision,
        job_uid=job_uid,
        staged_by=staged_by,
        staged_at=clock.now(),
        decided_at=None,
        evidence=dict(evidence or {}),
    )


def begin_applying(session: Session, clock: Clock, record_uid: str, seq: int, epoch: int) -> CredentialVersion:
    """Move ``staged → applying``: from its commit on, the target may have the value. Saying so again is allowed.

    Raises:
        EpochConflict: a newer attempt has written to the row.
        StateError: the row is in another state, or belongs to a KSM client's transaction.
        NotFound: there is no such row.
    """
    row = rows.locked_row(session, record_uid, seq, epoch)
    return rows.move(session, row, VersionState.APPLYING, epoch=epoch, applying_at=row.applying_at or clock.now())


def promote(
    session: Session,
    clock: Clock,
    record_uid: str,
    seq: int,
    *,
    epoch: int,
    evidence: Mapping[str, Any],
    kept: bytes | None = None,
) -> CredentialVersion:
    """Make the row ``current``; what was current becomes ``previous``, and all but the newest three of those ``retired``.

    Where the target took only a part of the row's value, what logs in now becomes current as a row of its own, and the
    row itself is given up: until the commit the part is kept in the one row, and from then on in the other.

    Args:
        session: the caller's transaction, which also writes the record's data.
        clock: gives the time of the decision.
        record_uid: whose value it is.
        seq: the row.
        epoch: of the attempt; 0 for KSM clients.
        evidence: codes and times only. A credential needs ``{"login": "accepted"}``: nothing becomes current that
            was not seen to log in. Of an online service ``confirmed`` is enough: some have no login to try.
        kept: what logs in, by the record key, where the target took only a part.

    Returns:
        The current row.

    Raises:
        EpochConflict: a newer attempt has written to the row.
        InvalidInput: the evidence does not show a login.
        StateError: the row may not become current from its state.
        NotFound: there is no such row.
    """
    row = rows.locked_row(session, record_uid, seq, epoch)
    if row.kind == VersionKind.CREDENTIAL and not _is_seen(session, record_uid, evidence):
        raise InvalidInput(
            "the evidence does not show that the new credential logs in", remedy="probe before promoting"
        )
    rows.check(row, VersionState.CURRENT)
    rows.retire_current(session, clock, record_uid)
    decided = {"epoch": epoch, "decided_at": clock.now()}
    if kept is None:
        return rows.move(session, row, VersionState.CURRENT, **decided, evidence=dict(evidence))
    rows.move(session, row, VersionState.ABANDONED, **decided, evidence={"reason": "in_part", "kept_as": seq + 1})
    return rows.add(
        session,
        record_uid=record_uid,
        seq=seq + 1,  # nothing was added meanwhile: the open row stood in the way
        kind=VersionKind.CREDENTIAL,
        ciphertext=kept,
        state=VersionState.CURRENT,
        base_revision=None,
        job_uid=row.job_uid,
        staged_by=row.staged_by,
        staged_at=row.staged_at,
        **decided,
        evidence=dict(evidence),
    )


def abandon(
    session: Session, clock: Clock, record_uid: str, seq: int, *, epoch: int, reason: str, evidence: Mapping[str, Any]
) -> CredentialVersion:
    """Give up an unresolved row; its value is kept, and will never be tried again.

    Args:
        session: the caller's transaction.
        clock: gives the time of the decision.
        record_uid: whose value it is.
        seq: the row.
        epoch: of the attempt; 0 for KSM clients.
        reason: code of what the target said against this value.
        evidence: codes and times only. A credential needs ``{"current": "accepted"}``, the proof that the current
            value logs in; where the record has no current version, ``{"effect": "not_applied"}`` instead.

    Raises:
        EpochConflict: a newer attempt has written to the row.
        InvalidInput: the evidence does not show that the current value logs in.
        StateError: the row is decided already.
        NotFound: there is no such row.
    """
    row = rows.locked_row(session, record_uid, seq, epoch)
    rows.check(row, VersionState.ABANDONED)
    if row.kind == VersionKind.CREDENTIAL and not _is_safe(session, record_uid, evidence):
        raise InvalidInput(
            "the evidence does not show that the current credential logs in",
            remedy="prove the current credential first; until then both values are kept",
        )
    told = {**evidence, "reason": reason}
    return rows.move(session, row, VersionState.ABANDONED, epoch=epoch, decided_at=clock.now(), evidence=told)


def operator_current(
    session: Session, clock: Clock, record_uid: str, ciphertext: bytes, user_uid: str
) -> CredentialVersion:
    """Add a credential given by an operator as ``current``; what was current becomes ``previous``.

    Raises:
        StateError: a version is unresolved; which value is live is not known yet.
        NotFound: there is no such record.
    """
    return _add_current(
        session, clock, record_uid, VersionKind.CREDENTIAL, ciphertext, staged_by=user_uid, source="operator"
    )


def client_current(
    session: Session, clock: Clock, record_uid: str, ciphertext: bytes, client_id: str
) -> CredentialVersion:
    """Add a whole record that a KSM client committed at once as ``current``; what was current becomes ``previous``.

    Raises:
        StateError: a version is unresolved; which value is live is not known yet.
        NotFound: there is no such record.
    """
    return _add_current(
        session, clock, record_uid, VersionKind.RECORD, ciphertext, staged_by=client_id, source="client"
    )


def recovered(
    session: Session, clock: Clock, record_uid: str, ciphertext: bytes, *, epoch: int, **columns: Any
) -> tuple[CredentialVersion, bool]:
    """Add a value that was found to log in, and that the ledger has lost or set aside, as ``current``.

    What was current becomes ``previous``, and so does a row of an attempt that was under way: another value is live, so
    its own is not, but it stays among those that recovery tries.

    Args:
        session: the caller's transaction, which also writes the record's data.
        clock: gives the row's times.
        record_uid: whose value it is.
        ciphertext: the value by the record key.
        epoch: of the attempt.
        columns: ``staged_by``, ``job_uid`` and ``evidence`` of the row.

    Returns:
        The row, and whether it is new: a value that is current already stays as it is.

    Raises:
        EpochConflict: a newer attempt has written already.
        StateError: a KSM client's transaction is open on the record.
        NotFound: there is no such record.
    """
    rows.lock(session, record_uid)
    current = next((row for row in rows.decided(session, record_uid) if row.state == VersionState.CURRENT), None)
    if current is not None and current.ciphertext == ciphertext:
        return current, False
    newest = rows.newest(session, record_uid)
    if newest is not None and epoch < newest[1]:
        raise rows.stale(epoch, newest[1])
    if (open_version := rows.unresolved(session, record_uid)) is not None:
        if open_version.kind != VersionKind.CREDENTIAL:
            raise StateError("a client's update of the record is staged and not finished", remedy="finish it first")
        rows.move(session, open_version, VersionState.PREVIOUS, decided_at=clock.now())
    rows.retire_current(session, clock, record_uid)
    columns |= {"staged_at": clock.now(), "decided_at": clock.now(), "state": VersionState.CURRENT}
    row = rows.add(
        session,
        record_uid=record_uid,
        seq=newest[0] + 1 if newest else 1,
        kind=VersionKind.CREDENTIAL,
        epoch=epoch,
        ciphertext=ciphertext,
        **columns,
    )
    return row, True


def _add_current(
    session: Session,
    clock: Clock,
    record_uid: str,
    kind: VersionKind,
    ciphertext: bytes,
    *,
    staged_by: str,
    source: str,
) -> CredentialVersion:
    rows.lock(session, record_uid)
    if (open_version := rows.unresolved(session, record_uid)) is not None:
        raise StateError(
            f"version {open_version.seq} of this record is not resolved yet, so it is not known which value is live",
            remedy="wait for the rotation or reconcile the record, then set the credential",
        )
    newest = rows.newest(session, record_uid)
    rows.retire_current(session, clock, record_uid)
    return rows.add(
        session,
        record_uid=record_uid,
        seq=newest[0] + 1 if newest else 1,
        kind=kind,
        epoch=0,
        ciphertext=ciphertext,
        state=VersionState.CURRENT,
        base_revision=None,
        job_uid=None,
        staged_by=staged_by,
        staged_at=clock.now(),
        decided_at=clock.now(),
        evidence={"source": source},
    )


def _is_seen(session: Session, record_uid: str, evidence: Mapping[str, Any]) -> bool:
    login = evidence.get("login")
    return login == ACCEPTED or (login == CONFIRMED and _is_service(session, record_uid))


def _is_service(session: Session, record_uid: str) -> bool:
    """Say whether a plugin of an online service changes the credential."""
    found = select(RotationSettings.profile).where(RotationSettings.record_uid == record_uid)
    return session.scalar(found) == "saas"


def _is_safe(session: Session, record_uid: str, evidence: Mapping[str, Any]) -> bool:
    if evidence.get("current") == ACCEPTED:
        return True
    if evidence.get("current") == CONFIRMED and _is_service(session, record_uid):
        return evidence.get("effect") == "not_applied"
    current = session.scalar(
        select(CredentialVersion.id).where(
            CredentialVersion.record_uid == record_uid, CredentialVersion.state == VersionState.CURRENT
        )
    )
    return current is None and evidence.get("effect") == "not_applied"

"""The evidence that a credential logs in: of one record, or of all of them a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, Field
from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock, stamp
from pam_jobs.db.tables import CredentialVersion, DriftState, RotationSettings, VersionKind, VersionState
from pam_jobs.errors import InvalidInput
from pam_jobs.jobs.findings import DECIDED
from pam_jobs.vault.ledger import ACCEPTED, CONFIRMED, UNRESOLVED

__all__ = ["MAX_PAGE", "CurrentVersion", "OpenVersion", "Proof", "ProofPage", "ProofStatus", "prove", "prove_all"]

MAX_PAGE: Final = 1000
"""Most proofs that one call returns."""


class ProofStatus(StrEnum):
    """What the evidence comes to."""

    PROVEN = "proven"  # the current version was seen to log in, and nothing later speaks against it
    UNRESOLVED = "unresolved"  # another version may be live on the target
    OUT_OF_SYNC = "out_of_sync"  # the target refused the current version
    NEVER_PROVEN = "never_proven"  # nobody has seen the current version log in
    TOO_OLD = "too_old"  # its last login is longer ago than was asked for
    RESTORED = "restored"  # the database came from an older backup, and nobody has seen a login since
    NO_VERSION = "no_version"  # there is no credential


class CurrentVersion(BaseModel):
    """The version that counts."""

    seq: int
    staged_at: datetime
    decided_at: datetime | None
    evidence: dict[str, Any]


class OpenVersion(BaseModel):
    """A version of which it is not decided whether it counts."""

    seq: int
    state: str
    kind: str
    epoch: int
    staged_at: datetime
    applying_at: datetime | None


class Proof(BaseModel):
    """What is known, and whether it proves that the current credential logs in."""

    record: str
    current: CurrentVersion | None
    unresolved: list[OpenVersion]
    last_probe: dict[str, Any] | None  # {"at", "verdict", "gateway", "job", "version_seq"}
    drift: DriftState | None  # None: the record is not rotated
    drift_since: datetime | None
    drift_checked_at: datetime | None
    drift_cause: str | None
    proven: bool
    proven_at: datetime | None = Field(description="the last login of the current version that was accepted")
    status: ProofStatus
    reason: str


class ProofPage(BaseModel):
    """Proofs by record UID; go on after the last one while there is a next page."""

    proofs: list[Proof]
    next: str | None = Field(description="give it as `after`; null on the last page")


@dataclass(kw_only=True)
class _Facts:
    """What the database holds of one record; ciphertext is not read."""

    record_uid: str
    settings: Row[Any] | None = None
    current: Row[Any] | None = None
    unresolved: list[Row[Any]] = field(default_factory=list)


_SETTINGS: Final = (
    RotationSettings.last_probe,
    RotationSettings.last_verdict,
    RotationSettings.prove_since,
    RotationSettings.drift,
    RotationSettings.drift_since,
    RotationSettings.drift_checked_at,
    RotationSettings.drift_cause,
)
_VERSION: Final = (
    CredentialVersion.record_uid,
    CredentialVersion.seq,
    CredentialVersion.state,
    CredentialVersion.kind,
    CredentialVersion.epoch,
    CredentialVersion.staged_at,
    CredentialVersion.applying_at,
    CredentialVersion.decided_at,
    CredentialVersion.evidence,
)


def prove(session: Session, clock: Clock, record_uid: str, *, max_age: timedelta | None = None) -> Proof:
    """Return the evidence on a record's credential; the caller has checked that the record may be seen.

    Args:
        session: read only is enough.
        clock: what the age of a login is counted from.
        record_uid: whose credential.
        max_age: a login longer ago does not count; None: however long ago.

    Raises:
        InvalidInput: the age is not above 0.
    """
    query = select(RotationSettings.record_uid, *_SETTINGS).where(RotationSettings.record_uid == record_uid)
    [facts] = _read(session, [record_uid], session.execute(query).all())
    return _proof(facts, _oldest(clock, max_age))


def prove_all(
    session: Session, clock: Clock, *, after: str | None = None, limit: int = MAX_PAGE, max_age: timedelta | None = None
) -> ProofPage:
    """Return the evidence on all credentials that are rotated on a target: two queries a page.

    Records whose scripts alone are run have no target to log in to; there is nothing to prove.

    Args:
        session: read only is enough.
        clock: what the age of a login is counted from.
        after: ``next`` of the page before; None for the first.
        limit: most proofs, 1 to ``MAX_PAGE``.
        max_age: a login longer ago does not count; None: however long ago.

    Raises:
        InvalidInput: limit or age are out of range.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"a page of {limit} proofs is not possible", remedy=f"ask for 1 to {MAX_PAGE}")
    query: Select[Any] = (
        select(RotationSettings.record_uid, *_SETTINGS)
        .where((RotationSettings.profile != "scripts_only") | RotationSettings.resource_uid.is_not(None))
        .order_by(RotationSettings.record_uid)
        .limit(limit + 1)
    )
    if after is not None:
        query = query.where(RotationSettings.record_uid > after)
    rows = session.execute(query).all()
    shown = rows[:limit]
    oldest = _oldest(clock, max_age)
    facts = _read(session, [row.record_uid for row in shown], shown)
    return ProofPage(
        proofs=[_proof(each, oldest) for each in facts],
        next=shown[-1].record_uid if len(rows) > limit else None,
    )


def _oldest(clock: Clock, max_age: timedelta | None) -> datetime | None:
    if max_age is None:
        return None
    if max_age <= timedelta(0):
        raise InvalidInput("the age of a proof is not above 0", remedy="give a number of days above 0")
    return clock.now() - max_age


def _read(session: Session, record_uids: Sequence[str], settings: Sequence[Row[Any]]) -> list[_Facts]:
    found = {uid: _Facts(record_uid=uid) for uid in record_uids}
    for row in settings:
        found[row.record_uid].settings = row
    versions = session.execute(
        select(*_VERSION)
        .where(
            CredentialVersion.record_uid.in_(record_uids),
            CredentialVersion.state.in_((VersionState.CURRENT, *UNRESOLVED)),
        )
        .order_by(CredentialVersion.record_uid, CredentialVersion.seq.desc())
    )
    for row in versions:
        facts = found[row.record_uid]
        if row.state == VersionState.CURRENT:
            facts.current = row
        else:
            facts.unresolved.append(row)
    return list(found.values())


def _proof(facts: _Facts, oldest: datetime | None) -> Proof:
    settings = facts.settings
    proven_at = _proven_at(facts)
    status, reason = _judge(facts, proven_at, oldest)
    current = CurrentVersion.model_validate(facts.current, from_attributes=True) if facts.current else None
    if current is not None:
        current.evidence = _with_instant(current.evidence) or {}
    return Proof(
        record=facts.record_uid,
        current=current,
        unresolved=[OpenVersion.model_validate(row, from_attributes=True) for row in facts.unresolved],
        last_probe=_with_instant(settings.last_probe) if settings else None,
        drift=settings.drift if settings else None,
        drift_since=settings.drift_since if settings else None,
        drift_checked_at=settings.drift_checked_at if settings else None,
        drift_cause=settings.drift_cause if settings else None,
        proven=status is ProofStatus.PROVEN,
        proven_at=proven_at,
        status=status,
        reason=reason,
    )


def _with_instant(document: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the document with its time as one, so that all times of a proof are written alike."""
    if not document or "at" not in document:
        return document
    return {**document, "at": datetime.fromisoformat(str(document["at"]))}


def _verdict(facts: _Facts) -> tuple[str, datetime] | None:
    """Return what the target said last of the current version, and when; what it could not say does not count."""
    if facts.current is None:
        return None
    seen = facts.settings.last_verdict if facts.settings else None
    if seen and seen.get("version_seq") == facts.current.seq and seen.get("verdict") in DECIDED:
        return str(seen["verdict"]), datetime.fromisoformat(str(seen["at"]))
    evidence = facts.current.evidence
    if facts.current.kind == VersionKind.CREDENTIAL and evidence.get("login") == ACCEPTED:
        return ACCEPTED, facts.current.decided_at
    return None


def _proven_at(facts: _Facts) -> datetime | None:
    verdict = _verdict(facts)
    return verdict[1] if verdict and verdict[0] == ACCEPTED else None


def _judge(facts: _Facts, proven_at: datetime | None, oldest: datetime | None) -> tuple[ProofStatus, str]:
    applying = next((row for row in facts.unresolved if row.state == VersionState.APPLYING), None)
    if applying is not None:
        return ProofStatus.UNRESOLVED, (
            f"version {applying.seq} may be live on the target and is not resolved yet; both values are kept:"
            " the next attempt tells, or `pam action reconcile`"
        )
    if facts.current is None:
        return ProofStatus.NO_VERSION, "the record has no credential version: give it one, or rotate it"
    seq = facts.current.seq
    verdict = _verdict(facts)
    if verdict is None and (facts.current.evidence or {}).get("login") == CONFIRMED:
        return ProofStatus.NEVER_PROVEN, (
            f"the service confirmed version {seq}, and nobody can log in there from a gateway: sign in once yourself"
        )
    if verdict is None:
        return ProofStatus.NEVER_PROVEN, f"nobody has seen version {seq} log in: `pam action verify`"
    if proven_at is None:
        return ProofStatus.OUT_OF_SYNC, (
            f"the target refused version {seq} at {stamp(verdict[1])}: `pam action reconcile`"
        )
    return _of_login(facts, proven_at, oldest)


def _of_login(facts: _Facts, proven_at: datetime, oldest: datetime | None) -> tuple[ProofStatus, str]:
    """Return whether the login of the current version still counts."""
    seq = facts.current.seq if facts.current else None
    if facts.settings is not None and (since := facts.settings.prove_since) is not None:
        return ProofStatus.RESTORED, (
            f"the database was restored from an older backup (noticed at {stamp(since)}), and nobody has seen the value"
            " log in since: `pam action verify`"
        )
    if oldest is not None and proven_at < oldest:
        return ProofStatus.TOO_OLD, f"version {seq} last logged in at {stamp(proven_at)}: `pam action verify`"
    return ProofStatus.PROVEN, f"version {seq} logged in at {stamp(proven_at)}"

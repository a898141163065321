"""The evidence that a record's credential logs in."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.db.tables import CredentialVersion, RotationSettings, VersionKind, VersionState
from pam_jobs.vault.ledger import ACCEPTED, UNRESOLVED

__all__ = ["CurrentVersion", "OpenVersion", "Proof", "prove"]


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
    last_probe: dict[str, Any] | None  # {"at", "verdict", "gateway", "version_seq"}
    proven: bool
    reason: str


def prove(session: Session, record_uid: str) -> Proof:
    """Return the evidence on a record's credential; the caller has checked that the record may be seen."""
    rows = session.scalars(
        select(CredentialVersion)
        .where(
            CredentialVersion.record_uid == record_uid,
            CredentialVersion.state.in_((VersionState.CURRENT, *UNRESOLVED)),
        )
        .order_by(CredentialVersion.seq.desc())
    ).all()
    current = next((row for row in rows if row.state == VersionState.CURRENT), None)
    unresolved = [row for row in rows if row.state in UNRESOLVED]
    known = session.execute(
        select(RotationSettings.last_probe, RotationSettings.prove_since).where(
            RotationSettings.record_uid == record_uid
        )
    ).one_or_none()
    probe, since = known or (None, None)
    is_proven, reason = _judge(current, unresolved, probe)
    if is_proven and since is not None:
        is_proven, reason = (
            False,
            (
                f"the database was restored from an older backup (noticed at {since.isoformat(timespec='seconds')}), and"
                " nobody has seen the value log in since: `pam action verify`"
            ),
        )
    return Proof(
        record=record_uid,
        current=CurrentVersion.model_validate(current, from_attributes=True) if current else None,
        unresolved=[OpenVersion.model_validate(row, from_attributes=True) for row in unresolved],
        last_probe=probe,
        proven=is_proven,
        reason=reason,
    )


def _judge(
    current: CredentialVersion | None, unresolved: list[CredentialVersion], probe: dict[str, Any] | None
) -> tuple[bool, str]:
    applying = next((row for row in unresolved if row.state == VersionState.APPLYING), None)
    if applying is not None:
        return False, (
            f"version {applying.seq} may be live on the target and is not resolved yet; both values are kept:"
            " the next attempt tells, or `pam action reconcile`"
        )
    if current is None:
        return False, "the record has no credential version: give it one, or rotate it"
    seen = probe if probe and probe.get("version_seq") == current.seq else None
    if seen is not None and seen.get("verdict") == ACCEPTED:
        return True, f"version {current.seq} logged in at {seen.get('at')}"
    if seen is not None and seen.get("verdict") in {"refused", "partial"}:
        return False, f"the target refused version {current.seq} at {seen.get('at')}: `pam action reconcile`"
    if current.kind == VersionKind.CREDENTIAL and current.evidence.get("login") == ACCEPTED:
        return True, f"version {current.seq} logged in when it was promoted, at {current.evidence.get('at')}"
    return False, f"nobody has seen version {current.seq} log in: `pam action verify`"

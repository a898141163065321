"""Rows of the candidate ledger: read, locked, added and moved along their arrows.

Only ``pam_jobs.vault.ledger`` changes them; what each arrow means, and when a row may take it, is said there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import CredentialVersion, StoredRecord, VersionKind, VersionState
from pam_jobs.errors import EpochConflict, NotFound, StateError

__all__ = [
    "KEPT_PREVIOUS",
    "UNRESOLVED",
    "add",
    "check",
    "decided",
    "lock",
    "locked_row",
    "move",
    "newest",
    "retire_current",
    "stale",
    "unresolved",
    "versions",
]

KEPT_PREVIOUS: Final = 3
"""Versions that stay ``previous``; recovery tries them. Older ones are ``retired`` and kept, but never tried."""

UNRESOLVED: Final = (VersionState.STAGED, VersionState.APPLYING)

_State = VersionState
_RECORD: Final[Any] = bindparam("record")
_VERSIONS: Final = table_of(CredentialVersion)
_RECORDS: Final = table_of(StoredRecord)
_OF_RECORD: Final = _VERSIONS.c.record_uid == _RECORD
# Made once: a rotation runs each of them.
_LOCK: Final = select(_RECORDS.c.uid).where(_RECORDS.c.uid == _RECORD).with_for_update()
_OPEN: Final = select(_VERSIONS).where(_OF_RECORD, _VERSIONS.c.state.in_(UNRESOLVED))
_NEWEST: Final = select(func.max(_VERSIONS.c.seq), func.max(_VERSIONS.c.epoch)).where(_OF_RECORD)
_ROW: Final = select(_VERSIONS).where(_OF_RECORD, _VERSIONS.c.seq == bindparam("number"))
_DECIDED: Final = (
    select(_VERSIONS)
    .where(_OF_RECORD, _VERSIONS.c.state.in_((_State.CURRENT, _State.PREVIOUS)))
    .order_by(_VERSIONS.c.seq.desc())
)
_ADD: Final = insert(_VERSIONS).returning(*_VERSIONS.c)
_SET: Final = update(_VERSIONS).where(_VERSIONS.c.id == bindparam("row"))
_ARROWS: Final[Mapping[VersionKind, Mapping[VersionState, frozenset[VersionState]]]] = {
    VersionKind.CREDENTIAL: {
        _State.STAGED: frozenset({_State.APPLYING, _State.ABANDONED, _State.PREVIOUS}),
        _State.APPLYING: frozenset(  # declared again: no change
            {_State.APPLYING, _State.CURRENT, _State.ABANDONED, _State.PREVIOUS}
        ),
        _State.CURRENT: frozenset({_State.PREVIOUS}),
        _State.PREVIOUS: frozenset({_State.RETIRED}),
    },
    VersionKind.RECORD: {
        _State.STAGED: frozenset({_State.CURRENT, _State.ABANDONED}),
        _State.CURRENT: frozenset({_State.PREVIOUS}),
        _State.PREVIOUS: frozenset({_State.RETIRED}),
    },
}


def versions(session: Session, record_uid: str) -> list[CredentialVersion]:
    """Return every row of the record, newest first."""
    rows = session.scalars(
        select(CredentialVersion)
        .where(CredentialVersion.record_uid == record_uid)
        .order_by(CredentialVersion.seq.desc())
        .execution_options(populate_existing=True)  # rows move past the session's objects
    )
    return list(rows)


def unresolved(session: Session, record_uid: str) -> CredentialVersion | None:
    """Return the one row that is ``staged`` or ``applying``, if any."""
    return prepared.row(session, _OPEN, {"record": record_uid})


def decided(session: Session, record_uid: str) -> list[CredentialVersion]:
    """Return the rows that are ``current`` or ``previous``, newest first."""
    return prepared.rows(session, _DECIDED, {"record": record_uid})


def add(session: Session, **columns: Any) -> CredentialVersion:
    """Add a row and return it."""
    added: CredentialVersion = prepared.rows(session, _ADD, columns)[0]
    return added


def lock(session: Session, record_uid: str) -> None:
    """Take the record's row lock.

    Raises:
        NotFound: there is no such record.
    """
    if prepared.scalar(session, _LOCK, {"record": record_uid}) is None:
        raise NotFound(f"there is no record {record_uid}", remedy="list the records and take the UID from there")


def newest(session: Session, record_uid: str) -> tuple[int, int] | None:
    """Return the highest number and the highest epoch of the record's rows."""
    [(seq, epoch)] = prepared.rows(session, _NEWEST, {"record": record_uid})
    return None if seq is None else (seq, epoch)


def locked_row(session: Session, record_uid: str, seq: int, epoch: int) -> CredentialVersion:
    """Return a row, its record locked.

    Raises:
        EpochConflict: a newer attempt has written to it.
        NotFound: there is none.
    """
    lock(session, record_uid)
    row: CredentialVersion | None = prepared.row(session, _ROW, {"record": record_uid, "number": seq})
    if row is None:
        raise NotFound(f"the record has no version {seq}")
    if epoch < row.epoch:
        raise stale(epoch, row.epoch)
    return row


def stale(epoch: int, newer: int) -> EpochConflict:
    """Return the refusal of an attempt that was overtaken."""
    return EpochConflict(
        f"attempt {epoch} was overtaken by attempt {newer} on this credential", remedy="stop; the newer attempt goes on"
    )


def check(row: CredentialVersion, to: VersionState) -> None:
    """Refuse what is no arrow.

    Raises:
        StateError: the row may not go there from where it is.
    """
    arrows = _ARROWS[VersionKind(row.kind)]
    if to not in arrows.get(VersionState(row.state), frozenset()):
        raise StateError(f"version {row.seq} is {row.state} and cannot become {to}")


def move(session: Session, row: CredentialVersion, to: VersionState, **columns: Any) -> CredentialVersion:
    """Take an arrow, and return the row as it is now.

    Raises:
        StateError: there is no such arrow.
    """
    check(row, to)
    changes = {"state": to, **columns}
    prepared.run(session, _SET, {"row": row.id, **changes})
    moved: Any = row
    return cast("CredentialVersion", moved._replace(**changes))


def retire_current(session: Session, clock: Clock, record_uid: str) -> None:
    """Make what is current ``previous``, and all but the newest of those ``retired``."""
    rows = decided(session, record_uid)
    current = [row for row in rows if row.state == VersionState.CURRENT]
    kept = current + [row for row in rows if row.state == VersionState.PREVIOUS]
    for row in kept[KEPT_PREVIOUS:]:
        move(session, row, VersionState.RETIRED)
    for row in current:  # before the new one comes, for the unique index on `current`
        move(session, row, VersionState.PREVIOUS, decided_at=row.decided_at or clock.now())

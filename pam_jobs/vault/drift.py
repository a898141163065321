"""Drift: whether the target takes the credential that the vault holds, and the event when that changes.

::

    unchecked ──► healthy ◄──► out_of_sync, unreachable, locked
        ▲            │                   │
        └────────────┴───────────────────┘   somebody gave another credential; or a check could not be made

A check that could not be made takes nothing from what the target itself said last: out of sync and locked stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import BindParameter, case, func, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import DriftState, RotationSettings

__all__ = ["EDITED", "forget", "moved", "tell"]

_SETTINGS: Final = table_of(RotationSettings)

EDITED: Final = "edited"
"""Why a credential is unchecked that somebody changed in the vault."""


def moved(state: DriftState, at: datetime | BindParameter[datetime], cause: str | None = None) -> dict[str, Any]:
    """Return the columns of ``rotation_settings`` that say the state, for an update of the row.

    ``drift_before`` gets what stood there, so that one statement with ``RETURNING`` both sets the state and tells
    whether it changed, however many write at once.

    Args:
        state: what was seen.
        at: when.
        cause: code of what the target or the check said.
    """
    since = case((_SETTINGS.c.drift == state, func.coalesce(_SETTINGS.c.drift_since, at)), else_=at)
    values: dict[str, Any] = {
        "drift": state,
        "drift_before": _SETTINGS.c.drift,
        "drift_since": since,
        "drift_cause": cause,
    }
    if state is not DriftState.UNCHECKED:
        values["drift_checked_at"] = at
    return values


def tell(
    session: Session,
    clock: Clock,
    actor: Actor,
    before: str,
    state: DriftState,
    *,
    cause: str | None,
    fields: Mapping[str, str | None],
) -> None:
    """Record the event of a state that is another one now; none when it is the same.

    Args:
        session: of the change itself.
        clock: gives the event's time.
        actor: who found it out.
        before: what the row said before.
        state: what it says now.
        cause: code of what the target or the check said.
        fields: the event's identifiers.
    """
    if before == state:
        return
    told = {**fields, "drift_state": str(state), "drift_before": before, "cause": cause}
    if state is DriftState.HEALTHY:
        record_event(session, clock, actor, "credential_drift_resolved", **told)
    elif state is DriftState.UNCHECKED:
        record_event(session, clock, actor, "credential_drift_unchecked", **told)
    else:
        record_event(session, clock, actor, "credential_drift_detected", **told)


def forget(session: Session, clock: Clock, actor: Actor, record_uid: str, cause: str = EDITED) -> None:
    """Make the record's credential unchecked: somebody gave another one, which nobody has seen log in."""
    row = session.execute(
        update(_SETTINGS)
        .where(_SETTINGS.c.record_uid == record_uid)
        .values(**moved(DriftState.UNCHECKED, clock.now(), cause), drift_checked_at=None)
        .returning(_SETTINGS.c.drift_before, _SETTINGS.c.configuration_uid)
    ).one_or_none()
    if row is not None:
        fields = {"record_uid": record_uid, "configuration_uid": row.configuration_uid}
        tell(session, clock, actor, row.drift_before, DriftState.UNCHECKED, cause=cause, fields=fields)

"""Writing to the audit log, in the transaction of the change that the event tells of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import insert
from sqlalchemy.orm import Session

from pam_jobs.audit.catalogue import EVENTS
from pam_jobs.clock import Clock
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.many import ManyInsert
from pam_jobs.db.tables import AuditEvent
from pam_jobs.errors import AuditError
from pam_jobs.ids import new_uid

__all__ = ["Actor", "event_row", "record_event", "record_events"]

_INSERT: Final = insert(table_of(AuditEvent))  # made once: most transactions write one or more
_INSERT_MANY: Final = ManyInsert(
    table_of(AuditEvent), ("uid", "event", "created_at", "username", "remote_address", "client_version", "fields")
)


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who did it, as the event says."""

    username: str  # a user's name, "gateway:<uid>", "client:<name>", "beat" or "control"
    remote_address: str | None = None
    client_version: str | None = None


def record_event(session: Session, clock: Clock, actor: Actor, event: str, /, **fields: str | int | bool | None) -> str:
    """Add one event to the open transaction.

    Args:
        session: of the change itself; both are committed or neither is.
        clock: gives the event's time.
        actor: who did it.
        event: a name of ``pam_jobs.audit.catalogue``.
        fields: identifiers and codes by Keeper's names (record_uid, gateway_uid, result_code …); None is left out.

    Returns:
        The event's uid; it has no position yet: the sealer gives it after commit.

    Raises:
        AuditError: the catalogue has no such event, so no SIEM would know what it means.
    """
    row = event_row(clock, actor, event, **fields)
    prepared.run(session, _INSERT, row)
    uid: str = row["uid"]
    return uid


def record_events(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Add several events of ``event_row`` to the open transaction, in one statement."""
    if rows:
        _INSERT_MANY.run(session, rows)


def event_row(clock: Clock, actor: Actor, event: str, /, **fields: str | int | bool | None) -> dict[str, Any]:
    """Return an event for ``record_events``; arguments and errors as of ``record_event``."""
    if event not in EVENTS:
        raise AuditError(f"{event!r} is no event of the catalogue", remedy="add it to pam_jobs/audit/catalogue.py")
    return {
        "uid": new_uid(),
        "position": None,
        "event": event,
        "created_at": clock.now(),
        "username": actor.username,
        "remote_address": actor.remote_address,
        "client_version": actor.client_version,
        "fields": {name: value for name, value in fields.items() if value is not None},
    }

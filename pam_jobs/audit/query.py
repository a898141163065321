"""Reading the log in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from pam_jobs.db.tables import AuditEvent
from pam_jobs.errors import InvalidInput

__all__ = ["MAX_PAGE", "EventFilter", "Page", "head", "read_page", "unsealed"]

MAX_PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """Which events are wanted; None wants all."""

    event: str | None = None
    record_uid: str | None = None
    username: str | None = None
    created_from: datetime | None = None  # inclusive
    created_to: datetime | None = None  # exclusive

    def __post_init__(self) -> None:
        for moment in (self.created_from, self.created_to):
            if moment is not None and moment.tzinfo is None:
                raise InvalidInput(
                    "a time without a zone means another instant elsewhere",
                    remedy="add the zone, such as 2025-01-31T12:00:00Z",
                )

    def apply(self, query: Select[AuditEvent]) -> Select[AuditEvent]:
        """Return the query with the conditions added."""
        if self.event is not None:
            query = query.where(AuditEvent.event == self.event)
        if self.record_uid is not None:
            query = query.where(AuditEvent.fields["record_uid"].as_string() == self.record_uid)
        if self.username is not None:
            query = query.where(AuditEvent.username == self.username)
        if self.created_from is not None:
            query = query.where(AuditEvent.created_at >= self.created_from)
        if self.created_to is not None:
            query = query.where(AuditEvent.created_at < self.created_to)
        return query


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some events in order, and where the next page begins."""

    events: Sequence[AuditEvent]
    next_position: int | None  # give it as after_position; None: this was the last page


def read_page(
    session: Session, wanted: EventFilter, *, after_position: int = 0, limit: int = 100, newest: bool = False
) -> Page:
    """Return sealed events in ascending order.

    Args:
        session: of a read-only transaction.
        wanted: the filter.
        after_position: events up to and including this position are left out.
        limit: 1 to ``MAX_PAGE``.
        newest: the last ``limit`` events instead of the first ones; there is no next page then.

    Raises:
        InvalidInput: the limit is out of range.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"{limit} events are not a page", remedy=f"ask for 1 to {MAX_PAGE} at a time")
    query = wanted.apply(select(AuditEvent).where(AuditEvent.position > after_position))
    if newest:
        rows = session.scalars(query.order_by(AuditEvent.position.desc()).limit(limit)).all()
        return Page(events=list(reversed(rows)), next_position=None)
    rows = session.scalars(query.order_by(AuditEvent.position).limit(limit + 1)).all()
    if len(rows) <= limit:
        return Page(events=rows, next_position=None)
    return Page(events=rows[:limit], next_position=rows[limit - 1].position)


def head(session: Session) -> int:
    """Return the last position of the log, 0 when it is empty."""
    return session.scalar(select(func.max(AuditEvent.position))) or 0


def unsealed(session: Session) -> int:
    """Return how many committed events have no position yet."""
    return session.scalar(select(func.count()).select_from(AuditEvent).where(AuditEvent.position.is_(None))) or 0

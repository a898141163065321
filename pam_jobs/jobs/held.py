"""Lines of their own for jobs whose target is at its limit.

A few such jobs in a line are passed over at each claim. A flood of one target would have every claim read over thousands:
so the first claim that finds nothing else at the beginning of a line sets what floods it apart, batch by batch. Each
target then has a line of its own within the configuration's, of which a claim reads the first job when the target has a
place, and nothing when it has none. Nothing has to bring a job back: it keeps its time, and goes before what came later.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Integer, bindparam, func, literal_column, select, union_all, update
from sqlalchemy.orm import Session

from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.many import among
from pam_jobs.db.tables import Job, PamConfiguration, Priority, RotationSettings
from pam_jobs.jobs.sql import changed, run

__all__ = ["NOT_HELD", "ORDER", "Head", "free", "heads", "hold"]

_BATCH: Final = 250  # jobs that are set apart at once, while other claims of the gateway wait

_JOBS: Final = table_of(Job)
_CONFIGURATIONS: Final = table_of(PamConfiguration)
_SETTINGS: Final = table_of(RotationSettings)
_GATEWAY: Final[Any] = bindparam("gateway")
_NOW: Final = bindparam("now", type_=_JOBS.c.created_at.type)
_IN_LINE: Final[ColumnElement[bool]] = literal_column("jobs.state IN ('created', 'queued')")  # as the index has it

NOT_HELD: Final[ColumnElement[bool]] = _JOBS.c.held_for.is_(None)
"""The job is in its configuration's own line."""

ORDER: Final = (_JOBS.c.held_for, _JOBS.c.not_before, _JOBS.c.created_at)
"""Of a line, by its index.

What never waited is all equal in the second column, and what is not held in the first one. PostgreSQL must be told of
them all the same: by the last one alone it would read and sort the whole line.
"""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A job that goes first in a line."""

    uid: str
    not_before: datetime | None
    created_at: datetime

    @property
    def place(self) -> tuple[int, datetime, datetime]:
        """Return what it is ordered by: those whose wait is over go before those that never had to."""
        if self.not_before is not None:
            return 0, self.not_before, self.created_at
        return 1, self.created_at, self.created_at


def _beginning(when: ColumnElement[bool]) -> Any:
    """Return those jobs at the beginning of a line that are for given targets."""
    beginning = (
        select(_JOBS.c.uid, _JOBS.c.record_uid)
        .where(
            _IN_LINE,
            _JOBS.c.gateway_uid == _GATEWAY,
            _JOBS.c.configuration_uid == bindparam("configuration"),
            _JOBS.c.priority == bindparam("priority"),
            NOT_HELD,
            when,
        )
        .order_by(*ORDER)
        .limit(_BATCH)
        .subquery()
    )
    return (
        select(beginning.c.uid, _SETTINGS.c.resource_uid)
        .join(_SETTINGS, _SETTINGS.c.record_uid == beginning.c.record_uid)
        .where(among(_SETTINGS.c.resource_uid, "full"))
    )


_BEGINNINGS: Final = (_beginning(_JOBS.c.not_before.is_(None)), _beginning(_JOBS.c.not_before <= _NOW))
_WAITING: Final = (among(_JOBS.c.uid, "jobs"), _IN_LINE, _JOBS.c.gateway_uid == _GATEWAY)
_LOCK: Final = select(_JOBS.c.uid).where(*_WAITING).with_for_update(skip_locked=True)
_HOLD: Final = update(_JOBS).where(*_WAITING).values(held_for=bindparam("target"))


def _lines() -> Any:
    """Return the lines of their own at a gateway, each with its first job that may begin.

    Found one after the other by the index; what is in them is not read.
    """
    priorities = union_all(*(select(literal_column(str(int(each)), Integer).label("priority")) for each in Priority))
    every = priorities.subquery("priorities")

    def line(of: Any) -> Any:
        return select(_JOBS).where(
            _IN_LINE,
            _JOBS.c.gateway_uid == _GATEWAY,
            _JOBS.c.configuration_uid == of.configuration_uid,
            _JOBS.c.priority == of.priority,
        )

    def after(query: Any) -> Any:
        target = query.with_only_columns(_JOBS.c.held_for).where(_JOBS.c.held_for.is_not(None))
        return target.order_by(_JOBS.c.held_for).limit(1)

    start = select(_CONFIGURATIONS.c.record_uid.label("configuration_uid"), every.c.priority).where(
        _CONFIGURATIONS.c.gateway_uid == _GATEWAY
    )
    starts = start.subquery("starts")
    first = after(line(starts.c)).correlate(starts).scalar_subquery()
    lines = select(starts.c.configuration_uid, starts.c.priority, first.label("target")).cte("lines", recursive=True)
    following = after(line(lines.c).where(_JOBS.c.held_for > lines.c.target)).correlate(lines).scalar_subquery()
    lines = lines.union_all(
        select(lines.c.configuration_uid, lines.c.priority, following).where(lines.c.target.is_not(None))
    )
    own = line(lines.c).with_only_columns(_JOBS.c.uid).where(_JOBS.c.held_for == lines.c.target)
    own = own.order_by(*ORDER).limit(1).correlate(lines)
    back, never = own.where(_JOBS.c.not_before <= _NOW), own.where(_JOBS.c.not_before.is_(None))
    head = func.coalesce(back.scalar_subquery(), never.scalar_subquery())
    return select(lines.c.configuration_uid, lines.c.priority, lines.c.target, head.label("head")).where(
        lines.c.target.is_not(None)
    )


_LINES: Final = _lines()
_NAMED: Final = (
    select(_JOBS.c.uid, _JOBS.c.not_before, _JOBS.c.created_at, _SETTINGS.c.resource_uid)
    .outerjoin(_SETTINGS, _SETTINGS.c.record_uid == _JOBS.c.record_uid)
    .where(among(_JOBS.c.uid, "jobs"))
)


def hold(
    session: Session, now: datetime, gateway_uid: str, configuration_uid: str, priority: Priority, full: Collection[str]
) -> int:
    """Set the jobs at the beginning of a line that are for targets at their limit apart, and return how many.

    Args:
        session: that has locked the gateway's turn.
        now: the present time.
        gateway_uid: of the line.
        configuration_uid: of the line.
        priority: of the line.
        full: the targets.
    """
    asked = {"gateway": gateway_uid, "configuration": configuration_uid, "priority": int(priority), "now": now}
    found: dict[str, list[str]] = {}
    for beginning in _BEGINNINGS:
        for uid, target in prepared.rows(session, beginning, {**asked, "full": list(full)}):
            found.setdefault(target, []).append(uid)
    count = 0
    for target, uids in found.items():
        # what somebody else changes just now is left for the next time: waiting with so many rows would be a deadlock
        mine = [uid for (uid,) in prepared.rows(session, _LOCK, {"jobs": uids, "gateway": gateway_uid})]
        count += run(session, _HOLD, {"jobs": mine, "gateway": gateway_uid, "target": target})
    return count


def heads(
    session: Session, now: datetime, gateway_uid: str, full: Collection[str], others: Collection[str]
) -> tuple[bool, dict[tuple[str, Priority], Head], dict[str, Head]]:
    """Return what may begin of the lines of their own.

    Args:
        session: the caller's transaction.
        now: the present time.
        gateway_uid: the gateway.
        full: the targets at their limit.
        others: jobs that go first in the configurations' own lines.

    Returns:
        Whether there are such lines, the first job of them by configuration and priority, and the others.
    """
    lines = prepared.rows(session, _LINES, {"gateway": gateway_uid, "now": now})
    wanted = [row.head for row in lines if row.head is not None and row.target not in full]
    if not wanted:
        return bool(lines), {}, {}
    rows = prepared.rows(session, _NAMED, {"jobs": [*wanted, *others]})
    # a record that was given another target while its job was set apart goes by the target it has
    known = {
        row.uid: Head(uid=row.uid, not_before=row.not_before, created_at=row.created_at)
        for row in rows
        if row.resource_uid not in full
    }
    first: dict[tuple[str, Priority], Head] = {}
    for row in lines:
        if (head := known.get(row.head)) is not None and row.target not in full:
            key = (row.configuration_uid, Priority(row.priority))
            first[key] = min(first.get(key, head), head, key=lambda each: each.place)
    return True, first, {uid: known[uid] for uid in others if uid in known}


def free(session: Session, record_uid: str) -> None:
    """Put what waits for a record back into the configuration's line, because the record has another target."""
    changed(session, update(_JOBS).where(_IN_LINE, _JOBS.c.record_uid == record_uid).values(held_for=None))

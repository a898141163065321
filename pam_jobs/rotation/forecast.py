"""What the coming runs mean: load, collisions, what calendars move, and records that would miss a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.db.tables import JobKind, RotationSettings, Schedule
from pam_jobs.errors import InvalidInput
from pam_jobs.rotation.preview import Run, blocked_rows, runs
from pam_jobs.rotation.timing import parsed

__all__ = ["Collision", "Forecast", "Load", "Miss", "forecast"]

MOST_RUNS: Final = 500_000
_MOST_LISTED: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Load:
    """How many runs a gateway gets in one hour."""

    hour: datetime
    gateway_uid: str | None
    runs: int


@dataclass(frozen=True, kw_only=True)
class Collision:
    """Runs that begin in the same minute on one target, where each waits for the others."""

    at: datetime
    resource_uid: str
    schedule_uids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Miss:
    """A record that would not be rotated as it should be."""

    record_uid: str
    code: str  # paused, no_allowed_time, a code of what blocks it; too_old, never_rotated
    at: datetime | None = None  # when it becomes too old


@dataclass(kw_only=True)
class Forecast:
    """What a span of time holds; lists are cut at 1000, the counts beside them are not."""

    runs: int = 0
    load: list[Load] = field(default_factory=list)
    collisions: list[Collision] = field(default_factory=list)
    collision_count: int = 0
    moved: list[Run] = field(default_factory=list)
    moved_count: int = 0
    misses: list[Miss] = field(default_factory=list)
    is_complete: bool = True  # False: there are more runs than are looked at, and all of it is of the first ones


def forecast(
    session: Session, start: datetime, until: datetime, *, max_age: timedelta | None = None, most: int = MOST_RUNS
) -> Forecast:
    """Return what beat will do from an instant to another, without doing it.

    Args:
        session: read only is enough.
        start: aware; best now.
        until: aware, exclusive.
        max_age: how old a credential may become by policy; None asks only for what its schedule plans.
        most: how many runs to look at, at least 1.
    """
    found = Forecast()
    settings = _settings(session)
    hours: Counter[tuple[datetime, str]] = Counter()
    minute = _Minute(found)
    ages = _Ages(settings, start, max_age)
    reached = until
    for run in runs(session, start, until):
        if found.runs == most:
            found.is_complete = False
            reached = run.due_at
            break
        found.runs += 1
        hours[run.due_at.replace(minute=0, second=0, microsecond=0), run.gateway_uid or ""] += 1
        minute.add(run, settings[run.subject_uid].resource_uid if run.subject_uid in settings else None)
        if run.moved_by is not None:
            found.moved_count += 1
            if len(found.moved) < _MOST_LISTED:
                found.moved.append(run)
        if run.kind == JobKind.ROTATE.value:
            ages.rotated(run)
    minute.close()
    found.load = [
        Load(hour=hour, gateway_uid=gateway or None, runs=count) for (hour, gateway), count in sorted(hours.items())
    ]
    found.misses = [*_held(session, start, reached, ages.seen), *ages.misses(reached)]
    return found


@dataclass(frozen=True, kw_only=True)
class _Settings:
    resource_uid: str | None
    last_rotated_at: datetime | None


def _settings(session: Session) -> dict[str, _Settings]:
    rows = session.execute(
        select(RotationSettings.record_uid, RotationSettings.resource_uid, RotationSettings.last_rotated_at)
    )
    return {
        row.record_uid: _Settings(resource_uid=row.resource_uid, last_rotated_at=row.last_rotated_at) for row in rows
    }


class _Minute:
    """Gathers the runs of one minute by target, as they come in order."""

    def __init__(self, found: Forecast) -> None:
        self._found = found
        self._at: datetime | None = None
        self._by_target: dict[str, list[str]] = {}

    def add(self, run: Run, resource_uid: str | None) -> None:
        at = run.due_at.replace(second=0, microsecond=0)
        if at != self._at:
            self.close()
            self._at = at
        if resource_uid is not None:
            self._by_target.setdefault(resource_uid, []).append(run.schedule_uid)

    def close(self) -> None:
        for resource_uid, schedule_uids in sorted(self._by_target.items()):
            if len(schedule_uids) > 1 and self._at is not None:
                self._found.collision_count += 1
                if len(self._found.collisions) < _MOST_LISTED:
                    self._found.collisions.append(
                        Collision(at=self._at, resource_uid=resource_uid, schedule_uids=tuple(schedule_uids))
                    )
        self._by_target = {}


class _Ages:
    """Follows how old each credential becomes between its rotations."""

    def __init__(self, settings: dict[str, _Settings], start: datetime, max_age: timedelta | None) -> None:
        self.seen: set[str] = set()  # records that are rotated at all
        self._start = start
        self._max_age = max_age
        self._last = {uid: each.last_rotated_at for uid, each in settings.items()}
        self._missed: dict[str, Miss] = {}

    def rotated(self, run: Run) -> None:
        self.seen.add(run.subject_uid)
        self._look(run.subject_uid, run.due_at)
        self._last[run.subject_uid] = run.due_at

    def misses(self, until: datetime) -> list[Miss]:
        for uid in self._last:
            self._look(uid, until)
        return [self._missed[uid] for uid in sorted(self._missed)]

    def _look(self, uid: str, moment: datetime) -> None:
        if self._max_age is None or uid in self._missed:
            return
        last = self._last.get(uid)
        if last is None:
            self._missed[uid] = Miss(record_uid=uid, code="never_rotated", at=self._start)
        elif moment - last > self._max_age:
            at = max(last + self._max_age, self._start)
            self._missed[uid] = Miss(record_uid=uid, code="too_old", at=at)


def _held(session: Session, start: datetime, until: datetime, rotated: set[str]) -> Iterator[Miss]:
    """Yield the records that have a schedule of rotations, which plans a run, and get none."""
    rows = session.scalars(
        select(Schedule).where(Schedule.kind == JobKind.ROTATE.value).order_by(Schedule.subject_uid)
    ).all()
    rows = [row for row in rows if row.subject_uid not in rotated]
    blocked = blocked_rows(session, rows)
    for row in rows:
        if row.paused:
            yield Miss(record_uid=row.subject_uid, code="paused")
        elif row.uid in blocked:
            yield Miss(record_uid=row.subject_uid, code=blocked[row.uid])
        elif _is_planned(row, start, until):
            yield Miss(record_uid=row.subject_uid, code="no_allowed_time")


def _is_planned(row: Schedule, start: datetime, until: datetime) -> bool:
    if row.planned_at is not None and row.planned_at < until:
        return True
    try:
        planned = parsed(row.spec).next_after(start, anchor=row.anchor_at)
    except InvalidInput:
        return True
    return planned is not None and planned < until

"""When something that runs by itself begins: its schedule, moved by calendars, spread by jitter, held or left out.

Beat and the preview both go by what stands here, and by nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.db.tables import Calendar, CalendarUse, ConfigurationCalendar, MissedRuns, PamConfiguration
from pam_jobs.errors import InvalidInput
from pam_jobs.records.calendar import Periods, parse_periods
from pam_jobs.records.schedule import Schedule as Recurrence
from pam_jobs.records.schedule import parse_schedule

__all__ = [
    "ALWAYS",
    "Decision",
    "Named",
    "Outcome",
    "Planned",
    "Timing",
    "decide",
    "parsed",
    "timings",
]

_KEPT_SPECS: Final = 8192  # parsed forms held in memory; fleets share a few dozen distinct ones
_AT_ALL_TIMES: Final = '[{"type":"ONCE","from":"1971-01-01T00:00","to":"8999-12-31T00:00"}]'
_HORIZON: Final = timedelta(days=400)
"""How far ahead an allowed time is looked for."""


@lru_cache(maxsize=_KEPT_SPECS)
def parsed(spec: str) -> Recurrence:
    """Return the parsed form of a stored schedule list.

    Raises:
        InvalidInput: the text is no schedule, or names a zone that the installed data no longer has.
    """
    return parse_schedule(spec)


_answers: dict[str, tuple[datetime, datetime]] = {}  # spec → an instant that was asked about, and the run after it


def _next_after(spec: str, anchor: datetime, instant: datetime) -> datetime | None:
    """Return the first run strictly after an instant; from one run to the next the answer stays the same."""
    recurrence = parsed(spec)
    if recurrence.is_anchored:
        return recurrence.next_after(instant, anchor=anchor)
    known = _answers.get(spec)
    if known is not None and known[0] <= instant < known[1]:
        return known[1]
    due = recurrence.next_after(instant, anchor=anchor)
    if due is not None:
        if len(_answers) >= _KEPT_SPECS:
            _answers.clear()
        _answers[spec] = (instant, due)
    return due


@lru_cache(maxsize=_KEPT_SPECS)
def _periods(source: str, tz: str) -> Periods:
    return parse_periods(source, tz)


@dataclass(frozen=True, kw_only=True)
class Named:
    """A calendar as a configuration uses it."""

    uid: str
    name: str
    periods: Periods


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run to come."""

    planned_at: datetime  # by the schedule alone
    run_at: datetime | None  # None: the calendars leave no time for it in the coming 400 days
    moved_by: str | None = None  # uid of the first calendar that stood against the planned time


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How a configuration lets things run by themselves."""

    windows: tuple[Named, ...] = ()
    blackouts: tuple[Named, ...] = ()
    jitter_seconds: int = 0
    missed_runs: MissedRuns = MissedRuns.CATCH_UP
    grace: timedelta = timedelta(0)

    def first_allowed(self, instant: datetime) -> tuple[datetime | None, str | None]:
        """Return the first instant at or after one that the calendars allow, and the calendar that forbade the one.

        The instant is None when the calendars leave no time in the coming 400 days.
        """
        if not self.windows and not self.blackouts:
            return instant, None
        moment, moved_by = instant, None
        while moment - instant <= _HORIZON:
            later, calendar = self._forbidden_until(moment)
            if calendar is None:
                return moment, moved_by
            moved_by = moved_by or calendar.uid
            if later is None:
                break
            moment = later
        return None, moved_by

    def allowed_until(self, instant: datetime, horizon: datetime) -> datetime:
        """Return when the calendars stop allowing what they allow at the instant, at most the horizon."""
        end = horizon
        for calendar in self.blackouts:
            start = calendar.periods.next_start(instant, is_blackout=True)
            end = min(end, start or end)
        if self.windows:
            ends = [calendar.periods.end_at(instant, is_blackout=False) for calendar in self.windows]
            end = min(end, max((moment for moment in ends if moment is not None), default=end))
        return end

    def after(self, spec: str, anchor: datetime, instant: datetime, uid: str) -> Planned | None:
        """Return the first run that is planned strictly after an instant, or None when there is none.

        Args:
            spec: the JSON schedule list.
            anchor: where ``intervalCount`` counts from.
            instant: aware.
            uid: of the schedule; its share of the jitter follows from it.

        Raises:
            InvalidInput: the schedule names a zone that the installed data no longer has.
        """
        due = _next_after(spec, anchor, instant)
        return None if due is None else self.placed(spec, anchor, due, uid)

    def placed(
        self, spec: str, anchor: datetime, planned_at: datetime, uid: str, *, since: datetime | None = None
    ) -> Planned:
        """Return when a run begins that the schedule plans for an instant.

        Args:
            spec: the JSON schedule list.
            anchor: where ``intervalCount`` counts from.
            planned_at: aware.
            uid: of the schedule.
            since: not before this; None: from when it is planned.
        """
        allowed, moved_by = self.first_allowed(max(planned_at, since or planned_at))
        if allowed is not None and self.jitter_seconds:
            allowed = self._spread(spec, anchor, allowed, uid)
        return Planned(planned_at=planned_at, run_at=allowed, moved_by=moved_by)

    def _spread(self, spec: str, anchor: datetime, allowed: datetime, uid: str) -> datetime:
        """Move by the schedule's own share, which any beat computes alike, before the next run and inside the window."""
        end = self.allowed_until(allowed, allowed + timedelta(seconds=self.jitter_seconds + 1))
        following = parsed(spec).next_after(allowed, anchor=anchor)
        room = int((min(end, following or end) - allowed).total_seconds())
        if room <= 1:
            return allowed
        digest = hashlib.sha256(f"{uid} {allowed.astimezone(UTC).isoformat()}".encode()).digest()
        return allowed + timedelta(seconds=int.from_bytes(digest[:8]) % room)

    def _forbidden_until(self, instant: datetime) -> tuple[datetime | None, Named | None]:
        """Return the calendar that forbids the instant, and when it is worth asking again."""
        for calendar in self.blackouts:
            end = calendar.periods.end_at(instant, is_blackout=True)
            if end is not None:
                return end, calendar
        if not self.windows or any(each.periods.end_at(instant, is_blackout=False) for each in self.windows):
            return None, None
        starts = [each.periods.next_start(instant, is_blackout=False) for each in self.windows]
        return min((start for start in starts if start is not None), default=None), self.windows[0]


ALWAYS: Final = Timing()
"""No calendars, no jitter, catching up: what applies where there is no configuration."""


class Outcome(StrEnum):
    """What becomes of a due run."""

    RUN = "run"
    HELD = "held"  # a calendar forbids the present instant; it begins later
    SKIPPED = "skipped"  # it comes too late for the configuration's policy


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of a due run, and the run after it."""

    outcome: Outcome
    next: Planned | None  # None: it never runs again
    error: str | None = None  # why nothing follows, when the schedule is no longer valid


def decide(spec: str, anchor: datetime, due: Planned, uid: str, *, now: datetime, timing: Timing) -> Decision:
    """Return what becomes of a run whose time has come.

    A run that begins covers those that the schedule plans until then; so one that was moved, or that no beat was there
    for, is one run however many were planned meanwhile.

    Args:
        spec: the JSON schedule list.
        anchor: where ``intervalCount`` counts from.
        due: the run; its ``run_at`` is not after now.
        uid: of the schedule.
        now: when it is looked at.
        timing: of the configuration, as it is now.
    """
    run_at = due.run_at or now
    try:
        if timing.missed_runs == MissedRuns.SKIP and now - run_at > timing.grace:
            return Decision(outcome=Outcome.SKIPPED, next=timing.after(spec, anchor, now, uid))
        allowed, _ = timing.first_allowed(now)
        if allowed != now:
            held = timing.placed(spec, anchor, due.planned_at, uid, since=now)
            return Decision(outcome=Outcome.HELD, next=held)
        return Decision(outcome=Outcome.RUN, next=timing.after(spec, anchor, max(now, run_at), uid))
    except InvalidInput as error:
        # Valid when it was stored; a zone can vanish from newer time zone data. Nobody must stop at it.
        return Decision(outcome=Outcome.RUN, next=None, error=error.sentence())


def timings(session: Session, configuration_uids: Collection[str]) -> dict[str, Timing]:
    """Return how each configuration lets things run, in two queries; one that is not there is left out."""
    if not configuration_uids:
        return {}
    wanted = list(configuration_uids)
    attached: dict[str, list[tuple[CalendarUse, Named]]] = {}
    rows = session.execute(
        select(ConfigurationCalendar.configuration_uid, ConfigurationCalendar.use, Calendar)
        .join(Calendar, Calendar.uid == ConfigurationCalendar.calendar_uid)
        .where(ConfigurationCalendar.configuration_uid.in_(wanted))
        .order_by(Calendar.name)
    )
    for configuration_uid, use, calendar in rows:
        attached.setdefault(configuration_uid, []).append(_attached(CalendarUse(use), calendar))
    return {
        row.record_uid: Timing(
            windows=tuple(_of(attached.get(row.record_uid, ()), CalendarUse.WINDOW)),
            blackouts=tuple(_of(attached.get(row.record_uid, ()), CalendarUse.BLACKOUT)),
            jitter_seconds=row.jitter_seconds,
            missed_runs=MissedRuns(row.missed_runs),
            grace=timedelta(seconds=row.missed_grace_seconds),
        )
        for row in session.execute(
            select(
                PamConfiguration.record_uid,
                PamConfiguration.jitter_seconds,
                PamConfiguration.missed_runs,
                PamConfiguration.missed_grace_seconds,
            ).where(PamConfiguration.record_uid.in_(wanted))
        )
    }


def _attached(use: CalendarUse, calendar: Calendar) -> tuple[CalendarUse, Named]:
    try:
        periods = _periods(calendar.periods, calendar.tz)
    except InvalidInput:
        # Valid when it was stored; what a calendar can no longer tell is forbidden, and beat must not stop at it.
        use, periods = CalendarUse.BLACKOUT, _periods(_AT_ALL_TIMES, "Etc/UTC")
    return use, Named(uid=calendar.uid, name=calendar.name, periods=periods)


def _of(attached: Collection[tuple[CalendarUse, Named]], use: CalendarUse) -> Iterator[Named]:
    return (calendar for its_use, calendar in attached if its_use is use)

"""The entries a schedule is made of, each with its next run and its words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import ClassVar, Final, Protocol

from pam_jobs.records.cron import Cron
from pam_jobs.records.zones import instant_of, wall_of

__all__ = [
    "MONTHS",
    "OCCURRENCES",
    "WEEKDAYS",
    "ByCron",
    "Daily",
    "Entry",
    "Hourly",
    "MonthlyByDay",
    "MonthlyByWeekday",
    "Once",
    "Weekly",
    "Yearly",
]

WEEKDAYS: Final = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
MONTHS: Final = (
    *("JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE"),
    *("JULY", "AUGUST", "SEPTEMBER", "OCTOBER", "NOVEMBER", "DECEMBER"),
)
OCCURRENCES: Final = ("FIRST", "SECOND", "THIRD", "FOURTH", "LAST")

_LAST_YEAR: Final = 9990


class Entry(Protocol):
    """One element of the schedule list that fires."""

    @property
    def tz(self) -> tzinfo:
        """The zone of its wall clock."""
        ...

    @property
    def is_anchored(self) -> bool:
        """Say whether its runs depend on the anchor."""
        ...

    def next_after(self, instant: datetime, anchor: datetime) -> datetime | None:
        """Return the next run strictly after the instant, in UTC, or None.

        Args:
            instant: aware.
            anchor: aware; where every second, third … period is counted from.
        """
        ...

    def words(self) -> str:
        """Return what the entry does, without its zone."""
        ...


@dataclass(frozen=True, kw_only=True)
class ByCron:
    """Runs by a cron expression."""

    tz: tzinfo
    cron: Cron
    is_anchored: ClassVar[bool] = False

    def next_after(self, instant: datetime, anchor: datetime) -> datetime | None:  # noqa: ARG002 - the interface's
        """Return the next run strictly after the instant, in UTC, or None."""
        return self.cron.next_after(instant, self.tz)

    def words(self) -> str:
        """Return what the entry does, without its zone."""
        return f'by cron "{self.cron.text}"'


@dataclass(frozen=True, kw_only=True)
class Once:
    """Runs one time."""

    tz: tzinfo
    wall: datetime
    is_anchored: ClassVar[bool] = False

    def next_after(self, instant: datetime, anchor: datetime) -> datetime | None:  # noqa: ARG002 - the interface's
        """Return its run in UTC when it is strictly after the instant, else None."""
        due = instant_of(self.wall, self.tz)
        return due if due > instant else None

    def words(self) -> str:
        """Return what the entry does, without its zone."""
        return f"once at {self.wall.date()} {_clock(self.wall.time())}"


@dataclass(frozen=True, kw_only=True)
class Hourly:
    """Runs every so many hours of elapsed time, counted from the anchor's hour."""

    tz: tzinfo
    minute: int
    second: int
    every: int
    is_anchored: ClassVar[bool] = True

    def next_after(self, instant: datetime, anchor: datetime) -> datetime | None:
        """Return the next run strictly after the instant, in UTC."""
        local = anchor.astimezone(self.tz).replace(minute=self.minute, second=self.second, microsecond=0)
        base, period = local.astimezone(UTC), timedelta(hours=self.every)
        return base + ((instant - base) // period + 1) * period

    def words(self) -> str:
        """Return what the entry does, without its zone."""
        at = f"{self.minute:02}" if not self.second else f"{self.minute:02}:{self.second:02}"
        return f"{_every(self.every, 'hourly', 'hours')} at minute {at}"


@dataclass(frozen=True, kw_only=True)
class _OnDates(ABC):
    """Runs at one time of day on some dates."""

    tz: tzinfo
    time: time
    every: int

    @property
    def is_anchored(self) -> bool:
        """Say whether its runs depend on the anchor."""
        return self.every > 1

    @abstractmethod
    def dates(self, start: date, anchor: date) -> Iterator[date]:
        """Yield the dates from the start on, ascending, until the year 9990."""

    def next_after(self, instant: datetime, anchor: datetime) -> datetime | None:
        """Return the next run strictly after the instant, in UTC, or None after the year 9990."""
        today = wall_of(instant, self.tz).date()
        if today.year > _LAST_YEAR:
            return None
        for day in self.dates(today, wall_of(anchor, self.tz).date()):
            due = instant_of(datetime.combine(day, self.time), self.tz)
            if due > instant:
                return due
        return None


class Daily(_OnDates):
    """Runs every so many days, counted from the anchor's date."""

    def dates(self, start: date, anchor: date) -> Iterator[date]:
        """Yield the dates from the start on."""
        day = start + timedelta(days=(anchor - start).days % self.every)
        while day.year <= _LAST_YEAR:
            yield day
            day += timedelta(days=self.every)

    def words(self) -> str:
        """Return what the entry does, without its zone."""
        return f"{_every(self.every, 'daily', 'days')} at {_clock(self.time)}"


@dataclass(frozen=True, kw_only=True)
class Weekly(_OnDates):
    """Runs on a weekday every so many weeks, counted from the first such day at or after the anchor's date."""

    weekday: str

    def dates(self, start: date, anchor: date) -> Iterator[date]:
        """Yield the dates from the start on."""
        first = anchor + timedelta(days=(WEEKDAYS.index(self.weekday) - anchor.weekday()) % 7)
        day = start + timedelta(days=(first - start).days % (7 * self.every))
        while day.year <= _LAST_YEAR:
            yield day
            day += timedelta(days=7 * self.every)

    def words(self) -> str:
        """Return what the entry does, without its zone."""
        return f"{_every(self.every, 'weekly', 'weeks')} on {self.weekday} at {_clock(self.time)}"


@dataclass(frozen=True, kw_only=True)
class MonthlyByDay(_OnDates):
    """Runs on a day of the month every so many months, on the last day of a month that is too short for it."""

    month_day: int

    def dates(self, start: date, anchor: date) -> Iterator[date]:
        """Yield the dates from the start on."""
        for year, month in _months(start, anchor, self.every):
            day = _clamped(year, month, self.month_day)
            if day >= start:
                yield day

    def words(self) -> str:
        """Return what the entry does, without its zone."""
        day = f"day {self.month_day}" + (" or the last day" if self.month_day > 28 else "")
        return f"{_every(self.every, 'monthly', 'months')} on {day} at {_clock(self.time)}"


@dataclass(frozen=True, kw_only=True)
class MonthlyByWeekday(_OnDates):
    """Runs on the first, second … or last such weekday of the month, every so many months."""

    weekday: str
    occurrence: str

    def dates(self, start: date, anchor: date) -> Iterator[date]:
        """Yield the dates from the start on."""
        for year, month in _months(start, anchor, self.every):
            first, length = monthrange(year, month)
            number = (WEEKDAYS.index(self.weekday) - first) % 7 + 1
            which = OCCURRENCES.index(self.occurrence)
            number += 7 * ((length - number) // 7 if self.occurrence == "LAST" else which)
            day = date(year, month, number)
            if day >= start:
                yield day

    def words(self) -> str:
        """Return what the entry does, without its zone."""
        head = _every(self.every, "monthly", "months")
        return f"{head} on the {self.occurrence} {self.weekday} at {_clock(self.time)}"


@dataclass(frozen=True, kw_only=True)
class Yearly(_OnDates):
    """Runs on a date every so many years, counted from the anchor's; 29 February is the 28th in other years."""

    month: str
    month_day: int

    def dates(self, start: date, anchor: date) -> Iterator[date]:
        """Yield the dates from the start on."""
        year = start.year + (anchor.year - start.year) % self.every
        while year <= _LAST_YEAR:
            day = _clamped(year, MONTHS.index(self.month) + 1, self.month_day)
            if day >= start:
                yield day
            year += self.every

    def words(self) -> str:
        """Return what the entry does, without its zone."""
        return f"{_every(self.every, 'yearly', 'years')} on {self.month} {self.month_day} at {_clock(self.time)}"


def _every(count: int, one: str, many: str) -> str:
    return one if count == 1 else f"every {count} {many}"


def _clock(at: time) -> str:
    return at.isoformat("seconds" if at.second else "minutes")


def _clamped(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, monthrange(year, month)[1]))


def _months(start: date, anchor: date, every: int) -> Iterator[tuple[int, int]]:
    first = start.year * 12 + start.month - 1
    index = first + (anchor.year * 12 + anchor.month - 1 - first) % every
    while index // 12 <= _LAST_YEAR:
        yield index // 12, index % 12 + 1
        index += every

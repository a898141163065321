"""Cron expressions: five fields as Unix cron has them, six or seven as Quartz has them.

Both are read into one form and answered by one evaluator on wall-clock time; ``zones`` places the answers in time.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final

from croniter import croniter

from pam_jobs.errors import InvalidInput
from pam_jobs.records.zones import next_elapsed, next_on_the_wall

__all__ = ["Cron", "parse_cron"]

_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_LONGEST_WAIT_YEARS: Final = 48  # 29 February on a given weekday can be 40 years away, across 2100
_RANDOM: Final = re.compile(r"(^|,)[HR]([/(,]|$)")


@dataclass(frozen=True, kw_only=True)
class _Days:
    """Which days of a month match. Weekdays count from Sunday, 0."""

    month_days: frozenset[int] = frozenset()
    from_end: frozenset[int] = frozenset()  # 0 is the last day, 3 is three days before it
    workdays: frozenset[int] = frozenset()  # the working day nearest to this day of the month
    workdays_from_end: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    nth: frozenset[tuple[int, int]] = frozenset()  # (weekday, which one of the month)
    last: frozenset[int] = frozenset()  # the last such weekday of the month
    either: bool = False  # a match of day of month or day of week is enough

    def of(self, year: int, month: int) -> Iterator[int]:
        """Yield the matching days, ascending."""
        first, length = monthrange(year, month)
        special = {length - back for back in self.from_end}
        nearest = {day for day in self.workdays if day <= length} | {length - back for back in self.workdays_from_end}
        special |= {_workday(day, (first + day) % 7, length) for day in nearest if day >= 1}
        for day in range(1, length + 1):
            weekday = (first + day) % 7
            by_month = day in self.month_days or day in special
            by_week = (
                weekday in self.weekdays
                or (weekday, (day + 6) // 7) in self.nth
                or (weekday in self.last and day + 7 > length)
            )
            if (by_month or by_week) if self.either else (by_month and by_week):
                yield day


@dataclass(frozen=True)
class Cron:
    """A cron expression that has been understood."""

    text: str
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: _Days
    months: tuple[int, ...]
    years: tuple[int, ...] | None  # None: every year

    @property
    def is_hourly(self) -> bool:
        """Say whether it runs in every hour, and so follows elapsed time where the clock jumps."""
        return len(self.hours) == 24

    def next_after(self, instant: datetime, tz: tzinfo) -> datetime | None:
        """Return the next run strictly after the instant, in UTC, or None when there is none any more.

        Args:
            instant: aware.
            tz: the zone whose wall clock the expression speaks of.
        """
        return (next_elapsed if self.is_hourly else next_on_the_wall)(self.next_wall, instant, tz)

    def next_wall(self, after: datetime) -> datetime | None:
        """Return the first matching wall time strictly after one (both naive), or None."""
        start = after.replace(microsecond=0) + timedelta(seconds=1)
        for year in self._years_from(start.year):
            for month in self.months:
                if (year, month) < (start.year, start.month):
                    continue
                is_now = (year, month) == (start.year, start.month)
                for day in self.days.of(year, month):
                    if is_now and day < start.day:
                        continue
                    time = self._time_from(start) if is_now and day == start.day else self._first_time()
                    if time is not None:
                        return datetime(year, month, day, *time)  # noqa: DTZ001 - a wall time
        return None

    def _years_from(self, year: int) -> Iterator[int]:
        if self.years is None:
            yield from range(year, min(year + _LONGEST_WAIT_YEARS, MAXYEAR))
        else:
            yield from self.years[bisect_left(self.years, year) :]

    def _first_time(self) -> tuple[int, int, int]:
        return self.hours[0], self.minutes[0], self.seconds[0]

    def _time_from(self, start: datetime) -> tuple[int, int, int] | None:
        """Return the first matching time of day at or after the start's, or None when the day has no more."""
        hour = bisect_left(self.hours, start.hour)
        if hour == len(self.hours):
            return None
        if self.hours[hour] > start.hour:
            return self.hours[hour], self.minutes[0], self.seconds[0]
        minute = bisect_left(self.minutes, start.minute)
        if minute < len(self.minutes) and self.minutes[minute] == start.minute:
            second = bisect_left(self.seconds, start.second)
            if second < len(self.seconds):
                return start.hour, start.minute, self.seconds[second]
            minute += 1
        if minute < len(self.minutes):
            return start.hour, self.minutes[minute], self.seconds[0]
        if hour + 1 < len(self.hours):
            return self.hours[hour + 1], self.minutes[0], self.seconds[0]
        return None


@lru_cache(maxsize=1024)
def parse_cron(text: str) -> Cron:
    """Return the expression, understood.

    Five fields are Unix cron (minute hour day month weekday, weekday 0-7 from Sunday; when both day fields are
    restricted, either is enough). Six or seven are Quartz (second minute hour day month weekday [year], weekday 1-7
    from Sunday, ``?`` in one of the day fields, ``L``, ``LW``, ``W``, ``#``).

    Raises:
        InvalidInput: it is malformed, ambiguous, random, or can never fire.
    """
    fields = text.upper().split()
    for part in fields:
        if _RANDOM.search(part):
            raise InvalidInput(
                f"{part!r} in the cron expression stands for a random time", remedy="write the time itself"
            )
    if len(fields) == 5:
        cron = _unix(text, fields)
    elif len(fields) in {6, 7}:
        cron = _quartz(text, fields)
    else:
        raise InvalidInput(
            f"the cron expression {text!r} has {len(fields)} fields",
            remedy="write five (minute hour day month weekday), or Quartz's six or seven (second first, year last)",
        )
    _check_fires(cron)
    return cron


@dataclass(frozen=True, kw_only=True)
class _Field:
    """How one field is read."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    wraps: bool = False  # a range may go past the end, as 22-2
    step_high: int | None = None  # the end of `start/step`, where it is not `high`

    def values(self, text: str) -> tuple[int, ...]:
        """Return what a list of numbers, names, ranges and steps stands for, ascending."""
        return tuple(sorted({value for term in text.split(",") for value in self.term(term)}))

    def term(self, term: str) -> list[int]:
        """Return what one part of the list stands for."""
        body, slash, step_text = term.partition("/")
        step = 1
        if slash:
            step = self._digits(step_text, term)
            if not 1 <= step <= self.high:
                raise self.refuse(term, f"use a step from 1 to {self.high}")
        first, dash, last = body.partition("-")
        if body == "*":
            start, end = self.low, self.step_high or self.high
        elif dash:
            start, end = self.number(first), self.number(last)
        else:
            start = self.number(body)
            end = (self.step_high or self.high) if slash else start
        if start <= end:
            return list(range(start, end + 1, step))
        if not self.wraps:
            raise self.refuse(term, "write the smaller value first")
        size = self.high - self.low + 1
        return [(value - self.low) % size + self.low for value in range(start, end + size + 1, step)]

    def number(self, text: str) -> int:
        """Return one number or name."""
        if text in self.names:
            return self.names.index(text) + (1 if self.names is _MONTHS else self.low)
        value = self._digits(text, text)
        if not self.low <= value <= self.high:
            raise self.refuse(text, f"use {self.low} to {self.high}")
        return value

    def _digits(self, text: str, term: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 4):
            raise self.refuse(term, f"use {self.low} to {self.high}, *, lists, ranges and steps")
        return int(text)

    def refuse(self, term: str, remedy: str) -> InvalidInput:
        """Return the error for a part of this field."""
        return InvalidInput(f"{term!r} is not a {self.name} of a cron expression", remedy=remedy)


_UNIX_FIELDS: Final = (
    _Field(name="minute", low=0, high=59),
    _Field(name="hour", low=0, high=23),
    _Field(name="day of the month", low=1, high=31),
    _Field(name="month", low=1, high=12, names=_MONTHS),
    _Field(name="day of the week", low=0, high=7, names=_DAYS, step_high=6),
)
_QUARTZ_FIELDS: Final = (
    _Field(name="second", low=0, high=59, wraps=True),
    _Field(name="minute", low=0, high=59, wraps=True),
    _Field(name="hour", low=0, high=23, wraps=True),
    _Field(name="day of the month", low=1, high=31),
    _Field(name="month", low=1, high=12, names=_MONTHS, wraps=True),
    _Field(name="day of the week", low=1, high=7, names=_DAYS, wraps=True),
    _Field(name="year", low=1970, high=2099),
)


def _check_fires(cron: Cron) -> None:
    if cron.next_wall(datetime(1969, 12, 31, 23, 59, 59)) is None:  # noqa: DTZ001 - a wall time
        raise InvalidInput(f"the cron expression {cron.text!r} never fires", remedy="choose a day that its months have")


def _unix(text: str, fields: list[str]) -> Cron:
    minute, hour, month_day, month, weekday = _UNIX_FIELDS
    star = fields[2].startswith("*") or fields[4].startswith("*")
    week = [term.partition("#") for term in fields[4].split(",")]
    days = _Days(
        month_days=frozenset(value for term in fields[2].split(",") if term != "L" for value in month_day.term(term)),
        from_end=frozenset({0}) if "L" in fields[2].split(",") else frozenset(),
        weekdays=frozenset(value % 7 for term, mark, _ in week if not mark for value in weekday.term(term)),
        nth=frozenset((weekday.number(term) % 7, _nth(nth, weekday)) for term, mark, nth in week if mark),
        either=not star,  # cron(8): one field with a star leaves the other to decide
    )
    cron = Cron(
        text=text,
        seconds=(0,),
        minutes=minute.values(fields[0]),
        hours=hour.values(fields[1]),
        days=days,
        months=month.values(fields[3]),
        years=None,
    )
    _check_fires(cron)
    if not croniter.is_valid(" ".join(fields), strict=True):  # a second reader must agree that it is cron
        raise InvalidInput(
            f"the cron expression {text!r} can be read in two ways", remedy="write it as Quartz with six fields"
        )
    return cron


def _quartz(text: str, fields: list[str]) -> Cron:
    second, minute, hour, month_day, month, weekday, year = _QUARTZ_FIELDS
    open_day, open_week = fields[3] in {"?", "*"}, fields[5] in {"?", "*"}
    if fields[3] == fields[5] == "?":
        raise InvalidInput("the cron expression has ? in both day fields", remedy="write * in one of them")
    if not (open_day or open_week):
        raise InvalidInput(
            "the cron expression restricts both the day of the month and the day of the week",
            remedy="write ? in one of them",
        )
    if fields[3] != "?" and fields[5] != "?" and any(char.isdigit() for char in fields[5].split("#")[0]):
        raise InvalidInput(
            f"the day of the week {fields[5]!r} can be read in two ways without a ?",
            remedy="write ? as the day of the month (then 1 is Sunday), or use names such as MON",
        )
    whole_month, whole_week = frozenset(range(1, 32)), frozenset(range(7))
    if open_week:
        days = _Days(month_days=whole_month, weekdays=whole_week) if open_day else _by_month(fields[3], month_day)
    else:
        days = _by_week(fields[5], weekday)
    return Cron(
        text=text,
        seconds=second.values(fields[0]),
        minutes=minute.values(fields[1]),
        hours=hour.values(fields[2]),
        days=days,
        months=month.values(fields[4]),
        years=year.values(fields[6]) if len(fields) == 7 and fields[6] != "*" else None,
    )


def _by_month(text: str, reader: _Field) -> _Days:
    plain: set[int] = set()
    ends: set[int] = set()
    near: set[int] = set()
    near_end: set[int] = set()
    for term in text.split(","):
        if found := re.fullmatch(r"L(?:-(\d{1,2}))?(W?)", term):
            back = int(found[1] or 0)
            if back > 30:
                raise reader.refuse(term, "go back at most 30 days from the end, as L-30")
            (near_end if found[2] else ends).add(back)
        elif term.endswith("W"):
            near.add(reader.number(term[:-1]))
        else:
            plain.update(reader.term(term))
    return _Days(
        month_days=frozenset(plain),
        from_end=frozenset(ends),
        workdays=frozenset(near),
        workdays_from_end=frozenset(near_end),
        weekdays=frozenset(range(7)),
    )


def _by_week(text: str, reader: _Field) -> _Days:
    plain: set[int] = set()
    nth: set[tuple[int, int]] = set()
    last: set[int] = set()
    for term in text.split(","):
        day, mark, which = term.partition("#")
        if mark:
            nth.add((reader.number(day) - 1, _nth(which, reader)))
        elif term == "L":  # alone it is the seventh day, Saturday
            plain.add(6)
        elif term.endswith("L"):
            last.add(reader.number(term[:-1]) - 1)
        else:
            plain.update(value - 1 for value in reader.term(term))
    return _Days(
        month_days=frozenset(range(1, 32)), weekdays=frozenset(plain), nth=frozenset(nth), last=frozenset(last)
    )


def _nth(text: str, reader: _Field) -> int:
    if text not in {"1", "2", "3", "4", "5"}:
        raise reader.refuse(f"#{text}", "use #1 to #5")
    return int(text)


def _workday(day: int, weekday: int, length: int) -> int:
    """Return the working day nearest to a day without leaving its month; weekdays count from Sunday, 0."""
    if weekday == 6:
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day

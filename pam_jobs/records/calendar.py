"""Periods of time under a name: what a calendar's JSON list says, asked by instant.

A period begins with its first instant and ends before its last one. On the day on which clocks go back, a wall time
that comes twice begins a period at its first pass; a blackout ends with the second pass, a window with the first: what
is in doubt is not allowed. A wall time that clocks skip stands for the first instant after the gap.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any, Final, Protocol

from pam_jobs.errors import InvalidInput
from pam_jobs.records.cron import Cron, parse_cron
from pam_jobs.records.recurrence import WEEKDAYS
from pam_jobs.records.zones import instant_of, wall_of, zone

__all__ = ["Periods", "parse_periods"]

_MOST_PERIODS: Final = 100
_LONGEST_MINUTES: Final = 366 * 24 * 60
_DAY: Final = 24 * 60  # minutes
_LAST_YEAR: Final = 9000
_CHECKED_STARTS: Final = 500
_REFERENCE: Final = datetime(2024, 1, 1, tzinfo=UTC)
_EXAMPLE: Final = '{"type":"WEEKLY","weekdays":["SATURDAY"],"from":"00:00","to":"24:00"}'


class _Period(Protocol):
    """One element of a calendar's list."""

    def spans(self, tz: tzinfo, instant: datetime) -> Iterator[tuple[datetime, datetime, datetime]]:
        """Yield periods as start, end by the first pass, end by the second, ascending.

        The one that contains the instant is among them, if there is one, and at least one that begins after it, if any
        ever does.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class _Weekly:
    weekdays: frozenset[int]  # 0 is Monday
    start: int  # minutes after midnight
    end: int  # minutes after the same midnight, up to two days

    def spans(self, tz: tzinfo, instant: datetime) -> Iterator[tuple[datetime, datetime, datetime]]:
        today = wall_of(instant, tz).date()
        for offset in range(-2, 16):  # two weeks, for clocks can skip a whole day
            day = today + timedelta(days=offset)
            if day.weekday() in self.weekdays:
                yield _span(tz, _wall(day, self.start), _wall(day, self.end))

    def weekly_minutes(self) -> list[tuple[int, int]]:
        return [(day * _DAY + self.start, day * _DAY + self.end) for day in self.weekdays]


@dataclass(frozen=True, kw_only=True)
class _ByCron:
    cron: Cron
    length: timedelta

    def spans(self, tz: tzinfo, instant: datetime) -> Iterator[tuple[datetime, datetime, datetime]]:
        start = self.cron.next_after(instant - self.length, tz)
        while start is not None:
            yield start, start + self.length, start + self.length
            if start > instant:
                return
            start = self.cron.next_after(start, tz)


@dataclass(frozen=True, kw_only=True)
class _Once:
    start: datetime  # naive, on the wall
    end: datetime

    def spans(self, tz: tzinfo, instant: datetime) -> Iterator[tuple[datetime, datetime, datetime]]:  # noqa: ARG002 - the interface's
        yield _span(tz, self.start, self.end)


@dataclass(frozen=True, kw_only=True)
class Periods:
    """A checked list of periods in one time zone."""

    tz: tzinfo
    members: tuple[_Period, ...]
    source: str  # the list as compact JSON

    def end_at(self, instant: datetime, *, is_blackout: bool) -> datetime | None:
        """Return when the period that contains the instant ends, in UTC, or None when none contains it."""
        return max(
            (end for member in self.members if (end := _end(member, self.tz, instant, is_blackout=is_blackout))),
            default=None,
        )

    def next_start(self, instant: datetime, *, is_blackout: bool) -> datetime | None:
        """Return when the next period begins, strictly after the instant, or None when none ever does."""
        return min(
            (start for member in self.members if (start := _start(member, self.tz, instant, is_blackout=is_blackout))),
            default=None,
        )


def parse_periods(source: str | Sequence[Mapping[str, Any]], tz: str) -> Periods:
    """Return the periods that the JSON list describes.

    Args:
        source: JSON text, or the decoded list, of objects of the types ``WEEKLY`` (``weekdays``, ``from``, ``to``),
            ``CRON`` (``cron`` says when each begins, ``minutes`` how long it lasts) and ``ONCE`` (``from``, ``to``).
        tz: IANA zone of every wall time.

    Raises:
        InvalidInput: malformed, empty, inverted, overlapping, or of an unknown zone.
    """
    items = _items(source)
    members = tuple(_member(item) for item in items)
    periods = Periods(
        tz=zone(tz),
        members=members,
        source=json.dumps([dict(item) for item in items], separators=(",", ":"), sort_keys=True),
    )
    _check_apart(periods)
    return periods


def _end(member: _Period, tz: tzinfo, instant: datetime, *, is_blackout: bool) -> datetime | None:
    latest: datetime | None = None
    for start, first, second in member.spans(tz, instant):
        if start > instant:
            break
        end = second if is_blackout else first
        if end > instant:
            latest = end
    return latest


def _start(member: _Period, tz: tzinfo, instant: datetime, *, is_blackout: bool) -> datetime | None:
    for start, first, second in member.spans(tz, instant):
        if start > instant and (second if is_blackout else first) > start:
            return start
    return None


def _items(source: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if isinstance(source, str):
        try:
            source = json.loads(source)
        except ValueError:
            raise InvalidInput("the periods are not valid JSON", remedy=f"write a list such as [{_EXAMPLE}]") from None
    if (
        not isinstance(source, Sequence)
        or isinstance(source, str)
        or not all(isinstance(item, Mapping) for item in source)
    ):
        raise InvalidInput("the periods are not a list of objects", remedy=f"write a list such as [{_EXAMPLE}]")
    if not 1 <= len(source) <= _MOST_PERIODS:
        raise InvalidInput(
            f"a calendar has {len(source)} periods", remedy=f"give it at least one and at most {_MOST_PERIODS}"
        )
    return list(source)


def _member(item: Mapping[str, Any]) -> _Period:
    kind = item.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise InvalidInput(f"{kind!r} is not a type of period", remedy="use one of " + ", ".join(_READERS))
    make, keys = reader
    if unknown := sorted(set(item) - keys - {"type"}):
        raise InvalidInput(f"a {kind} period has no {unknown[0]!r}", remedy="it has " + ", ".join(sorted(keys)))
    return make(item)


def _weekly(item: Mapping[str, Any]) -> _Period:
    names = item.get("weekdays")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise _wrong(item, "weekdays", "write a list of " + ", ".join(WEEKDAYS))
    words = [name.upper() for name in names]
    if not set(words) <= set(WEEKDAYS) or len(set(words)) != len(words):
        raise _wrong(item, "weekdays", "write each once, of " + ", ".join(WEEKDAYS))
    start, end = _minutes(item, "from"), _minutes(item, "to")
    if start in {end, _DAY}:
        raise InvalidInput(
            f"the WEEKLY period from {item['from']} to {item['to']} has no length",
            remedy="write a whole day as 00:00 to 24:00; an end before the start is on the next day",
        )
    weekdays = frozenset(WEEKDAYS.index(word) for word in words)
    return _Weekly(weekdays=weekdays, start=start, end=end if end > start else end + _DAY)


def _by_cron(item: Mapping[str, Any]) -> _Period:
    text, minutes = item.get("cron"), item.get("minutes")
    if not isinstance(text, str):
        raise _wrong(item, "cron", "write when each period begins, such as 0 22 * * 5")
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= _LONGEST_MINUTES:
        raise _wrong(item, "minutes", f"write how long each lasts, 1 to {_LONGEST_MINUTES} minutes")
    return _ByCron(cron=parse_cron(text.strip()), length=timedelta(minutes=minutes))


def _once(item: Mapping[str, Any]) -> _Period:
    start, end = _moment(item, "from"), _moment(item, "to")
    if end <= start:
        raise InvalidInput(
            f"the ONCE period from {item['from']} to {item['to']} ends before it begins",
            remedy="give the earlier time as its start",
        )
    return _Once(start=start, end=end)


_READERS: Final[Mapping[str, tuple[Callable[[Mapping[str, Any]], _Period], frozenset[str]]]] = {
    "WEEKLY": (_weekly, frozenset({"weekdays", "from", "to"})),
    "CRON": (_by_cron, frozenset({"cron", "minutes"})),
    "ONCE": (_once, frozenset({"from", "to"})),
}


def _minutes(item: Mapping[str, Any], key: str) -> int:
    """Return minutes after midnight."""
    text = item.get(key)
    parts = text.split(":") if isinstance(text, str) else []
    if len(parts) == 2 and all(len(part) == 2 and part.isascii() and part.isdecimal() for part in parts):
        hours, minutes = int(parts[0]), int(parts[1])
        if minutes < 60 and hours * 60 + minutes <= _DAY:
            return hours * 60 + minutes
    raise _wrong(item, key, "write it as 22:30; 24:00 is the end of the day")


def _moment(item: Mapping[str, Any], key: str) -> datetime:
    text = item.get(key)
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is not None or moment.microsecond or not 1971 <= moment.year <= _LAST_YEAR:
        raise _wrong(item, key, "write it as 2026-12-24T18:00, in the calendar's zone")
    return moment


def _check_apart(periods: Periods) -> None:
    """Refuse periods of one kind that overlap: one of them is a mistake."""
    weekly = [span for member in periods.members if isinstance(member, _Weekly) for span in member.weekly_minutes()]
    weekly += [(start + 7 * _DAY, end + 7 * _DAY) for start, end in weekly]
    _refuse_overlap(sorted(weekly), "WEEKLY")
    once = [(member.start, member.end) for member in periods.members if isinstance(member, _Once)]
    _refuse_overlap(sorted(once), "ONCE")
    for member in periods.members:
        if isinstance(member, _ByCron):
            _refuse_overlap(_first_spans(member, periods.tz), "CRON")


def _first_spans(member: _ByCron, tz: tzinfo) -> list[tuple[datetime, datetime]]:
    found: list[tuple[datetime, datetime]] = []
    start = member.cron.next_after(_REFERENCE, tz)
    while start is not None and len(found) < _CHECKED_STARTS:
        found.append((start, start + member.length))
        start = member.cron.next_after(start, tz)
    return found


def _refuse_overlap(spans: Sequence[tuple[Any, Any]], kind: str) -> None:
    if any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
        raise InvalidInput(
            f"two {kind} periods of the calendar overlap", remedy="make them one period, or shorten the earlier one"
        )


def _wall(day: date, minutes: int) -> datetime:
    return datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)  # noqa: DTZ001 - on the wall


def _span(tz: tzinfo, start: datetime, end: datetime) -> tuple[datetime, datetime, datetime]:
    return instant_of(start, tz), instant_of(end, tz), _second_pass(end, tz)


def _second_pass(wall: datetime, tz: tzinfo) -> datetime:
    """Return the last instant at which the clock shows the wall time; as ``instant_of`` where it never does."""
    instant = wall.replace(tzinfo=tz, fold=1).astimezone(UTC)
    return instant if wall_of(instant, tz) == wall else instant_of(wall, tz)


def _wrong(item: Mapping[str, Any], key: str, remedy: str) -> InvalidInput:
    state = f"{item[key]!r} is not a valid {key!r}" if key in item else f"{key!r} is missing"
    return InvalidInput(f"{state} in the {item['type']} period", remedy=remedy)

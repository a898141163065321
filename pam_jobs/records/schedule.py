"""When a rotation or discovery runs: the JSON list of schedules that Keeper's clients write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any, Final

from pam_jobs.errors import InvalidInput
from pam_jobs.records.cron import parse_cron
from pam_jobs.records.recurrence import (
    MONTHS,
    OCCURRENCES,
    WEEKDAYS,
    ByCron,
    Daily,
    Entry,
    Hourly,
    MonthlyByDay,
    MonthlyByWeekday,
    Once,
    Weekly,
    Yearly,
)
from pam_jobs.records.zones import display_zone, zone

__all__ = ["Schedule", "check_minimum_interval", "parse_schedule"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_REFERENCE: Final = datetime(2024, 1, 1, tzinfo=UTC)  # a leap year, so that no day of the year is missing
_HORIZON: Final = timedelta(days=400)
_MOST_RUNS: Final = 10_000
_LONGEST_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A checked schedule list; without entries it is manual."""

    entries: tuple[Entry, ...] = ()
    zones: tuple[str, ...] = ()  # the zone's name of each entry
    source: str = "[]"  # the list as compact JSON, keys we do not know included

    @classmethod
    def manual(cls) -> Schedule:
        """Return the schedule that runs on demand only."""
        return cls()

    @classmethod
    def from_cron(cls, expression: str, tz: str = "Etc/UTC") -> Schedule:
        """Return the schedule of one cron expression.

        Raises:
            InvalidInput: the expression or the zone is refused.
        """
        return parse_schedule([{"type": "CRON", "cron": expression, "tz": tz}])

    @property
    def is_manual(self) -> bool:
        """Say whether it runs on demand only."""
        return not self.entries

    @property
    def is_anchored(self) -> bool:
        """Say whether its runs depend on the anchor."""
        return any(entry.is_anchored for entry in self.entries)

    def next_after(self, instant: datetime, *, anchor: datetime | None = None) -> datetime | None:
        """Return the earliest run of any entry strictly after the instant, in UTC, or None when there is none.

        Args:
            instant: aware.
            anchor: aware; where every second, third … period is counted from, best the schedule's creation.
                The same anchor gives the same runs, always. None: 1970-01-01 UTC.

        Raises:
            ValueError: an argument is naive.
        """
        start = anchor or _EPOCH
        if instant.tzinfo is None or start.tzinfo is None:
            raise ValueError("a schedule is asked with aware instants")
        moment = instant.astimezone(UTC)
        runs = (entry.next_after(moment, start) for entry in self.entries)
        return min((run for run in runs if run is not None), default=None)

    def upcoming(self, instant: datetime, *, anchor: datetime | None = None) -> Iterator[datetime]:
        """Yield the runs strictly after the instant, ascending; without end for most schedules."""
        run = self.next_after(instant, anchor=anchor)
        while run is not None:
            yield run
            run = self.next_after(run, anchor=anchor)

    def describe(self) -> str:
        """Return one line for people, such as ``weekly on SUNDAY at 15:44 UTC``."""
        if self.is_manual:
            return "on demand"
        parts = (f"{entry.words()} {display_zone(name)}" for entry, name in zip(self.entries, self.zones, strict=True))
        return "; ".join(parts)

    def to_json(self) -> str:
        """Return the list as compact JSON, as it was given."""
        return self.source


def parse_schedule(
    source: str | Sequence[Mapping[str, Any]] | None,
    *,
    now: datetime | None = None,
    minimum: timedelta | None = None,
) -> Schedule:
    """Return the schedule that the JSON list describes.

    Args:
        source: JSON text, or the decoded list; empty or None is manual.
        now: aware; with it, a schedule that has no run after it is refused. Leave it out for stored schedules.
        minimum: the least interval that policy allows between two runs; None does not check.

    Raises:
        InvalidInput: malformed, contradictory, never firing, of an unknown zone, or too frequent.
    """
    items = _items(source)
    entries = [(item, _entry(item)) for item in items]
    firing = [(item, entry) for item, entry in entries if entry is not None]
    if firing and len(firing) < len(entries):
        raise InvalidInput(
            "the schedule is on demand and timed at once", remedy="leave out ON_DEMAND or the timed entries"
        )
    schedule = Schedule(
        entries=tuple(entry for _, entry in firing),
        zones=tuple(_zone_name(item) for item, _ in firing),
        source=json.dumps([dict(item) for item in items], separators=(",", ":")),
    )
    if now is not None and not schedule.is_manual and schedule.next_after(now) is None:
        raise InvalidInput("the schedule has no run in the future", remedy="choose a later date or year")
    if minimum is not None:
        check_minimum_interval(schedule, minimum, since=now)
    return schedule


def check_minimum_interval(schedule: Schedule, minimum: timedelta, *, since: datetime | None = None) -> None:
    """Refuse a schedule of which two runs within 400 days come closer than policy allows.

    The runs are counted on clocks that do not jump: what daylight saving time shortens twice a year is no offence.

    Args:
        schedule: any.
        minimum: the least interval; zero or less allows everything.
        since: aware; where to begin, None: 2024-01-01 UTC.

    Raises:
        InvalidInput: two runs come too close.
    """
    if minimum <= timedelta(0):
        return
    start = since or _REFERENCE
    entries = tuple(_without_jumps(entry, start) for entry in schedule.entries)
    is_even = len(entries) == 1 and isinstance(entries[0], Hourly | Daily | Weekly)  # its first interval is every one
    most = 1 if is_even else _MOST_RUNS
    previous: datetime | None = None
    end: datetime | None = None
    for count, run in enumerate(replace(schedule, entries=entries).upcoming(start)):
        if previous is not None and run - previous < minimum:
            raise InvalidInput(
                f"the schedule has runs {_words(run - previous)} apart, but policy wants at least {_words(minimum)}",
                remedy="choose a longer interval, or have the policy's least interval lowered",
            )
        end = end or run + _HORIZON
        previous = run
        if run > end or count >= most:
            return


def _without_jumps(entry: Entry, start: datetime) -> Entry:
    offset = start.astimezone(entry.tz).utcoffset() or timedelta(0)
    return replace(entry, tz=timezone(offset))  # type: ignore[type-var]  # every entry is a dataclass


def _words(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for name, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size and seconds % size == 0:
            count = seconds // size
            return f"{count} {name if count > 1 else name[:-1]}"
    return f"{seconds} seconds" if seconds != 1 else "1 second"


def _items(source: str | Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    if isinstance(source, str):
        text = source.strip()
        try:
            source = json.loads(text) if text else []
        except ValueError:
            raise InvalidInput(
                "the schedule is not valid JSON", remedy='write a list such as [{"type":"ON_DEMAND"}]'
            ) from None
    items = [source] if isinstance(source, Mapping) else (source or [])
    if not isinstance(items, Sequence) or not all(isinstance(item, Mapping) for item in items):
        raise InvalidInput(
            "the schedule is not a list of objects", remedy='write a list such as [{"type":"ON_DEMAND"}]'
        )
    return list(items)


def _entry(item: Mapping[str, Any]) -> Entry | None:
    kind = item.get("type")
    if kind == "ON_DEMAND":
        return None
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise InvalidInput(f"{kind!r} is not a type of schedule", remedy="use one of ON_DEMAND, " + ", ".join(_READERS))
    return reader(item)


def _cron(item: Mapping[str, Any]) -> Entry:
    return ByCron(tz=zone(_zone_name(item)), cron=parse_cron(_string(item, "cron").strip()))


def _once(item: Mapping[str, Any]) -> Entry:
    text = _string(item, "time")
    try:
        wall = datetime.fromisoformat(text)
    except ValueError:
        raise _wrong(item, "time", "write it as 2026-01-31T02:00:00") from None
    tz = zone(_zone_name(item))
    if wall.tzinfo is not None:
        if "tz" in item:
            raise _wrong(item, "time", "leave out either the offset or the zone")
        wall = wall.astimezone(tz).replace(tzinfo=None)
    return Once(tz=tz, wall=wall.replace(microsecond=0))


def _hourly(item: Mapping[str, Any]) -> Entry:
    return Hourly(
        tz=zone(_zone_name(item)),
        minute=_number(item, "minute", 0, 59, 0),
        second=_number(item, "second", 0, 59, 0),
        every=_interval(item),
    )


def _daily(item: Mapping[str, Any]) -> Entry:
    return Daily(tz=zone(_zone_name(item)), time=_time(item), every=_interval(item))


def _weekly(item: Mapping[str, Any]) -> Entry:
    return Weekly(
        tz=zone(_zone_name(item)), time=_time(item), every=_interval(item), weekday=_word(item, "weekday", WEEKDAYS)
    )


def _by_day(item: Mapping[str, Any]) -> Entry:
    return MonthlyByDay(
        tz=zone(_zone_name(item)), time=_time(item), every=_interval(item), month_day=_number(item, "monthDay", 1, 31)
    )


def _by_weekday(item: Mapping[str, Any]) -> Entry:
    return MonthlyByWeekday(
        tz=zone(_zone_name(item)),
        time=_time(item),
        every=_interval(item),
        weekday=_word(item, "weekday", WEEKDAYS),
        occurrence=_word(item, "occurrence", OCCURRENCES),
    )


def _yearly(item: Mapping[str, Any]) -> Entry:
    month = _word(item, "month", MONTHS)
    return Yearly(
        tz=zone(_zone_name(item)),
        time=_time(item),
        every=_interval(item),
        month=month,
        month_day=_number(item, "monthDay", 1, _LONGEST_DAYS[MONTHS.index(month)]),
    )


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Entry]]] = {
    "CRON": _cron,
    "RUN_ONCE": _once,
    "HOURLY": _hourly,
    "DAILY": _daily,
    "WEEKLY": _weekly,
    "MONTHLY_BY_DAY": _by_day,
    "MONTHLY_BY_WEEKDAY": _by_weekday,
    "YEARLY": _yearly,
}


def _zone_name(item: Mapping[str, Any]) -> str:
    """Return the entry's zone; the older ``utcTime`` means UTC whatever else stands there."""
    if "tz" not in item or ("time" not in item and "utcTime" in item):
        return "Etc/UTC"
    return _string(item, "tz")


def _time(item: Mapping[str, Any]) -> time:
    key = "time" if "time" in item or "utcTime" not in item else "utcTime"
    try:
        at = time.fromisoformat(_string(item, key))
    except ValueError:
        raise _wrong(item, key, "write it as 02:30:00") from None
    if at.tzinfo is not None or at.microsecond:
        raise _wrong(item, key, "write it as 02:30:00, with the zone in tz")
    return at


def _interval(item: Mapping[str, Any]) -> int:
    return _number(item, "intervalCount", 1, 366, 1)


def _number(item: Mapping[str, Any], key: str, low: int, high: int, default: int | None = None) -> int:
    value = item.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(item, key, f"write a whole number from {low} to {high}")
    return value


def _word(item: Mapping[str, Any], key: str, words: tuple[str, ...]) -> str:
    value = item.get(key)
    if not isinstance(value, str) or value.upper() not in words:
        raise _wrong(item, key, "use one of " + ", ".join(words))
    return value.upper()


def _string(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(item, key, "write it as text")
    return value


def _wrong(item: Mapping[str, Any], key: str, remedy: str) -> InvalidInput:
    state = f"{item[key]!r} is not a valid {key!r}" if key in item else f"{key!r} is missing"
    return InvalidInput(f"{state} in the {item['type']} schedule", remedy=remedy)

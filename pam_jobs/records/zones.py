"""Wall-clock time in IANA zones, with the rules for the days on which the clock jumps.

A wall time that the clock skips stands for the first instant after the gap. A wall time that comes twice stands for
its first pass.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pam_jobs.errors import InvalidInput

__all__ = ["display_zone", "instant_of", "next_elapsed", "next_on_the_wall", "wall_of", "zone"]

NextWall = Callable[[datetime], datetime | None]
"""Returns the first wall time (naive) that matches strictly after a given one."""

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_NOT_IANA = ("posix", "right/", "localtime", "factory")  # files beside the zones; some count leap seconds


def zone(name: str) -> ZoneInfo:
    """Return the IANA time zone of that name.

    Raises:
        InvalidInput: there is none.
    """
    wrong = InvalidInput(f"{name!r} is not a time zone", remedy="give an IANA name such as Etc/UTC or Europe/Berlin")
    if name.casefold().startswith(_NOT_IANA):
        raise wrong
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise wrong from None


def display_zone(name: str) -> str:
    """Return the zone's name as people read it."""
    return "UTC" if name in {"Etc/UTC", "UTC", "Etc/UCT", "Zulu"} else name


def wall_of(instant: datetime, tz: tzinfo) -> datetime:
    """Return what a clock on the wall shows at the instant: naive, whole seconds."""
    return instant.astimezone(tz).replace(tzinfo=None, microsecond=0, fold=0)


def instant_of(wall: datetime, tz: tzinfo) -> datetime:
    """Return the instant in UTC that the wall time stands for.

    Args:
        wall: naive.
        tz: the zone of the clock.
    """
    instant = wall.replace(tzinfo=tz, fold=0).astimezone(UTC)
    if wall_of(instant, tz) == wall:
        return instant
    before = wall.replace(tzinfo=tz, fold=1).astimezone(UTC)  # inside a gap this lies before it, the other one after
    return _transition(before, instant, tz)


def next_on_the_wall(next_wall: NextWall, after: datetime, tz: tzinfo) -> datetime | None:
    """Return the first instant strictly after one at which a matching wall time falls due, each wall time once."""
    wall: datetime | None = wall_of(after, tz)
    while wall is not None:
        wall = next_wall(wall)
        if wall is not None and (instant := instant_of(wall, tz)) > after:
            return instant
    return None


def next_elapsed(next_wall: NextWall, after: datetime, tz: tzinfo) -> datetime | None:
    """Return the first instant strictly after one at which the clock shows a matching time.

    For what runs every hour: skipped hours are skipped, and a repeated hour runs again, so that elapsed time is even.
    """
    start = after.astimezone(UTC).replace(microsecond=0)
    while True:
        wall = wall_of(start, tz)
        due = next_wall(wall)
        if due is None:
            return None
        instant = start + (due - wall)  # right when the clock does not jump before it
        horizon = min(instant, start + _DAY)
        if _offset(horizon, tz) != _offset(start, tz):
            jump = _transition(start, horizon, tz)
        elif instant == horizon:
            return instant
        else:
            # A jump more than a day ahead cannot repeat a wall time at or before the present one.
            jump = instant_of(due, tz)
            if wall_of(jump, tz) == due:
                return jump
        if next_wall(wall_of(jump, tz) - _SECOND) == wall_of(jump, tz):
            return jump
        start = jump


def _offset(instant: datetime, tz: tzinfo) -> timedelta | None:
    return instant.astimezone(tz).utcoffset()


def _transition(before: datetime, after: datetime, tz: tzinfo) -> datetime:
    """Return the first whole second with the new offset, between two instants in UTC on either side of a jump."""
    old = _offset(before, tz)
    low, high = before.replace(microsecond=0), after
    while high - low > _SECOND:
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        low, high = (middle, high) if _offset(middle, tz) == old else (low, middle)
    return high

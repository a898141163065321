"""Time, injected so that tests and simulations own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Clock", "SystemClock", "VirtualClock", "stamp"]


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def stamp(moment: datetime) -> str:
    """Return an instant as people read it, in UTC and to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


class Clock(Protocol):
    """What the code needs of time."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back; the time for which the machine was suspended counts (Linux, clock_gettime(2)).

        A lease ends while its holder sleeps: a clock that stops with the machine would say that it still holds.
        """
        return time.clock_gettime(_CLOCK)


class VirtualClock:
    """A clock that moves only when told to."""

    def __init__(self, start: datetime) -> None:
        if start.tzinfo is None:
            raise ValueError("a virtual clock starts at an aware instant")
        self._now = start.astimezone(UTC)
        self._elapsed = 0.0

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self._elapsed

    def advance(self, by: timedelta) -> None:
        """Move forward.

        Raises:
            ValueError: the step is negative.
        """
        if by < timedelta(0):
            raise ValueError("a clock does not go back")
        self._now += by
        self._elapsed += by.total_seconds()

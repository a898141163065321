"""No crowd at a target's door.

Many jobs log in as the same administrator. If its password was changed by hand they would all be refused at once, and
the account would be locked before the first of them could tell. So one goes ahead, and the others follow when it is in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from workers.breaker import TargetBusy

__all__ = ["Administrators", "Door"]

_AT_A_TIME: Final = 2  # logins under way as an administrator who was let in a moment ago; they leave others a place


@dataclass
class Door:
    """What this process knows of one administrator on one target; no secrets."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    crowd: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(_AT_A_TIME))
    worked_at: float | None = None
    refused_at: float | None = None
    refused_cause: str = ""
    kept: tuple[int, int] | None = None  # revision of the record that is outdated, number of the version that logs in


class Administrators:
    """The doors of all targets; shared between the threads of a gateway."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        fresh_seconds: float = 10.0,
        wait_seconds: float = 20.0,
    ) -> None:
        """Know nothing yet.

        Args:
            monotonic: the clock, in seconds; the one by which claims are timed.
            fresh_seconds: how long after a login others log in beside each other.
            wait_seconds: how long a job waits for the one that goes ahead.
        """
        self._fresh_seconds = fresh_seconds
        self.wait_seconds = wait_seconds
        self.monotonic = monotonic
        self._lock = threading.Lock()
        self._doors: dict[str, Door] = {}

    @contextmanager
    def turn(self, key: str) -> Iterator[Door]:
        """Hold the door: alone, or with one other when a login succeeded a moment ago.

        Raises:
            TargetBusy: those before did not come to an end in time; nothing was begun.
        """
        with self._lock:
            door = self._doors.setdefault(key, Door())
        if self._is_fresh(door):
            with self._held(door.crowd):
                yield door
            return
        with self._held(door.lock):
            if not self._is_fresh(door):
                yield door
                return
        with self._held(door.crowd):
            yield door

    def _is_fresh(self, door: Door) -> bool:
        return door.worked_at is not None and self.monotonic() - door.worked_at < self._fresh_seconds

    @contextmanager
    def _held(self, lock: threading.Lock | threading.BoundedSemaphore) -> Iterator[None]:
        if not lock.acquire(timeout=self.wait_seconds):
            raise TargetBusy("other jobs wait for the administrator's login on this target already")
        try:
            yield
        finally:
            lock.release()

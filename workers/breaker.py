"""A bulkhead and a breaker for each target, so that a sick one delays only itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pam_jobs.errors import EffectUnknown, StateError, Unreachable
from pam_jobs.jobs.wire import TARGET_BUSY

__all__ = ["BreakerOpen", "Breakers", "TargetBusy"]


class BreakerOpen(Unreachable):
    """The target failed several times in a row and is left alone for a while."""

    code = "breaker_open"


class TargetBusy(StateError):
    """As many jobs as allowed work on this target already."""

    code = TARGET_BUSY


@dataclass
class _Target:
    slots: threading.BoundedSemaphore
    moved_at: float  # when a job last began or ended here
    failures: int = 0
    opened_at: float | None = None
    is_trying: bool = False
    users: int = field(default=0)


class Breakers:
    """Bounds the jobs at a time on one target, and refuses a target that failed several times in a row for a while."""

    def __init__(
        self,
        *,
        slots: int = 6,
        failures: int = 3,
        rest_seconds: float = 30.0,
        wait_seconds: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with every target well.

        Args:
            slots: jobs at a time on one target.
            failures: failures in a row that open the breaker.
            rest_seconds: how long it stays open before one job may try again.
            wait_seconds: how long a job waits for a slot, counted from when one was last taken or came free: where the
                jobs hang, those that come later do not wait at all.
            monotonic: the clock, in seconds.
        """
        self._slots = slots
        self._failures = failures
        self._rest_seconds = rest_seconds
        self._wait_seconds = wait_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._targets: dict[str, _Target] = {}

    @contextmanager
    def slot(self, key: str) -> Iterator[None]:
        """Hold one of the target's slots; an error that says the target is sick is counted.

        Raises:
            TargetBusy: none came free in time; nothing was begun.
            BreakerOpen: the target failed lately.
        """
        with self._lock:
            new = _Target(threading.BoundedSemaphore(self._slots), self._monotonic())
            target = self._targets.setdefault(key, new)
            target.users += 1
        is_trial = False
        try:
            is_trial = self._admit(key, target)
            if not target.slots.acquire(timeout=max(0.0, target.moved_at + self._wait_seconds - self._monotonic())):
                raise TargetBusy(f"{self._slots} jobs work on this target already")
            target.moved_at = self._monotonic()
            try:
                yield
            except (Unreachable, EffectUnknown):
                self.failed(key)
                raise
            finally:
                target.moved_at = self._monotonic()
                target.slots.release()
        finally:
            with self._lock:
                target.users -= 1
                if is_trial:
                    target.is_trying = False
                if not target.users and not target.failures:
                    self._targets.pop(key, None)

    def failed(self, key: str) -> None:
        """Count a target that could not be reached or whose answer was lost."""
        with self._lock:
            target = self._targets.get(key)
            if target is None:
                return
            target.failures += 1
            if target.failures >= self._failures:
                target.opened_at = self._monotonic()

    def worked(self, key: str) -> None:
        """Forget the failures of a target that answered."""
        with self._lock:
            target = self._targets.get(key)
            if target is not None:
                target.failures = 0
                target.opened_at = None

    def _admit(self, key: str, target: _Target) -> bool:
        """Return whether this job is the one that tries a target which failed."""
        with self._lock:
            if target.opened_at is None:
                return False
            rested = self._monotonic() - target.opened_at
            if rested < self._rest_seconds or target.is_trying:
                raise BreakerOpen(
                    f"{key} failed {target.failures} times in a row and is left alone for a while",
                    remedy=f"look at the target; the next try is allowed after {self._rest_seconds:.0f} seconds",
                )
            target.is_trying = True
            return True

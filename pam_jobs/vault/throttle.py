"""A limit on requests in a sliding window, kept in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Admission", "RequestWindow"]

_SWEEP_EVERY = 1000


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Whether a request may go on."""

    retry_after_seconds: float | None  # None: it may
    is_first_refusal: bool  # of this window: what is told once, not with every refused request

    @property
    def is_admitted(self) -> bool:
        """Say whether the request may go on."""
        return self.retry_after_seconds is None


@dataclass
class _Key:
    times: deque[float]
    is_refusing: bool = False


class RequestWindow:
    """Admits so many requests of a key in so many seconds; a refused request does not count."""

    def __init__(self, limit: int, seconds: float, monotonic: Callable[[], float]) -> None:
        """Begin with nothing counted.

        Args:
            limit: requests admitted in a window.
            seconds: length of the window.
            monotonic: seconds that never go back.
        """
        self._limit = limit
        self._seconds = seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._keys: dict[str, _Key] = {}
        self._since_sweep = 0

    def admit(self, key: str) -> Admission:
        """Count a request of the key and say whether it may go on."""
        now = self._monotonic()
        with self._lock:
            self._sweep(now)
            entry = self._keys.setdefault(key, _Key(deque()))
            while entry.times and entry.times[0] <= now - self._seconds:
                entry.times.popleft()
            if len(entry.times) < self._limit:
                entry.times.append(now)
                entry.is_refusing = False
                return Admission(retry_after_seconds=None, is_first_refusal=False)
            is_first, entry.is_refusing = not entry.is_refusing, True
            return Admission(retry_after_seconds=entry.times[0] + self._seconds - now, is_first_refusal=is_first)

    def _sweep(self, now: float) -> None:
        """Forget keys not heard of for a window, so that memory does not grow with the number of keys ever seen."""
        self._since_sweep += 1
        if self._since_sweep < _SWEEP_EVERY:
            return
        self._since_sweep = 0
        for key in [key for key, entry in self._keys.items() if entry.times[-1] <= now - self._seconds]:
            del self._keys[key]

"""How long each step of an attempt took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Timings"]


class Timings:
    """Adds up milliseconds by the name of the step."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._milliseconds: dict[str, float] = {}

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Count the time of the block."""
        start = self._monotonic()
        try:
            yield
        finally:
            self.add(step, self._monotonic() - start)

    def add(self, step: str, seconds: float) -> None:
        """Count some time."""
        self._milliseconds[step] = self._milliseconds.get(step, 0.0) + seconds * 1000

    def result(self) -> dict[str, float]:
        """Return the sums, to a tenth of a millisecond."""
        return {step: round(value, 1) for step, value in self._milliseconds.items()}

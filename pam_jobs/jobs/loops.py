"""Work that a process repeats as long as it lives, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

__all__ = ["Loop"]

_log = structlog.get_logger(__name__)
_LONGEST_PAUSE_SECONDS = 30.0


class Loop:
    """Calls a function again and again; an error is logged, and the next call waits longer each time."""

    def __init__(self, name: str, work: Callable[[], object], pause_seconds: float) -> None:
        """Prepare, without starting.

        Args:
            name: of the thread and in the log.
            work: one pass, seconds long at most; what it returns is true when more is to be done at once.
            pause_seconds: between two passes.
        """
        self._name = name
        self._work = work
        self._pause_seconds = pause_seconds
        self._wake = threading.Event()
        self._is_stopping = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin with a pass at once."""
        self._thread.start()

    def wake(self) -> None:
        """Begin the next pass without waiting."""
        self._wake.set()

    def stop(self) -> None:
        """Ask to end after the present pass; returns at once."""
        self._is_stopping = True
        self._wake.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end and say whether it came in time."""
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping:
            pause = self._pass()
            if pause > 0:
                self._wake.wait(pause)
            self._wake.clear()

    def _pass(self) -> float:
        """Do one pass and return the seconds to wait."""
        try:
            has_more = bool(self._work())
        except Exception as error:  # noqa: BLE001 # a loop of the process's life: the next pass may succeed
            self._failures += 1
            pause = min(self._pause_seconds * 2.0 ** min(self._failures - 1, 16), _LONGEST_PAUSE_SECONDS)
            _log.exception(f"{self._name} failed; it is tried again", error=type(error).__name__, pause_seconds=pause)
            return pause
        if self._failures:
            _log.info(f"{self._name} works again")
            self._failures = 0
        return 0.0 if has_more else self._pause_seconds

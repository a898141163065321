"""Stops one job of a running gateway at a named boundary until the test says go on.

A folder is the telephone between the two processes: the test writes which boundary a record's job has to stop at, the
gateway's thread moves the note when it is there and waits until the note is gone. So whatever a test does in between,
it does exactly there, and no time is guessed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

_POLL_SECONDS = 0.01


class Orders:
    """The notes of one system; both processes make one from the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._wanted = folder / "wanted"
        self._reached = folder / "reached"
        self._clocks = folder / "clocks"
        for each in (self._wanted, self._reached, self._clocks):
            each.mkdir(parents=True, exist_ok=True)
        self.of_thread = threading.local()

    # the gateway's side

    def reach(self, boundary: str) -> None:
        """Pass a boundary, or stop there when that is wanted of this thread's record."""
        record_uid = getattr(self.of_thread, "record_uid", None)
        if record_uid is None:
            return
        try:
            if (self._wanted / record_uid).read_text() != boundary:
                return
            note = (self._wanted / record_uid).rename(self._reached / record_uid)
        except FileNotFoundError:
            return
        while note.exists():
            time.sleep(_POLL_SECONDS)

    def clock_offset(self, process: str) -> timedelta:
        """Return how far the process's clock is moved from the machine's."""
        try:
            return timedelta(seconds=float((self._clocks / process).read_text()))
        except FileNotFoundError:
            return timedelta(0)

    # the test's side

    def move_clock(self, process: str, seconds: float) -> None:
        """Let the clock of a process show another time; 0 puts it right."""
        note = self._clocks / f".{process}"
        note.write_text(str(seconds))
        note.rename(self._clocks / process)

    def stop_at(self, record_uid: str, boundary: str) -> None:
        """Let the record's next job stop at the boundary."""
        note = self._wanted / f".{record_uid}"
        note.write_text(boundary)
        note.rename(self._wanted / record_uid)

    def reached(self) -> set[str]:
        """Return the records whose jobs stand at their boundary."""
        return {path.name for path in self._reached.iterdir()}

    def release(self, record_uids: Iterable[str] | None = None) -> None:
        """Let jobs go on, all of them by default, or forget them where their gateway is gone."""
        for uid in record_uids if record_uids is not None else self.reached():
            (self._reached / uid).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget every note; each clock is right again."""
        for path in [*self._wanted.iterdir(), *self._reached.iterdir(), *self._clocks.iterdir()]:
            path.unlink(missing_ok=True)

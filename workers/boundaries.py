"""Named instants of a job at which a test may cut the process off; off unless a variable is set."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["Boundary", "boundary_from", "nothing"]

Boundary = Callable[[str], None]
"""Called with the name of the instant, such as ``before:stage``."""


def nothing(_name: str) -> None:
    """Do nothing: the boundary of every real gateway."""


def boundary_from(environment: Mapping[str, str]) -> Boundary:
    """Return what the environment asks for.

    ``PAM_TEST_BOUNDARY=NAME`` makes the process kill itself at that instant, ``NAME@MARKER`` only once for as long as
    the file MARKER exists, and ``PAM_TEST_PAUSE_SECONDS`` makes it sleep there instead.
    """
    wanted = environment.get("PAM_TEST_BOUNDARY", "")
    if not wanted:
        return nothing
    name, _, marker = wanted.partition("@")
    pause_seconds = float(environment.get("PAM_TEST_PAUSE_SECONDS", "0"))

    def reach(reached: str) -> None:
        if reached != name or not _is_first(marker):
            return
        if pause_seconds:
            time.sleep(pause_seconds)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


def _is_first(marker: str) -> bool:
    if not marker:
        return True
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

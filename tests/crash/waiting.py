"""Waits for what has to come true: without a clock of its own in any test, and with a reason when it does not come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = 120.0  # of a machine that others use too; what happens at all happens much sooner


def eventually(is_so: Callable[[], Any], what: Callable[[], str] | str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Return the first true answer; the failure says what did not happen."""
    end = time.monotonic() + seconds
    while not (answer := is_so()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)
    return answer

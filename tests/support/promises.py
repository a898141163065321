"""The table at the end of a run: which connector keeps which promise on which target."""

from __future__ import annotations

from collections import defaultdict

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which connector keeps which promise on which target, and which targets are emulated."""
    outcomes: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == "contract":
                    promise, target, server = value
                    outcomes[target, server][promise] = "+" if outcome == "passed" else "X"
    if not outcomes:
        return
    promises = sorted({promise for row in outcomes.values() for promise in row})
    terminalreporter.section("connector contract: target, server, promises (+ kept, X broken, . does not apply)")
    for number, promise in enumerate(promises, 1):
        terminalreporter.write_line(f"  {number:2}  {promise}")
    width = max(len(target) for target, _ in outcomes)
    terminalreporter.write_line(" " * (width + 12) + " ".join(f"{n:>2}" for n in range(1, len(promises) + 1)))
    for (target, server), row in sorted(outcomes.items()):
        marks = " ".join(f"{row.get(promise, '.'):>2}" for promise in promises)
        terminalreporter.write_line(f"{target:<{width}}  {server:<8}  {marks}")

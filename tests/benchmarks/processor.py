"""``python -m tests.benchmarks.processor``: processor time of one rotation, process by process, beside the bare loop's.

Other work on the machine hardly moves these figures, as it does rates. With every core busy, the rates of the two sides
are in the inverse proportion of what one rotation costs them in all.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from os import getpid
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.bare import BareTarget, fresh_verified, run_parallel
from tests.benchmarks.roles import make_roles
from tests.benchmarks.site import Site, processes_of
from tests.benchmarks.stores import target_server
from tests.benchmarks.usage import conditions, cpu_seconds, tree

_BARE = "bare loop"
_TARGET = "target"
_OPEN = "SELECT count(*) FROM jobs WHERE state IN ('created', 'queued', 'leased', 'running', 'unknown')"


def main() -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--roles", type=int, default=100, help="rotations a round")
    parser.add_argument("--at-a-time", type=int, default=8)
    parser.add_argument("--tls", action="store_true", help="the target's connections are encrypted and its key checked")
    wanted = parser.parse_args()
    console = Console(width=120)
    with target_server(with_tls=wanted.tls) as (folder, target, postmaster):
        figures = _run(folder, target, postmaster, wanted)
    _report(console, figures, wanted)
    return 0


def _run(folder: Path, target: BareTarget, postmaster: int, wanted: argparse.Namespace) -> dict[str, list[float]]:
    """Return the milliseconds of each process a rotation, one figure a round."""
    bare = list(make_roles(target, "bare", wanted.roles))
    site = Site.start(folder / "site", wanted.at_a_time, [target], make_roles(target, "pam", wanted.roles))
    figures: defaultdict[str, list[float]] = defaultdict(list)

    def spent(pid: int) -> float:
        return cpu_seconds(*([pid] if pid == getpid() else tree(pid)))  # all the others are children of this one

    def note(names: dict[str, int], prefix: str, work: Callable[[], object]) -> None:
        before = {name: spent(pid) for name, pid in names.items()}
        work()
        for name, pid in names.items():
            figures[f"{prefix}{name}"].append((spent(pid) - before[name]) / wanted.roles * 1000)

    try:
        mine = {**processes_of(site), _TARGET: postmaster}
        del mine["supervisor"]  # the others are its children
        theirs = {_BARE: getpid(), _TARGET: postmaster}
        for number in range(wanted.rounds + 1):
            note(mine, "", lambda: _rotate(site))
            note(theirs, "bare: ", lambda: run_parallel("", wanted.at_a_time, bare, fresh_verified(target)))
            if not number:
                figures.clear()  # the first round warms up connections and caches
    finally:
        site.stop()
    return figures


def _rotate(site: Site) -> None:
    """Rotate every record once; the end is awaited without asking the router, which would be its work as well."""
    site.submit(site.records)
    with contextlib.closing(sqlite3.connect(f"file:{site.folder / 'control.db'}?mode=ro", uri=True)) as database:
        while database.execute(_OPEN).fetchone()[0]:
            time.sleep(0.05)
        failed = database.execute("SELECT count(*) FROM jobs WHERE state <> 'succeeded'").fetchone()[0]
    if failed:
        raise RuntimeError(f"{failed} rotations failed")


def _report(console: Console, figures: dict[str, list[float]], wanted: argparse.Namespace) -> None:
    table = Table(title=f"Processor time of a rotation, {wanted.at_a_time} at a time, ms")
    for heading in ("process", "median", "least", "most"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    sums = {"": 0.0, "bare: ": 0.0}
    for name, values in figures.items():
        if max(values) < 0.05:
            continue
        sums["bare: " if name.startswith("bare: ") else ""] += statistics.median(values)
        table.add_row(name, *(f"{value:.2f}" for value in (statistics.median(values), min(values), max(values))))
    table.add_row("in all", f"{sums['']:.2f}", style="bold")
    table.add_row("bare: in all", f"{sums['bare: ']:.2f}", style="bold")
    console.print(table)
    console.print(f"processor time of the bare loop to ours: {sums['bare: '] / sums['']:.2f}; {conditions()}")


if __name__ == "__main__":
    raise SystemExit(main())

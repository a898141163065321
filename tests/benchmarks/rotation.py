"""``make bench``: rotations per second of the whole system beside bare psycopg loops, on one server in one run."""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import statistics
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.bare import BareTarget, Figures, fresh_verified, kept, run_parallel
from tests.benchmarks.roles import make_roles
from tests.benchmarks.site import Site, memory_of
from tests.benchmarks.stores import target_server

_REFERENCE = "bare: connect, ALTER, log in; 8 threads"


def main() -> int:
    """Run the rounds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each contender once a round")
    parser.add_argument("--roles", type=int, default=80, help="rotations of a contender in a round")
    parser.add_argument("--tls", action="store_true", help="the target's connections are encrypted and its key checked")
    arguments = parser.parse_args()
    console = Console(width=120)
    with target_server(with_tls=arguments.tls) as (folder, target, _):
        _run(console, folder, target, arguments.rounds, arguments.roles)
    return 0


def _run(console: Console, folder: Path, target: BareTarget, rounds: int, count: int) -> None:
    bare = list(make_roles(target, "bare", count))
    console.print("bringing up three systems, with 1, 8 and 32 jobs at a time …")
    one = Site.start(folder / "one", 1, [target], make_roles(target, "one", count))
    eight = Site.start(folder / "eight", 8, [target], make_roles(target, "eight", count))
    many = Site.start(folder / "many", 32, [target], make_roles(target, "many", count))
    try:
        memory = memory_of(eight)
        steps: list[dict[str, float]] = []

        def system(site: Site) -> Figures:
            figures, mean = site.rotate(site.records)
            if site is eight:
                steps.append(mean)
            return figures

        contenders: dict[str, Callable[[], Figures]] = {
            "bare: ALTER on a kept connection; 1": lambda: run_parallel("", 1, bare, kept(target, threading.local())),
            "bare: ALTER on kept connections; 8 threads": lambda: run_parallel(
                "", 8, bare, kept(target, threading.local())
            ),
            "bare: connect, ALTER, log in; 1": lambda: run_parallel("", 1, bare, fresh_verified(target)),
            _REFERENCE: lambda: run_parallel("", 8, bare, fresh_verified(target)),
            "pam-jobs, 1 at a time": lambda: system(one),
            "pam-jobs, 8 at a time": lambda: system(eight),
            "pam-jobs, 32 at a time": lambda: system(many),
        }
        results = _rounds(console, contenders, rounds)
        latency = [eight.on_demand(eight.records[number % count]) for number in range(20)]
    finally:
        for site in (one, eight, many):
            site.stop()
    _report(console, results, steps, memory, latency, target, rounds, count)


def _rounds(console: Console, contenders: dict[str, Callable[[], Figures]], rounds: int) -> dict[str, list[Figures]]:
    results: dict[str, list[Figures]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        order = sorted(contenders, key=lambda _name: secrets.randbits(32))
        for name in order:
            figures = contenders[name]()
            if number:  # the first round warms up connections and caches
                results[name].append(figures)
        console.print(f"round {number} of {rounds}{' (warm-up)' if not number else ''}")
    return results


def _report(
    console: Console,
    results: dict[str, list[Figures]],
    steps: list[dict[str, float]],
    memory: dict[str, float],
    latency: list[float],
    target: BareTarget,
    rounds: int,
    count: int,
) -> None:
    table = Table(title="Rotations of PostgreSQL roles")
    for heading in ("contender", "rotations/s", "p50 ms", "p99 ms", "ratio to the bare verified loop, 8 threads"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    reference = results[_REFERENCE]
    for name, figures in results.items():
        ratios = [mine.rate / other.rate for mine, other in zip(figures, reference, strict=True)]
        table.add_row(
            name,
            f"{statistics.median(each.rate for each in figures):.1f}",
            f"{statistics.median(each.p50 for each in figures):.1f}",
            f"{statistics.median(each.percentile(0.99) for each in figures):.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        )
    console.print(table)
    names = sorted({name for mean in steps for name in mean})
    mean = {name: statistics.mean(each.get(name, 0.0) for each in steps) for name in names}
    console.print(
        "where a job's time goes, 8 at a time, mean ms: "
        + ", ".join(f"{name} {value:.1f}" for name, value in sorted(mean.items(), key=lambda item: -item[1]))
    )
    console.print(
        f"on demand, one at a time, submission to end: p50 {statistics.median(latency):.0f} ms, "
        f"longest of {len(latency)} {max(latency):.0f} ms"
    )
    console.print(
        "memory at rest, MB (proportional): "
        + ", ".join(f"{name} {value:.0f}" for name, value in memory.items())
        + f"; sum {sum(memory.values()):.0f}"
    )
    load = os.getloadavg()[0]
    console.print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, PostgreSQL with fsync on loopback{', TLS' if target.ca else ''}, "
        f"{rounds} rounds of {count}, load {load:.1f}; "
        "ratios are of the same round"
    )


if __name__ == "__main__":
    begin = time.monotonic()
    code = main()
    print(f"{time.monotonic() - begin:.0f} s")
    sys.exit(code)

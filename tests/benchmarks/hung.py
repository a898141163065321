"""``python -m tests.benchmarks.hung``: what five targets that never answer cost two hundred that do.

Each target is a door of its own to one PostgreSQL server. A round rotates one role on every healthy target, once alone
and once while the jobs of the hung targets run as well, and compares the healthy ones' rates.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tests.benchmarks.bare import BareTarget
from tests.benchmarks.doors import opened
from tests.benchmarks.roles import make_roles
from tests.benchmarks.site import Site
from tests.benchmarks.stores import target_server

_CONCURRENCY = 32
_ASK_SECONDS = 2.0


def main() -> int:
    """Run the rounds and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--healthy", type=int, default=200)
    parser.add_argument("--hung", type=int, default=5)
    arguments = parser.parse_args()
    console = Console(width=120)
    with target_server({"max_connections": "500"}) as (folder, server, _):
        _run(console, folder, server, arguments)
    return 0


def _run(console: Console, folder: Path, server: BareTarget, arguments: argparse.Namespace) -> None:
    with opened(server.host, server.port, passing=arguments.healthy, silent=arguments.hung) as doors:
        ports = [*doors.passing, *doors.silent]
        login = {"admin": server.admin, "password": server.password}
        targets = [BareTarget(host="127.0.0.1", port=port, **login) for port in ports]
        roles = make_roles(server, "hung", len(ports))
        site = Site.start(folder / "site", _CONCURRENCY, targets, roles)
        try:
            healthy, hung = site.records[: arguments.healthy], site.records[arguments.healthy :]
            site.rotate(healthy)  # connections and caches are warm
            ratios = []
            for number in range(1, arguments.rounds + 1):
                alone, _ = site.rotate(healthy)
                with _kept_busy(site, hung):
                    beside, _ = site.rotate(healthy)
                site.settle(hung)
                ratios.append(beside.rate / alone.rate)
                console.print(
                    f"round {number}: {alone.rate:.1f}/s alone, {beside.rate:.1f}/s beside {len(hung)} hung targets"
                )
        finally:
            site.stop()
    console.print(
        f"healthy targets keep {statistics.median(ratios):.2f} of their rate ({min(ratios):.2f} to {max(ratios):.2f}):"
        f" {arguments.hung} of {len(ports)} targets hung, {_CONCURRENCY} at a time;"
        f" {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )


@contextmanager
def _kept_busy(site: Site, records: list[str]) -> Iterator[None]:
    """See that each record has a job all the time: one that is given up on is followed by the next."""
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(_ASK_SECONDS):
            site.submit(records)

    site.submit(records)
    time.sleep(_ASK_SECONDS)  # they have been taken and hang
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


if __name__ == "__main__":
    raise SystemExit(main())

"""``python -m tests.benchmarks.hung``: what five targets that never answer cost two hundred that do.

Each target is a door of its own to one PostgreSQL server. A round rotates one role on every healthy target, once alone
and once while the jobs of the hung targets run as well, and compares the healthy ones' rates.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from deploy.lab import postgres
from tests.benchmarks.bare import BareTarget
from tests.benchmarks.doors import opened
from tests.benchmarks.roles import make_roles
from tests.benchmarks.site import Site

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
    with tempfile.TemporaryDirectory(prefix="pam-hung-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user must reach its cluster
        server = postgres.start(folder / "target", durable=True, settings={"max_connections": "500"})
        try:
            _run(console, folder, server, arguments)
        finally:
            server.stop()
    return 0


def _run(console: Console, folder: Path, server: postgres.PostgresServer, arguments: argparse.Namespace) -> None:
    with opened(server.host, server.port, passing=arguments.healthy, silent=arguments.hung) as doors:
        ports = [*doors.passing, *doors.silent]
        login = {"admin": server.admin_login, "password": server.admin_password}
        targets = [BareTarget(host="127.0.0.1", port=port, **login) for port in ports]
        roles = make_roles(BareTarget(host=server.host, port=server.port, **login), "hung", len(ports))
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

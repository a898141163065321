"""Rotations a second of each connector, beside a bare loop with the same driver, or an independent one, on the same server.

Both sides do the same: change the password as the administrator, then log in afresh with it. The bare loop connects as
the administrator each time, as a script would; the connector keeps its connection, looks before it changes, and maps
every answer. ``python -m tests.benchmarks.connectors [NAME ...] [--rounds N] [--accounts M]``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.base import Account, Candidate, Effect, VerdictState
from deploy.lab import (
    ios_xe,
    macos,
    mariadb,
    mongodb,
    mssql,
    mysql8,
    openldap,
    oracle,
    postgres,
    rabbitmq,
    redis,
    samba,
    sshd,
    windows,
)
from deploy.lab.saas import SaasServices
from tests.benchmarks import bare_changes
from tests.benchmarks.bare import Figures, run_parallel
from tests.support.benches.activedirectory import ActiveDirectoryBench
from tests.support.benches.base import new_password
from tests.support.benches.linux import LinuxBench, password_admin
from tests.support.benches.macos import MacosBench
from tests.support.benches.mariadb import MariadbBench, Mysql8Bench
from tests.support.benches.mongodb import MongodbBench
from tests.support.benches.network import IosXeBench
from tests.support.benches.openldap import OpenldapBench
from tests.support.benches.oracle import OracleBench
from tests.support.benches.postgresql import PostgresBench
from tests.support.benches.rabbitmq import RabbitmqBench
from tests.support.benches.redis import RedisBench
from tests.support.benches.saas import SaasBench
from tests.support.benches.sqlserver import SqlserverBench
from tests.support.benches.windows import WindowsBench
from tests.support.lab import DOMAIN_POLICY, target_folder

Change = Callable[[Any, str, str], None]
"""Sets an account's password and logs in with it; raises when either fails."""

_FEW = 10  # rotations in a round where one takes a tenth of a second and more


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A connector's server, its bench, and the bare loop beside it."""

    start: Callable[[Path], Any]
    bench: Callable[[Any], Any]
    change: Change
    accounts: int = 40
    emulated: bool = False
    at_a_time: int = 8  # at the most, so that the server turns nobody away


CONTENDERS: dict[str, Contender] = {
    "postgresql": Contender(start=postgres.start, bench=PostgresBench, change=bare_changes.postgresql),
    "mariadb": Contender(start=mariadb.start, bench=MariadbBench, change=bare_changes.mariadb),
    "mysql": Contender(start=mysql8.start, bench=Mysql8Bench, change=bare_changes.mysql8, emulated=True),
    "sqlserver": Contender(
        start=mssql.start, bench=SqlserverBench, change=bare_changes.sqlserver, accounts=20, emulated=True
    ),
    "oracle": Contender(start=oracle.start, bench=OracleBench, change=bare_changes.oracle, accounts=20, emulated=True),
    "mongodb": Contender(
        start=mongodb.start, bench=MongodbBench, change=bare_changes.mongodb, accounts=20, emulated=True
    ),
    "redis": Contender(start=redis.start, bench=RedisBench, change=bare_changes.redis),
    "rabbitmq": Contender(start=rabbitmq.start, bench=RabbitmqBench, change=bare_changes.rabbitmq, accounts=20),
    "openldap": Contender(start=openldap.start, bench=OpenldapBench, change=bare_changes.openldap),
    "activedirectory": Contender(
        start=lambda folder: samba.start(folder, policy=DOMAIN_POLICY), bench=ActiveDirectoryBench,
        change=bare_changes.activedirectory, accounts=_FEW,
    ),
    "linux": Contender(
        start=sshd.start, change=bare_changes.linux, accounts=_FEW,
        bench=lambda server: LinuxBench(server, "admin with password", admin=password_admin(server)),
    ),
    "macos": Contender(
        start=macos.start, change=bare_changes.macos, accounts=_FEW, emulated=True,
        bench=lambda server: MacosBench(server, "admin with password", admin=password_admin(server)),
    ),
    "winrm": Contender(
        start=lambda folder: windows.start(folder / "windows", windows.Machine()), bench=WindowsBench,
        change=bare_changes.windows, accounts=_FEW, emulated=True,
    ),
    "ios-xe": Contender(
        start=ios_xe.start, bench=IosXeBench, change=bare_changes.ios_xe, accounts=_FEW, emulated=True, at_a_time=3
    ),
    "saas-rest": Contender(
        start=lambda _: SaasServices().__enter__(), bench=lambda services: SaasBench(services, "REST"),
        change=bare_changes.saas_rest, emulated=True,
    ),
}  # fmt: skip


def _ours(bench: Any, account: Account) -> None:
    """Do what a gateway does: look, change, log in; the administrator's connection is kept."""
    candidate = Candidate(password=new_password())
    with bench.open(candidate.credential(account), seconds=60) as session:
        session.preflight(account)
        assert session.change(account, candidate, lambda: None) is Effect.APPLIED
        verdict = session.probe(account, candidate.credential(account))
    assert verdict.state is VerdictState.ACCEPTED, verdict


def _round(bench: Any, change: Change, accounts: dict[str, Account], workers: int, *, is_ours: bool) -> Figures:
    def once(login: str) -> None:
        if is_ours:
            _ours(bench, accounts[login])
        else:
            change(bench, login, new_password().reveal())

    return run_parallel("connector" if is_ours else "bare", workers, list(accounts), once)


@contextmanager
def _running(contender: Contender) -> Iterator[Any]:
    with target_folder() as folder:
        server = contender.start(folder)
        try:
            yield contender.bench(server)
        finally:
            stop = getattr(server, "stop", None)
            server.__exit__(None, None, None) if stop is None else stop()


def _measure(name: str, contender: Contender, rounds: int, accounts: int) -> None:
    """Print one connector's lines."""
    with _running(contender) as bench:
        known = {each.login: each for each, _ in (bench.new_account() for _ in range(accounts))}
        for workers in sorted({1, contender.at_a_time}):
            pairs = []
            for number in range(rounds):
                order = (True, False) if number % 2 else (False, True)
                pair = {each: _round(bench, contender.change, known, workers, is_ours=each) for each in order}
                pairs.append((pair[True], pair[False]))
            ours = statistics.median(each.rate for each, _ in pairs)
            bare = statistics.median(each.rate for _, each in pairs)
            ratios = sorted(each.rate / other.rate for each, other in pairs)
            half = statistics.median(each.percentile(0.5) for each, _ in pairs)
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            server = "emulated" if contender.emulated else "real"
            print(
                f"{name:<15} {server:<8} {workers:>9} {ours:>12.1f} {half:>8.1f} {bare:>8.1f} {spread:>22}", flush=True
            )
        bench.connector.close_idle()


def main() -> None:
    parser = argparse.ArgumentParser(description="Rotations a second of connectors, beside bare loops.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CONTENDERS)}; all when absent")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accounts", type=int, help="rotations in a round; by connector when absent")
    asked = parser.parse_args()
    head = ("connector", "server", "at a time", "rotations/s", "p50 ms", "bare/s", "ratio (of rounds)")
    print("{:<15} {:<8} {:>9} {:>12} {:>8} {:>8} {:>22}".format(*head))
    for name in asked.names or list(CONTENDERS):
        _measure(name, CONTENDERS[name], asked.rounds, asked.accounts or CONTENDERS[name].accounts)


if __name__ == "__main__":
    main()

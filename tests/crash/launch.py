"""Starts a process of the product as it is, with its clock and its boundaries on the telephone and perhaps a defect.

``python -m tests.crash.launch gateway|router|control|beat ORDERS_FOLDER MUTANT|- [arguments of the process]``
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import urllib3

from pam_jobs.clock import SystemClock
from pam_jobs.jobs import wire
from pam_jobs.settings import GatewaySettings
from tests.crash import mutants
from tests.crash.orders import Orders

_ANSWER_SECONDS = 6.0  # a router that hangs is given up after this, not after half a minute


def main(arguments: list[str]) -> int:
    what, folder, mutant, *rest = arguments
    orders = Orders(Path(folder))
    if mutant != "-":
        mutants.apply(mutant)
    _obey_clock(orders, what)
    if what == "gateway":
        _listen(orders)
        _be_impatient()
        from workers.__main__ import main as work

        return work(rest)
    modules = {"router": "pam_jobs.api.__main__", "control": "pam_jobs.jobs.__main__", "beat": "scheduler.__main__"}
    return int(import_module(modules[what]).main() or 0)


def _obey_clock(orders: Orders, what: str) -> None:
    """Let the clock of this process show what the test says: everything here takes the time from it."""
    true_now = SystemClock.now
    SystemClock.now = lambda self: true_now(self) + orders.clock_offset(what)  # type: ignore[method-assign]


def _be_impatient() -> None:
    """Let a line that hangs cost seconds."""
    from workers import agent

    make = agent._connections

    def made(hostname: str, settings: GatewaySettings) -> urllib3.HTTPSConnectionPool:
        pool = make(hostname, settings)
        pool.timeout = urllib3.Timeout(connect=5.0, read=_ANSWER_SECONDS)
        return pool

    agent._connections = made


def _listen(orders: Orders) -> None:
    """Let the gateway's boundaries be the telephone, which needs to know whose job a thread works on."""
    from workers import agent
    from workers.router import RouterClient

    claim = RouterClient.claim

    def noted(self: RouterClient, job_uid: str, read: wire.VaultRead | None = None) -> wire.Claim:
        orders.of_thread.record_uid = None
        answer = claim(self, job_uid, read)
        orders.of_thread.record_uid = answer.record_uid
        return answer

    RouterClient.claim = noted  # type: ignore[method-assign]
    agent.boundary_from = lambda _environment: orders.reach


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

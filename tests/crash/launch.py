"""Starts a process of the product as it is, with its boundaries on the telephone and perhaps one deliberate defect.

``python -m tests.crash.launch gateway|router ORDERS_FOLDER MUTANT|- [arguments of the process]``
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.crash import mutants
from tests.crash.orders import Orders


def main(arguments: list[str]) -> int:
    what, folder, mutant, *rest = arguments
    if mutant != "-":
        mutants.apply(mutant)
    if what == "router":
        from pam_jobs.api.__main__ import main as serve

        return serve()
    _listen(Orders(Path(folder)))
    from workers.__main__ import main as work

    return work(rest)


def _listen(orders: Orders) -> None:
    """Let the gateway's boundaries be the telephone, which needs to know whose job a thread works on."""
    from workers import agent
    from workers.router import RouterClient

    claim = RouterClient.claim

    def noted(self: RouterClient, job_uid: str):
        orders.of_thread.record_uid = None
        answer = claim(self, job_uid)
        orders.of_thread.record_uid = answer.record_uid
        return answer

    RouterClient.claim = noted  # type: ignore[method-assign]
    agent.boundary_from = lambda _environment: orders.reach


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Which worker of pytest-xdist runs which module.

xdist itself begins with the modules that have the most tests. Here those have one or two that take minutes: they came last,
several to one worker, while the others had nothing left to do. And modules that want the same servers were spread over all
workers, each of which had to start every server. So a worker keeps to one kind of module as long as there are some, and takes
the longest first; kinds that wait for processes run beside kinds that compute.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# Kind of module, and seconds that one takes when nothing else is known of it.
_KINDS = {
    "tests/crash/": ("crash", 30.0),
    "tests/e2e/": ("e2e", 60.0),
    "tests/contract/": ("servers", 15.0),
    "tests/integration/": ("servers", 10.0),
}
_REST = ("unit", 2.0)
_SECONDS = {
    "tests/crash/test_survival.py": 85.0,
    "tests/crash/test_proxy.py": 80.0,
    "tests/crash/test_targets.py": 75.0,
    "tests/crash/test_messages.py": 60.0,
    "tests/crash/test_restore.py": 55.0,
    "tests/crash/test_machine.py": 50.0,
    "tests/crash/test_zombie.py": 45.0,
    "tests/e2e/test_apart.py": 120.0,
    "tests/e2e/test_commands.py": 110.0,
    "tests/e2e/test_processes.py": 100.0,
    "tests/contract/test_connectors.py": 250.0,
    "tests/contract/test_connector_activedirectory.py": 30.0,
    "tests/contract/test_connector_linux.py": 30.0,
    "tests/contract/test_connector_rabbitmq.py": 30.0,
    "tests/contract/test_faults.py": 30.0,
    "tests/integration/test_broker_accounts.py": 40.0,
    "tests/integration/test_jobs_brokers.py": 30.0,
    "tests/integration/test_jobs_control.py": 50.0,
}


class Lanes(LoadFileScheduling):
    """Whole modules to workers, by kind and length."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._next_for(node), last=False)
        super()._assign_work_unit(node)

    def _next_for(self, node: WorkerController) -> str:
        """Return the longest module of the kind that the worker is at, else of the kind that needs help most."""
        waiting: dict[str, list[str]] = defaultdict(list)
        for scope in self.workqueue:
            waiting[_kind(scope)].append(scope)
        last = next(reversed(self.assigned_work[node]), None)
        kind = _kind(last) if last else ""
        if kind not in waiting:
            helpers = [_kind(next(reversed(taken))) for taken in self.assigned_work.values() if taken]
            kind = max(waiting, key=lambda each: sum(map(_seconds, waiting[each])) / (1 + helpers.count(each)))
        return max(waiting[kind], key=_seconds)


def _kind(scope: str) -> str:
    return next((kind for folder, (kind, _) in _KINDS.items() if scope.startswith(folder)), _REST[0])


def _seconds(scope: str) -> float:
    usual = next((seconds for folder, (_, seconds) in _KINDS.items() if scope.startswith(folder)), _REST[1])
    return _SECONDS.get(scope, usual)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Lanes | None:
    """Take the place of ``--dist loadfile``."""
    return Lanes(config, log) if config.getvalue("dist") == "loadfile" else None

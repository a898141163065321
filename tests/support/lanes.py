"""Which worker of pytest-xdist runs which module: each keeps to one folder of the tests as long as there is something in it.

Modules of one folder want the same servers, which a worker that stays there starts once; and those that wait for processes
run beside those that compute.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class Lanes(LoadFileScheduling):
    """Whole modules to workers, by folder."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._next_for(node), last=False)
        super()._assign_work_unit(node)

    def _next_for(self, node: WorkerController) -> str:
        """Return the first module of the folder that the worker is in, else of the one where the fewest are."""
        firsts: dict[str, str] = {}
        for scope in self.workqueue:
            firsts.setdefault(_folder(scope), scope)
        places = {each: _folder(next(reversed(taken))) for each, taken in self.assigned_work.items() if taken}
        own = places.get(node)
        return firsts[own if own in firsts else min(firsts, key=list(places.values()).count)]


def _folder(scope: str) -> str:
    """Return the folder of ``tests`` that a module is in, which may be some folders further down."""
    return scope.split("/")[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Lanes | None:
    """Take the place of ``--dist loadfile``."""
    return Lanes(config, log) if config.getvalue("dist") == "loadfile" else None

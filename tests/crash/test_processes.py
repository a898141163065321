"""Each other process is killed while rotations stand at their boundaries, then they go on without it, then it is back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.crash.rounds import every_boundary, killed, run_round
from tests.crash.targets import Target
from tests.crash.world import CONTROL, World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]


_MOST = (
    "after:claim", "before:stage", "after:intend", "after:change", "after:probe", "after:declare", "before:promote",
    "running:step:1", "stored:step:1",
)  # fmt: skip
_FEW = ("after:intend", "before:promote", "before:report")


@pytest.mark.parametrize("name", CONTROL)
def test_a_process_is_killed_at_every_boundary(world: World, crash_targets: Sequence[Target], name: str) -> None:
    is_needed = name in {"router", "database"}  # a rotation under way goes on without the others
    quick, slow = (_MOST, _FEW[:2]) if is_needed else (_FEW, _FEW[:1])
    run_round(world, every_boundary(crash_targets, quick=quick, slow=slow), killed(name))

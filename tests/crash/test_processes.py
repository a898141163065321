"""Each other process is killed while rotations stand at their boundaries, then they go on without it, then it is back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.crash.rounds import every_boundary, killed, run_round
from tests.crash.targets import Target
from tests.crash.world import CONTROL, World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", CONTROL)
def test_a_process_is_killed_at_every_boundary(world: World, crash_targets: Sequence[Target], name: str) -> None:
    is_brief = name in {"broker", "control", "beat"}  # a rotation under way does not need them
    run_round(world, every_boundary(crash_targets, is_brief=is_brief), killed(name))

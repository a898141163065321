"""The gateway is killed at every boundary of a rotation."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.crash import judge
from tests.crash.rounds import SOME, every_boundary, killed, run_round
from tests.crash.targets import Target
from tests.crash.world import World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]


def test_the_gateway_is_killed_at_every_boundary(world: World, crash_targets: Sequence[Target]) -> None:
    run_round(world, every_boundary(crash_targets, further=SOME), killed("gateway"))
    judge.check_no_secret(world)

"""Two beats and three instances of a gateway, killed in turn: each due run is made once and done once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.crash import table
from tests.crash.rounds import IS_FULL
from tests.crash.survival import survive
from tests.crash.targets import Postgresql, Target
from tests.crash.world import World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(7200 if IS_FULL else 600)]


def test_each_run_is_made_and_done_once_while_beats_and_gateways_are_killed(
    world: World, crash_targets: Sequence[Target]
) -> None:
    target = next(target for target in crash_targets if isinstance(target, Postgresql))
    accounts, rounds, kill_every = (100, 100, 100) if IS_FULL else (20, 12, 35)
    found = survive(world, target, accounts=accounts, rounds=rounds, kill_every=kill_every)
    print(found.sentence())
    assert len(found.kills) == 5, f"each of them was killed: {found.kills}"
    for name, count in found.kills.items():
        for _ in range(count):
            table.add(f"{name.partition('-')[0]} killed while {found.jobs} jobs run", target.name, "each done once",
                      where=name, attempts=found.most_attempts)  # fmt: skip

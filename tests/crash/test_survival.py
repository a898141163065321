"""Two beats and three instances of a gateway, killed in turn: each due run is made once and done once."""

from __future__ import annotations

import pytest

from tests.crash import table
from tests.crash.rounds import IS_FULL
from tests.crash.survival import survive, survive_alone
from tests.crash.targets import Postgresql

pytestmark = [pytest.mark.crash, pytest.mark.timeout(7200 if IS_FULL else 600)]


def test_each_run_is_made_and_done_once_while_beats_and_gateways_are_killed(
    request: pytest.FixtureRequest,
) -> None:
    if IS_FULL:
        found = survive_alone(accounts=100, rounds=100, kill_every=100)
    else:
        found = survive(request.getfixturevalue("world"), _postgresql(request), accounts=20, rounds=12, kill_every=35)
    print(found.sentence())
    assert len(found.kills) == 5, f"each of them was killed: {found.kills}"
    for name, count in found.kills.items():
        for _ in range(count):
            table.add(f"{name.partition('-')[0]} killed while {found.jobs} jobs run", Postgresql.name, "each done once",
                      where=name, attempts=found.most_attempts)  # fmt: skip


def _postgresql(request: pytest.FixtureRequest) -> Postgresql:
    return next(target for target in request.getfixturevalue("crash_targets") if isinstance(target, Postgresql))

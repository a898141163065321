"""The same faults where the control plane's database is a SQLite file, as on one machine without a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from deploy.lab import PostgresServer
from tests.crash import judge
from tests.crash.conftest import new_world
from tests.crash.disk import fill, free
from tests.crash.rounds import Fault, every_boundary, killed, run_round
from tests.crash.targets import Postgresql, Target
from tests.crash.waiting import eventually
from tests.crash.world import TIMED, World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

_PLACES = ("before:stage", "after:intend", "after:change", "before:promote", "running:step:1", "before:report")


@pytest.fixture(scope="module")
def targets(target_postgres: PostgresServer) -> Iterator[Sequence[Target]]:
    """Records are one system's own, and so are the targets that know them."""
    target = Postgresql(target_postgres)
    yield [target]
    target.close()


@pytest.fixture(scope="module")
def world(targets: Sequence[Target]) -> Iterator[World]:
    """A system on SQLite."""
    yield from new_world(targets, "sqlite")


@pytest.mark.parametrize("name", ["gateway", "router", "control"])
def test_a_process_is_killed_at_every_boundary(world: World, targets: Sequence[Target], name: str) -> None:
    """The router's death is the database's as well: it holds the file, and control and beat hold it beside it."""
    fault = killed(name)
    named = Fault(**{**vars(fault), "name": f"{fault.name}, on SQLite"})
    run_round(world, every_boundary(targets, quick=_PLACES), named)


def test_the_disk_is_full_at_every_boundary(world: World, targets: Sequence[Target]) -> None:
    """Neither router nor control can write the file: every call is put off until there is space."""

    def strike(world: World) -> None:
        for name in TIMED:
            fill(world.process(name))

    def heal(world: World) -> None:
        eventually(
            lambda: world.gateway.has_said("lease_not_renewed"), "the gateway notices that the router cannot write"
        )
        for name in TIMED:
            free(world.process(name))
            if not world.process(name).is_running:
                world.start_one(name)

    fault = Fault(name="disk of the control plane full, on SQLite", strike=strike, heal=heal, loses_calls=True)
    run_round(world, every_boundary(targets, quick=_PLACES), fault)
    judge.check_no_secret(world)

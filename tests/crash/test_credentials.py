"""Other kinds of credential under the same faults: an admin that changes itself, and an SSH key pair."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.crash.kinds import LinuxKeys, OwnAdmin
from tests.crash.rounds import IS_FULL, every_boundary, killed, run_round, whole
from tests.crash.targets import Linux, Target
from tests.crash.world import World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

_PLACES = ("after:stage", "after:intend", "after:change", "after:probe", "before:promote", "after:promote")
_FAULTS = ("gateway", "router", "database") if IS_FULL else ("gateway",)


@pytest.mark.parametrize("name", _FAULTS)
def test_an_admin_that_rotates_itself(world: World, crash_targets: Sequence[Target], name: str) -> None:
    """Whoever loses this one is locked out of the server: it is changed by the value that it replaces."""
    admins = [OwnAdmin(target) for target in whole(crash_targets)]
    run_round(world, every_boundary(admins, quick=_PLACES, slow=_PLACES[1:3]), killed(name))


@pytest.mark.parametrize("name", _FAULTS)
def test_an_ssh_key_pair(world: World, crash_targets: Sequence[Target], name: str) -> None:
    linux = next(target for target in crash_targets if isinstance(target, Linux))
    run_round(world, every_boundary([LinuxKeys(linux)], slow=_PLACES[1:4:2]), killed(name))

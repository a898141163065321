"""The random walk: seconds in ``make test``, minutes or hours by ``make crash SEED= MINUTES=``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

import pytest

from tests.crash import judge, table
from tests.crash.targets import Target
from tests.crash.walk import Walk
from tests.crash.world import World

MINUTES = float(os.environ.get("PAM_CRASH_MINUTES", "0"))
_SECONDS = MINUTES * 60 or 45.0

pytestmark = [pytest.mark.crash, pytest.mark.timeout(int(_SECONDS) + 600)]


def test_a_random_walk(world: World, crash_targets: Sequence[Target]) -> None:
    seed = int(os.environ.get("PAM_CRASH_SEED") or secrets.randbelow(1_000_000))
    print(f"random walk with SEED={seed}")
    walk = Walk(world, crash_targets, seed)
    failed = []
    try:
        walk.run(_SECONDS)
        judge.check_no_secret(world)
    except BaseException as error:
        error.add_note(f"repeat with: make crash SEED={seed} (step {walk.steps + 1})")
        failed.append(type(error).__name__)
        raise
    finally:
        print(
            f"SEED={seed}: {walk.steps} steps, faults injected: {walk.faults}, rotations: {walk.rotations}. "
            + table.counted(failed)
        )

"""The random walk: some rounds in ``make test``, minutes or hours by ``make crash SEED= MINUTES=``."""

from __future__ import annotations

import itertools
import os
import secrets
import time
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.crash import judge, table
from tests.crash.targets import Target
from tests.crash.walk import Course, Fell, TimeIsUp, Walk
from tests.crash.world import World

MINUTES = float(os.environ.get("PAM_CRASH_MINUTES", "0"))
_SECONDS = MINUTES * 60 or 20.0

pytestmark = [pytest.mark.crash, pytest.mark.timeout(int(_SECONDS) + 600)]


_CALM = settings(
    max_examples=4, stateful_step_count=16, phases=(Phase.generate,), database=None, deadline=None, print_blob=False,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
"""Few examples of one seed: of more, Hypothesis would make the first ones small."""


def _run(course: Course, first: int, seconds: float) -> None:
    """Walk for so long, and to the end of the round under way."""

    class Here(Walk):
        pass

    Here.course = course
    course.until = time.monotonic() + seconds
    for number in itertools.count():
        try:
            run_state_machine_as_test(seed(first * 1_000_000 + number)(Here), settings=_CALM)
        except TimeIsUp:
            return
        except Fell as fell:
            fell.reason.add_note("the steps: " + "; ".join(course.story))
            raise fell.reason from None


def test_a_random_walk(world: World, crash_targets: Sequence[Target]) -> None:
    number = int(os.environ.get("PAM_CRASH_SEED") or secrets.randbelow(1_000_000))
    print(f"random walk with SEED={number}")
    course = Course(world=world, targets=crash_targets)
    failed = []
    try:
        _run(course, number, _SECONDS)
        judge.check_no_secret(world)
    except BaseException as error:
        error.add_note(f"repeat with: make crash SEED={number} (round {course.rounds + 1})")
        failed.append(type(error).__name__)
        raise
    finally:
        print(
            f"SEED={number}: {course.rounds} rounds, faults injected: {course.faults}, rotations: {course.rotations}. "
            + table.counted(failed)
        )

"""The engine: one fault at many boundaries at once.

A round gives each case an account of its own. All jobs run until each stands at its case's boundary; then the fault
strikes once, the judge looks while it lasts, it is healed, and every job is followed to its end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.crash import judge, table
from tests.crash.targets import Target
from tests.crash.world import PROCESSES, Account, World, eventually

CHANGE: Final = (
    "after:claim", "before:stage", "after:stage", "before:change", "before:intend", "after:intend", "after:change",
    "before:probe", "after:probe", "before:declare", "after:declare", "before:promote", "after:promote",
)  # fmt: skip
AFTER: Final = ("before:step:1", "running:step:1", "after:step:1", "stored:step:1", "before:report", "after:report")
BOUNDARIES: Final = (*CHANGE, *AFTER)
_SOME: Final = ("after:stage", "after:intend", "after:change", "before:promote", "running:step:1")
_FEW: Final = ("after:claim", "after:intend", "after:change", "before:promote", "before:report")
IS_FULL: Final = bool(os.environ.get("PAM_CRASH_FULL"))
_CUT_SCRIPT: Final = ("running:step:1", "after:step:1")  # killed there, nobody can say whether the script is done
MOST_ATTEMPTS: Final = 4


@dataclass(kw_only=True, eq=False)
class Case:
    """One account, stopped at one boundary."""

    target: Target
    boundary: str
    account: Account = field(init=False)
    job_uid: str = field(init=False)
    runs: int = field(init=False)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens while the jobs stand at their boundaries."""

    name: str
    strike: Callable[[World], None]
    heal: Callable[[World], None]
    cuts_gateway: bool = False  # its threads are gone, so nobody is released
    hides_ledger: bool = False


def killed(name: str) -> Fault:
    """Return the fault that SIGKILLs a process and starts it again afterwards."""
    assert name in PROCESSES
    return Fault(
        name=f"{name} killed",
        strike=lambda world: world.kill(name),
        heal=lambda world: world.start_one(name),
        cuts_gateway=name == "gateway",
        hides_ledger=name == "database",
    )


def every_boundary(targets: Sequence[Target], *, is_brief: bool = False) -> list[Case]:
    """Return a case for each boundary of each target.

    Args:
        targets: to rotate on.
        is_brief: a few boundaries of each are enough in ``make test``. There a target that is slow to log in to has
            few in any case; ``make crash`` has all of everything.
    """
    cases = []
    for target in targets:
        few = _FEW if is_brief else _SOME if target.is_slow else BOUNDARIES
        cases += [Case(target=target, boundary=boundary) for boundary in (BOUNDARIES if IS_FULL else few)]
    return cases


def run_round(world: World, cases: Sequence[Case], fault: Fault, seconds: float = 90) -> None:
    """Let the fault strike once while each case stands at its boundary, and judge."""
    began = time.monotonic()
    submit(world, cases)
    await_boundaries(world, cases)
    accounts = [case.account for case in cases]
    if fault.hides_ledger:
        judge.check_nothing_lost(world, accounts)
    fault.strike(world)
    try:
        if not fault.hides_ledger:
            judge.check_nothing_lost(world, accounts)
        if not fault.cuts_gateway:
            world.orders.release()
    finally:
        fault.heal(world)
    if fault.hides_ledger or IS_FULL:
        judge.check_nothing_lost(world, accounts)
    _judge_ends(world, cases, fault, seconds)
    table.note_seconds(time.monotonic() - began)
    world.give_back(accounts)


def submit(world: World, cases: Sequence[Case], resource_of: Callable[[Case], str] | None = None) -> None:
    """Give each case an account and a job that will stop at its boundary.

    Args:
        world: the system.
        cases: all of the round.
        resource_of: gives the record by which the target is reached, where it is not the usual one.
    """
    for target in {case.target for case in cases}:
        mine = [case for case in cases if case.target is target]
        for case, account in zip(mine, world.accounts(target, len(mine)), strict=True):
            case.account = account
            case.runs = account.runs()
            if resource_of is not None:
                world.site.rotate_by(account.uid, resource_of(case))
            world.orders.stop_at(account.uid, case.boundary)
    for case in cases:
        case.job_uid = world.submit(case.account)


def await_boundaries(world: World, cases: Sequence[Case]) -> None:
    """Wait until each job stands at its boundary; one that never comes there is a test that tests nothing."""
    wanted = {case.account.uid for case in cases}

    def what() -> str:
        late = [case for case in cases if case.account.uid not in world.orders.reached()]
        states = judge.jobs(world, [case.job_uid for case in late])
        told = [(case.target.name, case.boundary, states[case.job_uid]) for case in late]
        return f"{len(late)} jobs reach their boundary: {told[:4]}\n{world.gateway.tail()}"

    eventually(lambda: wanted <= world.orders.reached(), what)


def _judge_ends(world: World, cases: Sequence[Case], fault: Fault, seconds: float) -> None:
    ends = judge.ended(world, [case.job_uid for case in cases], seconds)
    judge.check_current(world, [case.account for case in cases])
    for case in cases:
        end = ends[case.job_uid]
        runs = judge.check_runs(case.account, case.runs, f"{case.target.name}, {fault.name} at {case.boundary}")
        what = f"{case.target.name}, {fault.name} at {case.boundary}: {end}, script ran {runs} times"
        # With the gateway alive the lease may end meanwhile, and a start whose answer never came counts as begun.
        cut_places = _CUT_SCRIPT if fault.cuts_gateway else (*_CUT_SCRIPT, "before:step:1")
        may_cut = case.boundary in cut_places and (fault.cuts_gateway or end.attempts > 1)
        if may_cut and end.cause == "scripts_unknown":
            assert end.state == "failed", what
            outcome = "rotated, script reported as unknown"
        else:
            assert end.state == "succeeded", what
            assert runs == 1, what
            outcome = "rotated"
        assert end.attempts <= MOST_ATTEMPTS, what
        table.add(fault.name, case.target.name, outcome, where=case.boundary, attempts=end.attempts)
    judge.check_story(world, [case.account for case in cases])

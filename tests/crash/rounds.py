"""The engine: one fault at many boundaries at once.

A round gives each case an account of its own. All jobs run until each stands at its case's boundary; then the fault
strikes once, the judge looks while it lasts, it is healed, and every job is followed to its end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tests.crash import judge, table
from tests.crash.targets import Target
from tests.crash.waiting import eventually
from tests.crash.world import CONCURRENCY, PROCESSES, Account, World

CHANGE: Final = (
    "after:claim", "before:stage", "after:stage", "before:change", "before:intend", "after:intend", "after:change",
    "before:probe", "after:probe", "before:declare", "after:declare", "before:promote", "after:promote",
)  # fmt: skip
AFTER: Final = ("before:step:1", "running:step:1", "after:step:1", "stored:step:1", "before:report", "after:report")
BOUNDARIES: Final = (*CHANGE, *AFTER)
SOME: Final = ("after:intend", "after:change", "before:promote", "running:step:1")
IS_FULL: Final = bool(os.environ.get("PAM_CRASH_FULL"))
_CUT_SCRIPT: Final = ("running:step:1", "after:step:1")  # killed there, nobody can say whether the script is done
_STORED: Final = ("stored:step:1", "before:report", "after:report")  # the script's end is durable
MOST_ATTEMPTS: Final = 6
ROTATED, CUT_OFF = "rotated", "rotated, script reported as unknown"


Some = TypeVar("Some")  # kind of case


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
    loses_calls: bool = False  # jobs go on from their boundary, and any later call to the router may be lost
    ends_leases: bool = False  # whoever stands at a boundary is overtaken, and goes no further
    hides_ledger: bool = False

    def may_cut_script(self, boundary: str) -> bool:
        """Say whether it can fall between a script's start and the durable report of its end."""
        if (self.cuts_gateway or self.ends_leases) and boundary in _CUT_SCRIPT:
            return True
        return self.loses_calls and boundary not in _STORED


def killed(name: str) -> Fault:
    """Return the fault that SIGKILLs a process and starts it again afterwards."""
    assert name in PROCESSES
    return Fault(
        name=f"{name} killed",
        strike=lambda world: world.kill(name),
        heal=lambda world: world.start_one(name),
        cuts_gateway=name == "gateway",
        loses_calls=name in {"router", "database"},
        hides_ledger=name == "database",
    )


def every_boundary(
    targets: Sequence[Target],
    *,
    quick: Sequence[str] = BOUNDARIES,
    slow: Sequence[str] = SOME,
    further: Sequence[str] = (),
) -> list[Case]:
    """Return a case for each boundary of each target; ``make crash`` has all of everything.

    Args:
        targets: to rotate on.
        quick: the boundaries that ``make test`` tries on a target that is quick to log in to.
        slow: the same for one that is not.
        further: the same for one that only a handful of short rounds is on.
    """

    def places(target: Target) -> Sequence[str]:
        if IS_FULL:
            return BOUNDARIES
        return further if target.is_further else slow if target.is_slow else quick

    return [Case(target=target, boundary=boundary) for target in targets for boundary in places(target)]


def whole(targets: Sequence[Target]) -> Sequence[Target]:
    """Return the targets of this run's usual rounds: all of them by ``make crash``, else without the further ones."""
    return [target for target in targets if IS_FULL or not target.is_further]


def batches(cases: Sequence[Some], most: int = CONCURRENCY) -> Iterator[Sequence[Some]]:
    """Return so many at a time, by default as many as a gateway has threads for."""
    for start in range(0, len(cases), most):
        yield cases[start : start + most]


def run_round(world: World, cases: Sequence[Case], fault: Fault) -> None:
    """Let the fault strike once while each case stands at its boundary, and judge."""
    for some in batches(cases):
        _run_batch(world, some, fault)


def _run_batch(world: World, cases: Sequence[Case], fault: Fault) -> None:
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
    _judge_ends(world, cases, fault)
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


def _judge_ends(world: World, cases: Sequence[Case], fault: Fault) -> None:
    ends = judge.ended(world, [case.job_uid for case in cases])
    judge.check_current(world, [case.account for case in cases])
    for case in cases:
        end = ends[case.job_uid]
        runs = judge.check_runs(case.account, case.runs, f"{case.target.name}, {fault.name} at {case.boundary}")
        what = f"{case.target.name}, {fault.name} at {case.boundary}: {end}, script ran {runs} times"
        # Where the processes' clocks jump one after the other, an attempt that came between is overtaken as well, anywhere.
        is_hit_twice = fault.ends_leases and end.attempts > 2
        may_cut_script = is_hit_twice or fault.may_cut_script(case.boundary)
        outcome = outcome_of(end, runs, what, may_cut_script=may_cut_script)
        assert end.attempts <= MOST_ATTEMPTS, what
        table.add(fault.name, case.target.name, outcome, where=case.boundary, attempts=end.attempts)
    judge.check_story(world, [case.account for case in cases])


def outcome_of(end: judge.JobRow, runs: int, what: str, *, may_cut_script: bool) -> str:
    """Return what came of a rotation, which is told as it was.

    Args:
        end: how the job ended.
        runs: how often its script ran, at most once.
        what: names the case in a failure.
        may_cut_script: the fault can fall between the script's start and the durable report of its end; then nobody
            can say whether the script is done, and "unknown" is the true answer whether it ran or not.
    """
    if may_cut_script and (end.state, end.cause) == ("failed", "scripts_unknown"):
        return CUT_OFF
    assert (end.state, end.cause) == ("succeeded", None), what
    if runs != 1:
        raise judge.ScriptNotRun(f"{what}: said to have succeeded")
    return ROTATED

"""The line breaks: between gateway and target at the change and at the login, between gateway and router at each call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from connectors.faults import Action, FaultProxy, When
from connectors.faults import Fault as LineFault
from tests.crash import judge, table
from tests.crash.rounds import IS_FULL, MOST_ATTEMPTS, Case, Fault, await_boundaries, batches, run_round, submit, whole
from tests.crash.targets import Target
from tests.crash.waiting import eventually
from tests.crash.world import World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

_JOB_SECONDS = 20 if IS_FULL else 10  # how long a target that hangs is waited for, from the claim on
_MOST_LINES = 24  # at once: what is not broken has to end in that time
_PLACES = {"after:intend": "change", "before:probe": "login"}
_LINES = [
    (action, when)
    for when in (When.REQUEST_SENT, When.ANSWER_RECEIVED)
    for action in Action
    if not (action is Action.DROP_BEFORE and when is When.ANSWER_RECEIVED)
]
_QUICK_LINES = [
    ("after:intend", Action.CUT, When.REQUEST_SENT),
    ("after:intend", Action.DROP_BEFORE, When.REQUEST_SENT),
    ("after:intend", Action.DELAY, When.REQUEST_SENT),
    ("after:intend", Action.HANG, When.ANSWER_RECEIVED),
    ("after:intend", Action.HALF_CLOSE, When.ANSWER_RECEIVED),
    ("after:intend", Action.RESET, When.ANSWER_RECEIVED),
    ("before:probe", Action.CUT, When.ANSWER_RECEIVED),
    ("before:probe", Action.HANG, When.REQUEST_SENT),
]
_FEW_LINES = [_QUICK_LINES[0], _QUICK_LINES[3]]


@dataclass(kw_only=True, eq=False)
class LineCase(Case):
    """A case with a line of its own."""

    action: Action
    when: When
    proxy: FaultProxy


def _line_cases(target: Target) -> list[LineCase]:
    wanted = [(place, action, when) for place in _PLACES for action, when in _LINES]
    if not IS_FULL:
        wanted = _FEW_LINES if target.is_slow or target.is_further else _QUICK_LINES
    return [
        LineCase(target=target, boundary=place, action=action, when=when, proxy=proxy)
        for (place, action, when), proxy in zip(wanted, target.proxies[1:], strict=False)
    ]


def test_the_line_to_the_target_breaks(world: World, crash_targets: Sequence[Target]) -> None:
    cases = [case for target in crash_targets for case in _line_cases(target)]
    with world.short_jobs(_JOB_SECONDS):
        for some in batches(cases, _MOST_LINES):
            _break_lines(world, some)


def _break_lines(world: World, cases: Sequence[LineCase]) -> None:
    submit(world, cases, lambda case: case.target.resource_at(world.site, case.proxy))  # type: ignore[attr-defined]
    await_boundaries(world, cases)
    struck = [case.proxy.struck for case in cases]
    for case in cases:
        case.proxy.arm(LineFault(action=case.action, when=case.when, seconds=1.0))
    world.orders.release()
    ends = judge.ended(world, [case.job_uid for case in cases])
    accounts = [case.account for case in cases]
    for case, before in zip(cases, struck, strict=True):
        assert case.proxy.struck > before, f"{case.target.name}: nothing passed the broken line after {case.boundary}"
        case.proxy.mend()  # else the target keeps its end, and with it the lock on the account, which is given back
        end, runs = ends[case.job_uid], case.account.runs() - case.runs
        what = f"{case.target.name}: {case.action} {case.when} {case.boundary}"
        assert (end.state, runs) == ("succeeded", 1), f"{what}: {end} {world.site.opened(end.uid)}"
        assert end.attempts <= MOST_ATTEMPTS, end
        fault = f"line to target: {case.action} when {case.when}".replace("_", " ")
        table.add(fault, case.target.name, "rotated", where=_PLACES[case.boundary], attempts=end.attempts)
        world.site.rotate_by(case.account.uid, case.target.resource)
    judge.check_current(world, accounts)
    judge.check_story(world, accounts)
    world.give_back(accounts)


_CALLS = (
    "after:claim", "before:stage", "before:intend", "before:declare", "before:promote", "before:step:1",
    "after:step:1", "before:report",
)  # fmt: skip
_ROUTER_LINES = [
    (action, when) for action, when in _LINES if IS_FULL or (action, when) in {
        (Action.CUT, When.REQUEST_SENT), (Action.DROP_BEFORE, When.REQUEST_SENT), (Action.RESET, When.ANSWER_RECEIVED),
        (Action.DELAY, When.REQUEST_SENT),
    }
]  # fmt: skip


@pytest.mark.parametrize(("action", "when"), _ROUTER_LINES)
def test_the_line_to_the_router_breaks_at_every_call(
    world: World, crash_targets: Sequence[Target], action: Action, when: When
) -> None:
    """Every call of every job is broken until each had to connect anew; then the line is whole again."""
    targets = [target for target in whole(crash_targets) if IS_FULL or not target.is_slow]
    cases = [Case(target=target, boundary=call) for target in targets for call in _CALLS]
    proxy = world.router_proxy
    broken = 0

    def arm(_world: World) -> None:
        nonlocal broken
        broken = proxy.connections
        always = None if action is not Action.DELAY else len(cases)
        proxy.arm(LineFault(action=action, when=when, seconds=1.0, times=always))

    def mend(_world: World) -> None:
        try:
            if action is not Action.DELAY:
                wanted = broken + len(cases)
                eventually(lambda: proxy.connections >= wanted, "every call meets the broken line")
        finally:
            proxy.disarm()

    name = f"line to router: {action} when {when}".replace("_", " ")
    run_round(world, cases, Fault(name=name, strike=arm, heal=mend, loses_calls=True))


@pytest.mark.parametrize("action", [Action.CUT, Action.HANG])
def test_the_line_to_the_router_breaks_while_jobs_are_claimed(
    world: World, crash_targets: Sequence[Target], action: Action
) -> None:
    """Where the router has given a lease and nobody heard it, the job is taken up again when that lease ended."""
    accounts = world.accounts(crash_targets[0], 5)
    runs = [account.runs() for account in accounts]
    broken = world.router_proxy.connections
    wanted = broken + len(accounts) + 1  # new ones, each of them broken in turn
    world.router_proxy.arm(LineFault(action=action, when=When.ANSWER_RECEIVED, times=None))
    try:
        jobs = [world.submit(account) for account in accounts]
        eventually(lambda: world.router_proxy.connections >= wanted, "claims meet the broken line")
        judge.check_nothing_lost(world, accounts)
    finally:
        world.router_proxy.disarm()
    ends = judge.ended(world, jobs)
    judge.check_current(world, accounts)
    assert [account.runs() for account in accounts] == [count + 1 for count in runs]
    for end in ends.values():
        assert end.state == "succeeded", end
        fault = f"line to router: {action} while claiming"
        table.add(fault, crash_targets[0].name, "rotated", attempts=end.attempts)
    judge.check_story(world, accounts)
    world.give_back(accounts)


def test_a_sick_target_says_so_and_delays_nobody_else(world: World, crash_targets: Sequence[Target]) -> None:
    """A rotation on demand never vanishes: it ends with its cause, or it waits and tells for what."""
    target = next(target for target in crash_targets if not target.is_slow)
    proxy = target.proxies[-1]
    sick, well = world.accounts(target, 6), world.accounts(target, 2)
    resource = target.resource_at(world.site, proxy)
    for account in sick:
        world.site.rotate_by(account.uid, resource)
    proxy.arm(LineFault(action=Action.RESET, when=When.CONNECTED, times=None))
    try:
        first = judge.ended(world, [world.submit(account) for account in sick[:3]])
        later = [world.submit(account) for account in sick[3:]]
        others = judge.ended(world, [world.submit(account) for account in well])
        assert {end.state for end in others.values()} == {"succeeded"}, "a healthy target waits for a sick one"
        assert {(end.state, end.cause) for end in first.values()} == {("failed", "unreachable")}, first

        def is_told(uid: str) -> bool:
            row = judge.jobs(world, [uid])[uid]
            if row.state in judge.FINAL:
                return (row.state, row.cause) in {("failed", "breaker_open"), ("failed", "unreachable")}
            return bool(world.vault.jobs.explain(uid)["reasons"])

        eventually(lambda: all(is_told(uid) for uid in later), lambda: f"each job tells: {judge.jobs(world, later)}")
        assert "breaker_open" in {str(row.cause) for row in judge.jobs(world, later).values()}, (
            "nobody rests the target"
        )
    finally:
        proxy.disarm()
    for account in sick:
        world.site.rotate_by(account.uid, target.resource)
    again = judge.ended(world, [world.submit(account) for account in sick])
    assert {end.state for end in again.values()} == {"succeeded"}, again
    judge.check_current(world, [*sick, *well])
    judge.check_story(world, [*sick, *well])
    for _ in sick:
        table.add("target does not answer", target.name, "told, nothing changed; then rotated", where="target")
    world.give_back([*sick, *well])

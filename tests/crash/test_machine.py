"""What the machine does to the processes: the disk is full, the clock is moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.crash import judge, table
from tests.crash.disk import fill, free, is_alive
from tests.crash.rounds import IS_FULL, Case, Fault, await_boundaries, batches, every_boundary, run_round, submit
from tests.crash.targets import Target
from tests.crash.waiting import eventually
from tests.crash.world import LEASE_SECONDS, TIMED, World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

_PLACES = ("after:claim", "after:intend", "after:change", "before:promote", "running:step:1", "before:report")
_HOURS = 3 * 3600.0


def _cases(targets: Sequence[Target]) -> list[Case]:
    return every_boundary(targets, quick=_PLACES, slow=_PLACES[1:2])


def test_the_disk_of_the_database_is_full_at_every_boundary(world: World, crash_targets: Sequence[Target]) -> None:
    """PostgreSQL cannot write its log and gives up, as it does; with space it starts again, and nothing is lost."""

    def strike(world: World) -> None:
        fill(world.store.process)

    def heal(world: World) -> None:
        eventually(lambda: not is_alive(world.store.process), "the database stops for want of space")
        free(world.store.process)
        world.store.start()

    fault = Fault(name="disk of the database full", strike=strike, heal=heal, loses_calls=True, hides_ledger=True)
    run_round(world, _cases(crash_targets), fault)


def test_the_disk_of_the_gateway_is_full_at_every_boundary(world: World, crash_targets: Sequence[Target]) -> None:
    """It can write no log and no script; what it knows is at the router, so it or the next attempt goes on."""
    for cases in batches(_cases(crash_targets)):
        _fill_the_gateways_disk(world, cases)


def _fill_the_gateways_disk(world: World, cases: Sequence[Case]) -> None:
    submit(world, cases)
    await_boundaries(world, cases)
    process = world.gateway.process
    assert process is not None
    fill(process)
    try:
        accounts = [case.account for case in cases]
        judge.check_nothing_lost(world, accounts)
        world.orders.release()
        left = eventually(
            lambda: {
                uid: row for uid, row in judge.jobs(world, [case.job_uid for case in cases]).items() if _is_told(row)
            },
            "some job tells how it goes without a disk",
        )
    finally:
        free(process)
    ends = judge.ended(world, [case.job_uid for case in cases])
    judge.check_current(world, accounts)
    judge.check_story(world, accounts)
    assert left
    for case in cases:
        end = ends[case.job_uid]
        what = f"{case.target.name}, disk of the gateway full at {case.boundary}: {end}"
        runs = judge.check_runs(case.account, case.runs, what)
        told = {("succeeded", None): "rotated", ("failed", "scripts_unknown"): "rotated, script reported as unknown"}
        told[("failed", "scripts_failed")] = "rotated, script reported as failed"
        assert (end.state, end.cause) in told, what
        assert end.state != "succeeded" or runs == 1, what
        outcome = told[(end.state, end.cause)]
        table.add("disk of the gateway full", case.target.name, outcome, where=case.boundary, attempts=end.attempts)
    world.give_back(accounts)


def _is_told(row: judge.JobRow) -> bool:
    return row.state in {*judge.FINAL, "unknown"}


def _moved(seconds: float) -> Callable[[World], None]:
    def move(world: World) -> None:
        for name in TIMED:
            world.orders.move_clock(name, seconds)

    return move


def test_the_clock_of_the_control_plane_jumps_past_every_lease(world: World, crash_targets: Sequence[Target]) -> None:
    """All leases end at once while their holders work: the successors go on, the overtaken ones write nothing."""
    for cases in batches(_cases(crash_targets)):

        def strike(world: World, cases: Sequence[Case] = cases) -> None:
            before = {row.uid: row.epoch for row in judge.jobs(world, [case.job_uid for case in cases]).values()}
            _moved(1.25 * LEASE_SECONDS)(world)

            def is_lost(row: judge.JobRow) -> bool:
                return row.state in {"queued", *judge.FINAL} or row.epoch > before[row.uid]

            eventually(lambda: all(map(is_lost, judge.jobs(world, list(before)).values())), "every lease ends")

        fault = Fault(name="clock moved forward past the leases", strike=strike, heal=_moved(0), ends_leases=True)
        run_round(world, cases, fault)


def test_the_clock_of_the_control_plane_goes_back(world: World, crash_targets: Sequence[Target]) -> None:
    """Nobody is overtaken, and nothing waits for the time that comes a second time."""
    for cases in batches(_cases(crash_targets)):

        def heal(world: World, cases: Sequence[Case] = cases) -> None:
            judge.ended(world, [case.job_uid for case in cases])
            _moved(0)(world)

        run_round(world, cases, Fault(name="clock moved back", strike=_moved(-1.25 * LEASE_SECONDS), heal=heal))


@pytest.mark.parametrize("seconds", [_HOURS, -_HOURS] if IS_FULL else [_HOURS])
def test_the_clock_of_the_gateway_is_hours_off(world: World, crash_targets: Sequence[Target], seconds: float) -> None:
    """The router believes none of its calls until the clock is right; then the same gateway goes on."""
    process = world.gateway.process
    before = world.gateway.count("clock_differs")

    def strike(world: World) -> None:
        world.orders.move_clock("gateway", seconds)

    def heal(world: World) -> None:
        eventually(lambda: world.gateway.count("clock_differs") > before, "the gateway tells that its clock is wrong")
        world.orders.move_clock("gateway", 0)
        assert process is not None
        assert process.is_running, "a wrong clock ended the gateway"

    name = f"clock of the gateway {'ahead' if seconds > 0 else 'behind'}"
    run_round(world, _cases(crash_targets), Fault(name=name, strike=strike, heal=heal, loses_calls=True))


def test_a_gateway_that_starts_with_a_wrong_clock_waits(world: World, crash_targets: Sequence[Target]) -> None:
    """It is not told that it was removed, and serves as soon as its clock is right."""
    account = world.accounts(next(target for target in crash_targets if not target.is_slow), 1)[0]
    world.kill("gateway")
    world.orders.move_clock("gateway", -_HOURS)
    world.gateway.begin()
    job_uid = world.submit(account)
    eventually(lambda: world.gateway.has_said("router_awaited"), lambda: f"it waits: {world.gateway.tail()}")
    world.orders.move_clock("gateway", 0)
    assert judge.ended(world, [job_uid])[job_uid].state == "succeeded"
    judge.check_current(world, [account])
    table.add("clock of a starting gateway wrong", account.target.name, "rotated", where="start")
    world.give_back([account])

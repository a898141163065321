"""A gateway that stands still until its leases end, and goes on when its successor has long done the work."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.crash import judge, table
from tests.crash.rounds import IS_FULL, MOST_ATTEMPTS, Case, await_boundaries, batches, submit
from tests.crash.targets import Target
from tests.crash.waiting import eventually
from tests.crash.world import Gateway, World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

FREE = (
    "after:claim", "before:stage", "after:stage", "before:change", "after:change", "before:probe", "after:probe",
    "before:declare", "after:declare", "before:promote", "after:promote", "running:step:1", "before:report",
)  # fmt: skip
LOCKING = ("before:intend", "after:intend")  # the change is open on the target, which may hold an account for it
_ENDS = {"overtaken", "attempt_ended", "job_left", "job_failed"}
_CUT = ("running:step:1",)


def _cases(targets: Sequence[Target]) -> list[Case]:
    cases = []
    for target in targets:
        some = None
        if target.is_slow or target.is_further:
            some = ("before:stage", "before:change", "after:intend", "before:promote")[2 * target.is_further :]
        cases += [Case(target=target, boundary=name) for name in (not IS_FULL and some) or (*FREE, *LOCKING)]
    return cases


def test_a_zombie_changes_no_target_and_writes_nothing(world: World, crash_targets: Sequence[Target]) -> None:
    for cases in batches(_cases(crash_targets)):  # each case has a thread of the gateway that stands
        _overtake(world, cases)


def _overtake(world: World, cases: Sequence[Case]) -> None:
    locked = [case for case in cases if case.target.locks_accounts and case.boundary in LOCKING]
    free = [case for case in cases if case not in locked]
    first = world.gateway
    submit(world, cases)
    await_boundaries(world, cases)
    before = {case.account.uid: case.target.fingerprint(case.account.login) for case in locked}
    first.pause()
    judge.check_nothing_lost(world, [case.account for case in cases])
    with world.second_gateway():
        ends = judge.ended(world, [case.job_uid for case in free])
        judge.check_current(world, [case.account for case in free])
        # What waits for the zombie's hold on the account is held up by the target, and has changed nothing.
        assert before == {case.account.uid: case.target.fingerprint(case.account.login) for case in locked}
        ledger = judge.snapshot(world, [case.account for case in free])
        stored = {case.account.uid: case.target.fingerprint(case.account.login) for case in free}
        world.orders.release()
        first.resume()
        _await_ends(first, cases)
        ends |= judge.ended(world, [case.job_uid for case in locked])
        judge.check_current(world, [case.account for case in cases])
    assert ledger == judge.snapshot(world, [case.account for case in free]), "a zombie wrote to the ledger"
    assert stored == {case.account.uid: case.target.fingerprint(case.account.login) for case in free}, (
        "a zombie changed the target"
    )
    for case in cases:
        end = ends[case.job_uid]
        judge.check_runs(case.account, case.runs, case.boundary)
        assert 2 <= end.attempts <= MOST_ATTEMPTS, f"{case.boundary}: {end}"
        is_cut = case.boundary in _CUT
        assert (end.state, end.cause) == (("failed", "scripts_unknown") if is_cut else ("succeeded", None)), end
        what = "successor's work stands" + (", script reported as unknown" if is_cut else "")
        table.add(
            "gateway stopped, overtaken, resumed", case.target.name, what, where=case.boundary, attempts=end.attempts
        )
    judge.check_story(world, [case.account for case in cases])
    world.give_back([case.account for case in cases])


def _await_ends(gateway: Gateway, cases: Sequence[Case]) -> None:
    wanted = {case.job_uid for case in cases}

    def all_ended() -> bool:
        return wanted <= {line.get("job") for line in gateway.lines() if line.get("event") in _ENDS}

    def what() -> str:
        said = [(line.get("job"), line.get("event")) for line in gateway.lines() if line.get("event") in _ENDS]
        late = [(case.target.name, case.boundary) for case in cases if case.job_uid not in {job for job, _ in said}]
        return f"the zombie's attempts end: {late}\n{gateway.tail()}"

    eventually(all_ended, what)

"""The gateway is killed at the boundaries of a roll-back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.crash import judge, table
from tests.crash.kinds import LinuxHalf
from tests.crash.rounds import IS_FULL, Case, await_boundaries, batches, submit, whole
from tests.crash.targets import Linux, Target
from tests.crash.world import World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]
_SOME = ("rollback:after:stage", "rollback:after:intend", "rollback:after:change", "rollback:after:promote")
_ALL = (
    "stored:step:2", "rollback:begun", *_SOME, "rollback:before:stage", "rollback:before:intend", "rollback:after:probe",
    "rollback:before:promote", "before:declare", "rollback:before:finish", "rollback:after:finish", "stored:step:4",
)  # fmt: skip

_SET_BACK = ("before:undo", "after:undo")
_KEPT = ("before:promote",)
_MORE_SET_BACK = ("after:intend", "before:probe", "after:probe")


def test_a_roll_back_cut_off_by_a_kill_is_finished_by_the_next_gateway(
    world: World, crash_targets: Sequence[Target]
) -> None:
    places = _ALL if IS_FULL else _SOME
    targets = [target for target in whole(crash_targets) if IS_FULL or not target.is_slow]
    for cases in batches([Case(target=target, boundary=place) for target in targets for place in places]):
        _cut_off(world, cases)
    judge.check_no_secret(world)


def _cut_off(world: World, cases: Sequence[Case]) -> None:
    before: dict[str, str] = {}

    def prepared(case: Case) -> str:
        """Make the account's second script fail, and order the roll-back with the scripts run again."""
        uid = case.account.uid
        world.site.attach(uid, "fails.sh", b"#!/bin/sh\nexit 3\n")
        for label in ("Rollback On Post Rotation Fail", "Re-run On Post Rotation Fail"):
            world.vault.records.update(
                uid, lambda record, label=label: record.set_field("text", "TRUE", label, custom=True)
            )
        secret = world.vault.records.get(uid).record.password
        assert secret is not None
        before[uid] = secret.reveal()
        return case.target.resource

    submit(world, cases, prepared)
    await_boundaries(world, cases)
    accounts = [case.account for case in cases]
    world.kill("gateway")
    judge.check_nothing_lost(world, accounts)
    world.start_one("gateway")
    judge.check_nothing_lost(world, accounts)
    ends = judge.ended(world, [case.job_uid for case in cases])
    judge.check_current(world, accounts)
    for case in cases:
        end, what = ends[case.job_uid], f"{case.target.name} at {case.boundary}: {ends[case.job_uid]}"
        assert (end.state, end.status) == ("failed", "rolled_back"), what
        assert case.target.logs_in(case.account.login, before[case.account.uid]), what
        assert case.account.runs() - case.runs == 2, f"{what}: once for the rotation, once for the roll-back"
        table.add(
            "gateway killed in a roll-back", case.target.name, "rolled back", where=case.boundary, attempts=end.attempts
        )
    judge.check_story(world, accounts)


def test_a_change_in_part_cut_off_by_a_kill_is_set_back_or_kept_as_the_record_says(
    world: World, crash_targets: Sequence[Target]
) -> None:
    """Of password and key the machine takes the one and refuses the other."""
    half = LinuxHalf(next(target for target in crash_targets if isinstance(target, Linux)))
    places = (*_SET_BACK, *_KEPT, *(_MORE_SET_BACK if IS_FULL else ()))
    cases = [Case(target=half, boundary=place) for place in places]
    before: dict[str, str] = {}

    def prepared(case: Case) -> str:
        uid = case.account.uid
        secret = world.vault.records.get(uid).record.password
        assert secret is not None
        before[uid] = secret.reveal()
        if case.boundary in _KEPT:
            label = "Rollback On Private Key Fail"
            world.vault.records.update(uid, lambda record: record.set_field("text", "FALSE", label, custom=True))
        return half.resource

    submit(world, cases, prepared)
    await_boundaries(world, cases)
    accounts = [case.account for case in cases]
    world.kill("gateway")
    judge.check_nothing_lost(world, accounts)
    world.start_one("gateway")
    ends = judge.ended(world, [case.job_uid for case in cases])
    judge.check_current(world, accounts)
    for case in cases:
        end, what, is_kept = ends[case.job_uid], f"{case.boundary}: {ends[case.job_uid]}", case.boundary in _KEPT
        assert (end.state, end.status) == ("failed", "partial" if is_kept else "rolled_back"), what
        login = case.account.login
        assert half.logs_in(login, before[case.account.uid]) != is_kept, what
        assert half.takes_key(login), what
        told = "told, the new password kept" if is_kept else "told, set back"
        if not is_kept:  # what is kept is put together of two values, and staged as neither
            judge.check_story(world, [case.account])
        table.add("gateway killed in a change made in part", "linux", told, where=case.boundary, attempts=end.attempts)

"""What other people do to the target: refused passwords, changes from outside, locks, lost rights, an old backup."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.crash import judge, table
from tests.crash.rounds import IS_FULL, Case, await_boundaries, submit
from tests.crash.targets import FIRST, LOCKING, NAMES, Linux, Target
from tests.crash.waiting import eventually
from tests.crash.world import Account, World, canary

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]


def _one_end(world: World, job_uid: str, state: str, cause: str | None) -> judge.JobRow:
    end = judge.ended(world, [job_uid])[job_uid]
    assert (end.state, end.cause) == (state, cause), end
    return end


def _in_order(world: World, account: Account, fault: str, outcome: str, *, attempts: int = 1) -> None:
    judge.check_current(world, [account])
    judge.check_story(world, [account])
    table.add(fault, account.target.name, outcome, where="target", attempts=attempts)
    world.give_back([account])


@pytest.fixture(params=NAMES if IS_FULL else NAMES[:2])
def target(request: pytest.FixtureRequest, crash_targets: Sequence[Target]) -> Target:
    return next(target for target in crash_targets if target.name == request.param)


def test_a_change_from_outside_is_seen_told_and_put_right_when_asked(world: World, target: Target) -> None:
    account = world.accounts(target, 1)[0]
    by_hand = canary()
    world.secrets.add(by_hand)
    target.set_password(account.login, by_hand)
    _one_end(world, world.submit(account, "verify"), "failed", "drift")
    assert not world.vault.jobs.proof(account.uid)["proven"], "prove must not claim what verify has refuted"
    assert target.logs_in(account.login, by_hand), "a verification changes nothing"
    _one_end(world, world.submit(account, "reconcile"), "succeeded", None)
    _in_order(world, account, "changed from outside", "seen by verify, put right by reconcile")


def test_a_change_from_outside_between_intent_and_change(world: World, target: Target) -> None:
    """The rotation is the later one: its value stands, and is proven."""
    case = Case(target=target, boundary="before:change")
    submit(world, [case])
    await_boundaries(world, [case])
    target.set_password(case.account.login, canary())
    world.orders.release()
    _one_end(world, case.job_uid, "succeeded", None)
    _in_order(world, case.account, "changed from outside in the middle", "rotated")


def test_a_change_from_outside_after_ours_and_a_crash_waits_for_a_human(world: World, target: Target) -> None:
    case = Case(target=target, boundary="after:change")
    submit(world, [case])
    await_boundaries(world, [case])
    account = case.account
    world.kill("gateway")
    target.set_password(account.login, canary())
    world.start_one("gateway")
    end = _one_end(world, case.job_uid, "waiting_human", "out_of_sync")
    assert not world.vault.jobs.proof(account.uid)["proven"]
    rows = judge.ledger(world, [account])[account.uid]
    assert {row.state for row in rows} >= {"applying", "current"}, "both values are kept"
    _one_end(world, world.submit(account, "reconcile"), "succeeded", None)
    _in_order(
        world, account, "changed from outside after ours, gateway killed", "waits for a human, put right by reconcile",
        attempts=end.attempts,
    )  # fmt: skip


def test_a_target_restored_to_an_older_password(world: World, target: Target) -> None:
    """The older value is kept in the ledger, so it is still known; verify tells, reconcile puts it right."""
    account = world.accounts(target, 1)[0]
    for _ in range(2):
        _one_end(world, world.submit(account), "succeeded", None)
    older = next(row for row in judge.ledger(world, [account])[account.uid] if row.state == "previous")
    target.set_password(account.login, older.password)
    judge.check_nothing_lost(world, [account])
    _one_end(world, world.submit(account, "verify"), "failed", "drift")
    _one_end(world, world.submit(account, "reconcile"), "succeeded", None)
    _in_order(world, account, "target restored to an older password", "seen by verify, put right by reconcile")


@pytest.mark.parametrize("target", LOCKING if IS_FULL else LOCKING[:2], indirect=True)
def test_a_locked_account_waits_for_a_human_and_is_rotated_when_unlocked(world: World, target: Target) -> None:
    case = Case(target=target, boundary="before:probe")
    submit(world, [case])
    await_boundaries(world, [case])
    account = case.account
    target.lock(account.login, is_locked=True)
    world.orders.release()
    _one_end(world, case.job_uid, "waiting_human", "locked")
    target.lock(account.login, is_locked=False)
    judge.check_nothing_lost(world, [account])
    _one_end(world, world.submit(account), "succeeded", None)
    _in_order(world, account, "account locked after the change", "waits for a human, then rotated")


def test_an_admin_demoted_in_the_middle(world: World, target: Target) -> None:
    case = Case(target=target, boundary="before:change")
    submit(world, [case])
    await_boundaries(world, [case])
    account = case.account
    target.demote_admin(is_demoted=True)
    try:
        world.orders.release()
        first = eventually(
            lambda: (row := judge.jobs(world, [case.job_uid])[case.job_uid]).state in {*judge.FINAL, "unknown"} and row,
            "the attempt ends",
        )
        judge.check_nothing_lost(world, [account])
    finally:
        target.demote_admin(is_demoted=False)
    judge.ended(world, [case.job_uid])
    if first.state != "succeeded":  # told, and a further rotation brings it in order
        _one_end(world, world.submit(account), "succeeded", None)
    _in_order(world, account, "admin demoted in the middle", "nothing changed, told; then rotated")


@pytest.mark.parametrize("target", NAMES if IS_FULL else NAMES[:1], indirect=True)
def test_an_admin_refused_in_the_middle(world: World, target: Target) -> None:
    """The target is set aside and its other rotations wait, until somebody says that it may be tried again."""
    case = Case(target=target, boundary="after:intend")
    submit(world, [case])
    await_boundaries(world, [case])
    account, [other] = case.account, world.accounts(target, 1)
    world.kill("gateway")  # with the connections that it keeps as the admin
    target.set_password(target.admin_login, canary())
    try:
        world.start_one("gateway")
        end = _one_end(world, case.job_uid, "waiting_human", "admin_refused")
        judge.check_nothing_lost(world, [account])
        waiting = world.submit(other)
        eventually(lambda: "set aside" in str(world.vault.jobs.explain(waiting)["reasons"]), "the other one says why")
        eventually(lambda: judge.jobs(world, [waiting])[waiting].cause == "target_set_aside", "the other one waits")
    finally:
        target.set_password(target.admin_login, target.admin_password)
    world.vault.pam.resume_resource(target.resource)
    _one_end(world, waiting, "succeeded", None)
    _one_end(world, world.submit(account), "succeeded", None)
    outcome = "target set aside, told; then rotated"
    _in_order(world, account, "admin refused in the middle", outcome, attempts=end.attempts)
    _in_order(world, other, "admin refused in the middle", outcome)


def test_a_target_that_refuses_every_second_password(world: World, crash_targets: Sequence[Target]) -> None:
    """A rule of the target that nobody here knows; PostgreSQL is given verifiers, so it has none to refuse."""
    target = next(target for target in crash_targets if isinstance(target, Linux))
    accounts = world.accounts(target, 3)
    before = judge.snapshot(world, accounts)
    with target.refusing_every_second():
        for account in accounts:
            _one_end(world, world.submit(account), "succeeded", None)
    after = judge.snapshot(world, accounts)
    states = [row[1] for account in accounts for row in after[account.uid][len(before[account.uid]) :]]
    assert "abandoned" in states, "some value was refused and given up"
    assert len(states) <= 3 * len(accounts), "no loop"
    for account in accounts:
        _in_order(world, account, "every second password refused by policy", "rotated with another value")


def test_an_account_that_is_gone(world: World, crash_targets: Sequence[Target]) -> None:
    """Nothing is changed and the job says so."""
    target = next(target for target in crash_targets if not target.is_slow)
    uid = world.site.add_user(target.new_login(), FIRST)
    world.site.rotate_by(uid, target.resource)
    job_uid = world.site.submit("rotate", uid)
    assert judge.ended(world, [job_uid])[job_uid].state == "failed"
    assert {state for _, state, _ in judge.snapshot_of(world, uid)} == {"current"}
    table.add("account is gone", target.name, "told, nothing changed", where="target")

"""The recovery table, exhaustively: as a pure function, and with real attempts that were cut off."""

from __future__ import annotations

import itertools

import pytest

from connectors.base import Verdict, VerdictState
from pam_jobs.secret import SecretValue
from tests.support.gateway import GatewayWorld
from workers.recovery import Action, Decision, decide
from workers.values import Value

pytestmark = pytest.mark.unit

S = VerdictState
NEW, CURRENT, OLDER, OLDEST = (Value(password=SecretValue(text)) for text in ("new", "current", "older", "oldest"))


class Logins:
    """Answers as told and remembers what was tried."""

    def __init__(self, **verdicts: VerdictState) -> None:
        self.verdicts = verdicts
        self.tried: list[str] = []

    def __call__(self, value: Value) -> Verdict:
        assert value.password is not None
        name = value.password.reveal()
        self.tried.append(name)
        return Verdict(state=self.verdicts[name])


def settle(logins: Logins, *, may_reconcile: bool = False, current: Value = CURRENT) -> Decision:
    return decide(logins, NEW, current, [OLDER, OLDEST], may_reconcile=may_reconcile)


def expected(new: S, current: S, may_reconcile: bool) -> Action:
    if new is S.ACCEPTED:
        return Action.PROMOTE
    if new is S.PARTIAL:
        return Action.APPLY
    if new is S.LOCKED:
        return Action.WAIT
    if new is S.UNKNOWN:
        return Action.BACK_OFF
    by_current = {S.ACCEPTED: Action.APPLY, S.PARTIAL: Action.APPLY, S.LOCKED: Action.WAIT, S.UNKNOWN: Action.BACK_OFF}
    return by_current.get(current, Action.APPLY if may_reconcile else Action.WAIT)


@pytest.mark.parametrize(
    ("new", "current", "older", "may_reconcile"), list(itertools.product(S, S, S, (True, False))), ids=str
)
def test_every_row_of_the_table(new: S, current: S, older: S, may_reconcile: bool) -> None:
    logins = Logins(new=new, current=current, older=older, oldest=S.REFUSED)
    decision = settle(logins, may_reconcile=may_reconcile)
    wanted = expected(new, current, may_reconcile)
    if new is current is S.REFUSED and older is S.LOCKED:
        wanted = Action.WAIT
    assert decision.action is wanted
    assert logins.tried[0] == "new"
    if new is not S.REFUSED:
        assert logins.tried == ["new"], "no login more than needed"
    elif current is not S.REFUSED:
        assert logins.tried == ["new", "current"]


def test_an_older_value_that_logs_in_is_named_in_the_evidence() -> None:
    logins = Logins(new=S.REFUSED, current=S.REFUSED, older=S.REFUSED, oldest=S.ACCEPTED)
    decision = settle(logins)
    assert decision.evidence == {"login": "refused", "current": "refused", "older": "accepted:2"}
    assert decision.cause == "out_of_sync"


def test_without_a_current_value_the_same_value_is_set() -> None:
    assert settle(Logins(new=S.REFUSED), current=Value()).action is Action.APPLY


def test_a_verdict_of_a_moment_ago_is_not_asked_again() -> None:
    logins = Logins(current=S.ACCEPTED)
    decision = decide(logins, NEW, CURRENT, [], may_reconcile=False, seen=Verdict(state=S.REFUSED))
    assert (decision.action, logins.tried) == (Action.APPLY, ["current"])


def test_a_change_that_lands_between_the_two_logins_is_found() -> None:
    """The line broke under the change: it was still on its way when the new value was tried, and not any more after."""
    answers = iter([S.REFUSED, S.REFUSED, S.ACCEPTED])
    decision = decide(lambda _value: Verdict(state=next(answers)), NEW, CURRENT, [OLDER], may_reconcile=False)
    assert decision.action is Action.PROMOTE
    assert decision.evidence == {"login": "accepted", "current": "refused"}


def test_a_budget_that_ends_there_still_tells_an_operator() -> None:
    answers = iter([Verdict(state=S.REFUSED)] * 2 + [Verdict(state=S.UNKNOWN, cause="lockout_budget")] * 2)
    decision = decide(lambda _value: next(answers), NEW, CURRENT, [OLDER], may_reconcile=False)
    assert (decision.action, decision.cause, decision.evidence["older"]) == (Action.WAIT, "out_of_sync", "not_tried")


def applying(world: GatewayWorld, *, state: str = "applying") -> Value:
    value = Value(password=SecretValue("Half-Way-1"))
    world.add_row(world.user, value, state)
    return value


@pytest.fixture
def world() -> GatewayWorld:
    return GatewayWorld()


def test_a_live_value_is_promoted_without_another_change(world: GatewayWorld) -> None:
    applying(world)
    world.target.accounts["app"].password = "Half-Way-1"
    assert world.run().state == "succeeded"
    assert (world.target.changes, world.states()) == (0, ["previous", "current"])


def test_a_value_that_was_not_applied_is_set_again_as_it_is(world: GatewayWorld) -> None:
    applying(world)
    assert world.run().state == "succeeded"
    assert world.password() == "Half-Way-1"
    assert world.router.refusals_left == 2


def test_a_staged_value_is_used_without_a_login_more(world: GatewayWorld) -> None:
    applying(world, state="staged")
    assert world.run().state == "succeeded"
    assert world.password() == "Half-Way-1"
    assert world.router.refusals_left == 3


def test_out_of_sync_waits_for_an_operator(world: GatewayWorld) -> None:
    applying(world)
    world.target.accounts["app"].password = "Set-By-Hand"
    job = world.run()
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("waiting_human", "out_of_sync")
    assert world.states() == ["current", "applying"]
    assert job.report["probe"] == {"verdict": "refused", "version_seq": 1}


@pytest.mark.parametrize("members", [{"parameters": {"reconcile": True}}, {"kind": "reconcile"}])
def test_out_of_sync_is_settled_by_the_admin_where_allowed(world: GatewayWorld, members: dict[str, object]) -> None:
    applying(world)
    world.target.accounts["app"].password = "Set-By-Hand"
    assert world.run(**members).state == "succeeded"
    assert world.password() == "Half-Way-1"


@pytest.mark.parametrize("state", ["staged", "applying"])
def test_reconcile_leaves_no_rotation_half_done(world: GatewayWorld, state: str) -> None:
    applying(world, state=state)
    assert world.run(kind="reconcile").state == "succeeded"
    assert (world.password(), world.states()) == ("Half-Way-1", ["previous", "current"])


def test_an_account_that_changes_itself_cannot_be_reconciled(world: GatewayWorld) -> None:
    applying(world)
    world.target.accounts["app"].password = "Set-By-Hand"
    assert world.run(admin_uid=None, kind="reconcile").state == "waiting_human"


def test_a_locked_account_waits_for_an_operator(world: GatewayWorld) -> None:
    applying(world)
    world.target.accounts["app"].is_locked = True
    job = world.run()
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("waiting_human", "locked")


def test_a_target_that_is_away_keeps_everything(world: GatewayWorld) -> None:
    applying(world)
    world.target.is_down = True
    assert world.run().state == "unknown"
    assert world.states() == ["current", "applying"]


def test_the_budget_ends_the_search(world: GatewayWorld) -> None:
    applying(world)
    world.router.refusals_left = 1
    world.target.accounts["app"].password = "Set-By-Hand"
    job = world.run()
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("unknown", "lockout_budget")
    assert world.target.logins == 1


@pytest.mark.parametrize("has_grace", [False, True])
def test_a_value_that_lands_late_and_is_refused_as_known_already_is_not_given_up(
    world: GatewayWorld, *, has_grace: bool
) -> None:
    applying(world)
    account = world.target.accounts["app"]
    world.target.remember, world.target.has_grace = True, has_grace

    def land() -> None:
        account.former, account.password = ["Half-Way-1", str(account.password)], "Half-Way-1"

    world.at["before:change"] = land
    assert world.run().state == "succeeded"
    assert world.password() == "Half-Way-1"
    assert world.states() == ["previous", "current"]


def test_a_refusal_that_the_router_did_not_hear_of_is_the_attempts_last(world: GatewayWorld) -> None:
    applying(world)
    world.target.accounts["app"].password = "Somebody-Elses-1"
    world.router.lost["refusals"] = 1000
    job = world.run()
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("unknown", "lockout_budget")
    assert world.target.logins == 1
    assert world.states() == ["current", "applying"]


def test_an_operators_edit_is_what_current_means(world: GatewayWorld) -> None:
    applying(world)
    world.target.accounts["app"].password = "Told-To-The-Vault"
    world.edit(world.user, lambda record: record.set_field("password", "Told-To-The-Vault"))
    assert world.run().state == "succeeded"
    assert world.password() == "Half-Way-1"


def test_the_account_itself_recovers_with_whichever_value_logs_in(world: GatewayWorld) -> None:
    applying(world)
    world.target.accounts["app"].password = "Half-Way-1"
    assert world.run(admin_uid=None).state == "succeeded"


def test_a_cancelled_job_that_an_earlier_attempt_began_is_brought_to_an_end(world: GatewayWorld) -> None:
    applying(world)
    world.target.accounts["app"].password = "Half-Way-1"
    job = world.job()
    world.at["after:claim"] = lambda: world.engine.running.cancel(job.uid)
    assert world.run(job).state == "succeeded"


BOUNDARIES = [
    "after:claim", "before:stage", "after:stage", "before:change", "before:intend", "after:intend", "after:change",
    "before:probe", "after:probe", "before:declare", "after:declare", "before:promote", "after:promote",
    "before:step:1", "running:step:1", "after:step:1", "stored:step:1", "before:report", "after:report",
]  # fmt: skip


class Killed(BaseException):
    """What a test throws in place of SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_an_attempt_cut_off_anywhere_is_resumed(world: GatewayWorld, boundary: str, tmp_path: object) -> None:
    ran = f"{tmp_path}/ran"
    world.attach(world.user, f"#!/bin/sh\necho once >> {ran}\n".encode())

    def kill() -> None:
        raise Killed

    world.at[boundary] = kill
    job = world.job()
    with pytest.raises(Killed):
        world.run(job)
    assert world.in_vault(), "the live value must be in the vault at every instant"
    if job.report is None:
        job.state = "queued"  # as the reconciler does when the lease has ended
        world.run(job)
    assert job.state in {"succeeded", "failed"}
    assert world.in_vault()
    password = world.record(world.user).password
    assert password is not None
    assert password.reveal() == world.password(), "the record holds what logs in"
    assert world.password() != "Old-Secret-1"
    with open(ran) if boundary != "running:step:1" else open("/dev/null") as lines:  # noqa: PTH123
        assert len(lines.readlines()) == (0 if boundary == "running:step:1" else 1), "a script never runs twice"
    interrupted = boundary in {"running:step:1", "after:step:1"}
    assert job.report is not None
    assert job.report["post_rotation_status"] == ("unknown" if interrupted else "ok")

"""The control plane's database restored from an older backup: what is live is found out before anything is changed."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest

from connectors.base import Verdict, VerdictState
from pam_jobs.jobs.wire import Position
from pam_jobs.secret import SecretValue
from tests.support.gateway import GatewayWorld
from workers.journal import Journal
from workers.position import PositionFile
from workers.recovery import Action
from workers.restored import CAUSE, Lead, search
from workers.values import Value

pytestmark = pytest.mark.unit

S = VerdictState


@pytest.fixture
def world() -> GatewayWorld:
    return GatewayWorld()


class Backup:
    """Ledger, records and epochs of one moment."""

    def __init__(self, world: GatewayWorld) -> None:
        router = world.router
        self._world = world
        self._kept = copy.deepcopy((router.ledger, router.records, router.epochs))

    def restore(self, *, forget_journal: bool = False) -> None:
        router = self._world.router
        router.ledger, router.records, router.epochs = copy.deepcopy(self._kept)
        router.refusals_left = 3
        if forget_journal:
            self._world.journal.__init__()


def run(world: GatewayWorld, **members: Any) -> Any:
    job = world.run(**members)
    assert job.report is not None
    return job


def twice_rotated(world: GatewayWorld, uid: str | None = None) -> None:
    for _ in range(2):
        assert world.run(record_uid=uid or world.user).state == "succeeded"


def test_a_value_that_only_the_journal_holds_is_recovered_and_then_rotated(world: GatewayWorld) -> None:
    backup = Backup(world)
    twice_rotated(world)
    lost = world.password()
    backup.restore()
    assert not world.in_vault()
    seen: list[bool] = []
    world.at["before:stage"] = lambda: seen.append(world.in_vault())
    job = run(world)
    assert job.state == "succeeded", world.detail(job)
    assert seen == [True], "the vault holds the live value again before another one is made up"
    assert world.states() == ["previous", "previous", "current"]
    found = world.router.ledger[world.user][1]
    assert found.evidence == {"login": "accepted", "source": "journal", "cause": CAUSE}
    recovered = Value.open(found.ciphertext, world.key(world.user)).password
    assert recovered is not None
    assert recovered.reveal() == lost != world.password()
    assert world.router.refusals_left == 3, "the likeliest value was tried first"
    assert world.in_vault()


def test_the_epoch_goes_on_above_what_the_gateway_worked_with(world: GatewayWorld) -> None:
    backup = Backup(world)
    twice_rotated(world)
    backup.restore()
    job = run(world)
    assert job.epoch == 3
    assert world.router.calls.count("lift") == 1
    assert {row.epoch for row in world.router.ledger[world.user][1:]} == {3}
    world.router.calls.clear()
    assert run(world).epoch == 4
    assert not {"lift", "recover"} & set(world.router.calls), "it is settled"


def test_an_account_that_changes_itself_is_recovered_too(world: GatewayWorld) -> None:
    backup = Backup(world)
    for _ in range(2):
        assert world.run(admin_uid=None).state == "succeeded"
    backup.restore()
    assert run(world, admin_uid=None).state == "succeeded"
    assert world.in_vault()


def test_an_administrator_is_recovered_too(world: GatewayWorld) -> None:
    world.give_current(world.admin, Value(password=SecretValue("Admin-Secret-1")))
    backup = Backup(world)
    twice_rotated(world, world.admin)
    backup.restore()
    assert run(world, record_uid=world.admin).state == "succeeded"
    assert run(world).state == "succeeded"


def test_an_administrator_that_only_the_journal_knows_still_changes_others(world: GatewayWorld) -> None:
    world.give_current(world.admin, Value(password=SecretValue("Admin-Secret-1")))
    backup = Backup(world)
    twice_rotated(world, world.admin)
    backup.restore()
    assert run(world).state == "succeeded"
    assert world.router.admin_refusals_left == 2


BOUNDARIES = [
    "after:claim", "before:probe", "after:probe", "before:recover", "after:recover", "before:stage", "after:stage",
    "before:intend", "after:intend", "after:change", "before:promote", "after:promote",
]  # fmt: skip


class Killed(BaseException):
    """What a test throws in place of SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_an_attempt_after_a_restore_cut_off_anywhere_is_resumed(boundary: str, tmp_path: Path) -> None:
    world = GatewayWorld(journal=Journal(tmp_path))
    backup = Backup(world)
    twice_rotated(world)
    live = world.password()
    backup.restore()

    def kill() -> None:
        raise Killed

    world.at[boundary] = kill
    job = world.job()
    with pytest.raises(Killed):
        world.run(job)
    kept = [Value.open(each.ciphertext, world.key(world.user)).password for each in Journal(tmp_path).of(world.user)]
    assert world.in_vault() or live in [each.reveal() for each in kept if each is not None]
    if job.report is None:
        job.state = "queued"  # as the reconciler does when the lease has ended
        world.journal.__init__(tmp_path)
        world.run(job)
    assert job.state == "succeeded"
    assert world.in_vault()
    own = world.record(world.user).password
    assert own is not None
    assert own.reveal() == world.password() != live


def test_a_backup_of_the_middle_of_a_rotation_is_settled_by_the_journal(world: GatewayWorld) -> None:
    backups: list[Backup] = []
    world.at["after:intend"] = lambda: backups.append(Backup(world))
    twice_rotated(world)
    backups[0].restore()
    assert world.states() == ["current", "applying"]
    assert run(world).state == "succeeded"
    assert world.states() == ["previous", "previous", "previous", "current"]
    assert world.in_vault()


def test_an_answer_that_was_lost_recovers_once(world: GatewayWorld) -> None:
    backup = Backup(world)
    twice_rotated(world)
    backup.restore()
    world.router.cut_before["recover"] = 1
    assert run(world).state == "succeeded"


def test_an_edit_made_meanwhile_survives(world: GatewayWorld) -> None:
    backup = Backup(world)
    twice_rotated(world)
    backup.restore()
    world.at["after:probe"] = lambda: world.edit(world.user, lambda record: record.with_notes("edited meanwhile"))
    assert run(world).state == "succeeded"
    assert world.record(world.user).notes == "edited meanwhile"


def test_a_current_value_that_logs_in_settles_it_without_a_loss(world: GatewayWorld) -> None:
    """The target was restored with the database."""
    backup = Backup(world)
    twice_rotated(world)
    backup.restore()
    world.target.accounts["app"].password = "Old-Secret-1"
    assert run(world).state == "succeeded"
    assert world.states() == ["previous", "current"]
    world.router.calls.clear()
    assert run(world).state == "succeeded"
    assert "refusals" not in world.router.calls


def test_without_a_journal_a_marked_credential_is_never_overwritten(world: GatewayWorld) -> None:
    backup = Backup(world)
    twice_rotated(world)
    live = world.password()
    backup.restore(forget_journal=True)
    world.router.prove_first = True
    job = run(world)
    assert (job.state, job.report["cause"], job.report["effect"]) == ("waiting_human", CAUSE, "not_applied")
    assert "restored from an older backup" in world.detail(job)["message"]
    assert job.report["probe"] == {"verdict": "refused", "version_seq": 1}
    assert (world.password(), world.states(), world.target.changes) == (live, ["current"], 2)


@pytest.mark.parametrize("members", [{"kind": "reconcile"}, {"parameters": {"reconcile": True}}])
def test_without_a_journal_the_admin_settles_it_where_allowed_and_it_is_told(
    world: GatewayWorld, members: dict[str, Any]
) -> None:
    backup = Backup(world)
    twice_rotated(world)
    backup.restore(forget_journal=True)
    world.router.prove_first = True
    job = run(world, **members)
    assert job.state == "succeeded"
    assert world.in_vault()
    if job.kind == "rotate":
        assert job.report["cause"] == CAUSE
        assert world.router.ledger[world.user][-1].evidence["before_current"] == "refused"


def test_a_marked_credential_that_logs_in_is_rotated_with_one_login_more(world: GatewayWorld) -> None:
    world.router.prove_first = True
    job = run(world)
    assert (job.state, job.report["cause"]) == ("succeeded", None)
    assert world.reached.count("before:probe") == 2
    assert world.router.refusals_left == 3


def test_an_older_value_of_the_ledger_that_logs_in_is_recorded(world: GatewayWorld) -> None:
    twice_rotated(world)
    world.target.accounts["app"].password = "Old-Secret-1"  # the target alone was set back
    world.router.prove_first = True
    world.journal.__init__()
    assert run(world).state == "succeeded"
    assert [row.evidence.get("source") for row in world.router.ledger[world.user]][3:] == ["previous", None]


def test_a_target_that_is_away_backs_off_and_changes_nothing(world: GatewayWorld) -> None:
    backup = Backup(world)
    twice_rotated(world)
    backup.restore()
    world.target.throttle_probes = 9
    job = run(world)
    assert (job.state, job.report["effect"]) == ("unknown", "not_applied")
    assert world.states() == ["current"]
    world.target.throttle_probes = 0
    assert world.run(job).state == "succeeded"
    assert world.in_vault()


def test_verify_names_what_the_journal_kept_and_reconcile_takes_it(world: GatewayWorld) -> None:
    backup = Backup(world)
    twice_rotated(world)
    live, changes = world.password(), world.target.changes
    backup.restore()
    job = run(world, kind="verify")
    assert (job.state, job.report["cause"]) == ("failed", CAUSE)
    job = run(world, kind="reconcile")
    assert (job.state, job.report["effect"]) == ("succeeded", "not_applied")
    own = world.record(world.user).password
    assert own is not None
    assert (own.reveal(), world.password(), world.target.changes) == (live, live, changes)


def test_reconcile_keeps_the_last_login_for_what_the_admin_sets(world: GatewayWorld) -> None:
    world.target.accounts["app"].password = "By-Hand-1"
    world.router.refusals_left = 1
    assert run(world, kind="reconcile").state == "succeeded"
    assert world.password() == "Old-Secret-1"


def test_an_operator_who_corrects_the_record_afterwards_is_believed_by_a_login(world: GatewayWorld) -> None:
    backup = Backup(world)
    twice_rotated(world)
    backup.restore()
    world.target.accounts["app"].password = "By-Hand-1"
    assert run(world).state == "waiting_human"
    world.router.refusals_left = 3
    value = Value(password=SecretValue("By-Hand-1"))
    world.router.ledger[world.user][0].state = "previous"
    world.give_current(world.user, value)
    world.edit(world.user, lambda record: record.with_credential(password=value.password, private_key=None))
    assert run(world).state == "succeeded"


def test_scripts_are_told_the_value_that_was_live(world: GatewayWorld, tmp_path: Path) -> None:
    backup = Backup(world)
    twice_rotated(world)
    live = world.password()
    backup.restore()
    told = tmp_path / "told"
    world.attach(world.user, f"#!/bin/sh\nbase64 -d > {told}\n".encode())
    assert run(world).state == "succeeded"
    assert str(live) in told.read_text()


NAMES = ("journal", "current", "previous")


@pytest.mark.parametrize(
    ("verdicts", "may_reconcile"), list(itertools.product(itertools.product(S, repeat=3), (True, False)))
)
def test_every_row_of_the_table(verdicts: tuple[S, ...], may_reconcile: bool) -> None:
    leads = [Lead(source=name, value=Value(password=SecretValue(name))) for name in NAMES]
    answers = dict(zip(NAMES, verdicts, strict=True))

    def login(value: Value) -> Verdict:
        assert value.password is not None
        return Verdict(state=answers[value.password.reveal()])

    result = search(login, leads, most=3, may_reconcile=may_reconcile)
    for name, verdict in answers.items():
        if verdict is S.ACCEPTED or (verdict is S.PARTIAL and name == "current"):
            assert result.found is not None
            assert result.found.source == name
            return
        if verdict in {S.LOCKED, S.UNKNOWN}:
            assert result.decision is not None
            assert result.decision.action is (Action.WAIT if verdict is S.LOCKED else Action.BACK_OFF)
            return
    assert result.found is None
    assert result.decision is not None
    assert (result.decision.action, result.decision.cause) == (Action.APPLY if may_reconcile else Action.WAIT, CAUSE)


@pytest.mark.parametrize(
    ("most", "may_reconcile", "action"),
    [(0, False, Action.BACK_OFF), (1, False, Action.BACK_OFF), (2, False, Action.WAIT), (0, True, Action.BACK_OFF),
     (1, True, Action.APPLY)],
)  # fmt: skip
def test_a_budget_that_ends_too_early_says_nothing(most: int, may_reconcile: bool, action: Action) -> None:
    leads = [Lead(source=name, value=Value(password=SecretValue(name))) for name in NAMES]
    result = search(lambda _value: Verdict(state=S.REFUSED), leads, most=most, may_reconcile=may_reconcile)
    assert result.decision is not None
    assert result.decision.action is action


def test_a_position_outlives_the_process_and_belongs_to_one_device(tmp_path: Path) -> None:
    position = Position(generation="g", event_id=7, event_uid="e")
    PositionFile(tmp_path, "device").take(position)
    assert PositionFile(tmp_path, "device").newest == position
    assert PositionFile(tmp_path, "another").newest is None
    (tmp_path / "position").write_text("{")
    assert PositionFile(tmp_path, "device").newest is None
    (tmp_path / "file").write_text("")
    nowhere = PositionFile(tmp_path / "file" / "no-folder", "device")
    nowhere.take(position)
    assert nowhere.newest == position


def test_the_journal_of_the_disk_is_of_use_to_the_next_process(tmp_path: Path) -> None:
    world = GatewayWorld(journal=Journal(tmp_path))
    backup = Backup(world)
    twice_rotated(world)
    backup.restore()
    world.journal.__init__(tmp_path)
    assert run(world).state == "succeeded"
    assert world.states() == ["previous", "previous", "current"]

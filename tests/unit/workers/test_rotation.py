from __future__ import annotations

import json

import pytest

from connectors.fake import FakeAccount
from pam_jobs.crypto import aes
from pam_jobs.errors import ClockDiffers, EpochConflict, NotRegistered
from pam_jobs.secret import SecretValue
from tests.support.gateway import GatewayWorld
from tests.support.kept_fake import KeptFakeConnector
from workers.values import Value

pytestmark = pytest.mark.unit


@pytest.fixture
def world() -> GatewayWorld:
    return GatewayWorld()


def test_a_rotation_sets_proves_and_promotes_a_new_password(world: GatewayWorld) -> None:
    job = world.run()
    assert job.report is not None
    assert job.state == "succeeded", world.detail(job)
    assert (job.report["status"], job.report["effect"]) == ("ok", "applied")
    new = world.record(world.user).password
    assert new is not None
    assert new.reveal() == world.password() != "Old-Secret-1"
    assert world.states() == ["previous", "current"]
    logged_in = ["login", "login"]  # the fake connector keeps no connection
    assert world.router.calls == ["claim", *logged_in, "stage", "intend", "promote"]


def test_a_kept_connection_of_the_administrator_needs_no_place_in_its_lockout_budget() -> None:
    world = GatewayWorld(connector=KeptFakeConnector())
    world.run()
    assert world.router.calls.count("login") == 2
    world.router.calls.clear()
    assert world.run().state == "succeeded"
    assert world.router.calls == ["claim", "stage", "intend", "promote"]


def test_an_account_that_administers_nothing_needs_no_place_to_change_itself(world: GatewayWorld) -> None:
    assert world.run(admin_uid=None).state == "succeeded"
    assert world.router.calls == ["claim", "stage", "intend", "promote"]


def test_every_step_is_durable_before_the_next(world: GatewayWorld) -> None:
    world.run()
    assert [name for name in world.reached if name != "after:probe"] == [
        "after:claim", "before:stage", "after:stage", "before:change", "before:intend", "after:intend", "after:change",
        "before:probe", "before:promote", "after:promote",
    ]  # fmt: skip


def test_the_sealed_detail_and_the_report_hold_no_secret(world: GatewayWorld) -> None:
    job = world.run()
    new = world.password()
    assert new is not None
    assert new not in json.dumps(job.report, default=str)
    assert new not in json.dumps(world.detail(job))
    assert world.detail(job)["target"] == "db.test:9999"


def test_one_read_of_the_vault_is_enough(world: GatewayWorld) -> None:
    world.run()
    assert world.vault.fetches == [[world.user, world.configuration, world.resource, world.admin]]


def test_an_edit_made_meanwhile_survives(world: GatewayWorld) -> None:
    world.at["before:promote"] = lambda: world.edit(world.user, lambda record: record.with_notes("edited meanwhile"))
    job = world.run()
    assert job.state == "succeeded"
    assert world.record(world.user).notes == "edited meanwhile"
    password = world.record(world.user).password
    assert password is not None
    assert password.reveal() == world.password()
    assert world.router.calls.count("promote") == 2


def test_the_admin_may_rotate_itself(world: GatewayWorld) -> None:
    world.give_current(world.admin, Value(password=SecretValue("Admin-Secret-1")))
    job = world.run(record_uid=world.admin)
    assert job.state == "succeeded"
    own = world.record(world.admin).password
    assert own is not None
    assert own.reveal() == world.password("root")


def test_an_account_without_admin_rotates_itself(world: GatewayWorld) -> None:
    job = world.run(admin_uid=None)
    assert job.state == "succeeded"


def test_a_lost_answer_after_the_change_is_resolved_by_a_login(world: GatewayWorld) -> None:
    world.target.cut_after_send = 1
    job = world.run()
    assert job.state == "succeeded"
    assert world.target.changes == 1
    assert world.in_vault()


def test_a_change_lost_on_the_way_is_made_again_with_the_same_value(world: GatewayWorld) -> None:
    world.target.cut_before_apply = 1
    job = world.run()
    assert job.state == "succeeded"
    assert world.target.changes == 2
    assert world.states() == ["previous", "current"]


@pytest.mark.parametrize("call", ["stage", "intend", "promote"])
def test_a_router_that_believes_nothing_for_a_while_ends_no_rotation(world: GatewayWorld, call: str) -> None:
    def disbelieve(_job: object) -> None:
        raise ClockDiffers("the device's token is not valid at this time")

    world.router.before[call] = disbelieve
    job = world.run()
    assert job.state == {"stage": "queued", "intend": "queued", "promote": "unknown"}[call], job.report
    assert world.run(job).state == "succeeded"
    assert world.target.changes == 1
    assert world.states() == ["previous", "current"]


def test_an_instance_that_counts_as_gone_registers_anew_and_takes_the_job(world: GatewayWorld) -> None:
    registered: list[str] = []

    def gone(_job: object) -> None:
        raise NotRegistered

    world.router.before["claim"] = gone
    world.client.register_anew = lambda: registered.append("hello")
    assert world.run().state == "succeeded"
    assert (registered, world.router.calls[:2]) == (["hello"], ["claim", "claim"])


def test_a_change_that_may_land_yet_is_not_told_as_failed_by_what_comes_after_it(world: GatewayWorld) -> None:
    world.target.cut_before_apply = 1

    def after_the_second_login() -> None:
        world.at["after:probe"] = lambda: setattr(world.target, "is_down", True)

    world.at["after:probe"] = after_the_second_login
    job = world.run()
    assert job.report is not None
    assert (job.state, job.report["effect"], job.report["cause"]) == ("unknown", "unknown", "unreachable")
    [_, late] = world.router.ledger[world.user]
    value = Value.open(late.ciphertext, world.key(world.user)).password
    assert value is not None
    world.target.accounts["app"].password, world.target.is_down = value.reveal(), False
    assert world.run(job).state == "succeeded"
    assert world.states() == ["previous", "current"]


def test_an_effect_that_stays_unknown_keeps_everything(world: GatewayWorld) -> None:
    world.target.cut_after_send = 1
    world.target.throttle_probes = 99
    job = world.run()
    assert job.report is not None
    assert (job.report["status"], job.report["effect"]) == ("unknown", "unknown")
    assert world.states() == ["current", "applying"]
    assert world.in_vault()
    world.target.throttle_probes = 0
    assert world.run(job).state == "succeeded"
    assert world.target.changes == 1


def test_a_value_refused_by_policy_is_abandoned_and_another_one_made(world: GatewayWorld) -> None:
    world.target.refuse_every = 2
    world.target.changes = 1
    job = world.run()
    assert job.state == "succeeded"
    assert world.states() == ["previous", "abandoned", "current"]
    assert world.router.ledger[world.user][1].evidence == {
        "current": "accepted", "effect": "not_applied", "reason": "policy_refused",
    }  # fmt: skip


def test_a_policy_that_refuses_everything_ends_the_job_after_three_values(world: GatewayWorld) -> None:
    world.target.refuse_every = 1
    job = world.run()
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("failed", "policy_refused")
    assert world.states() == ["current", "abandoned", "abandoned", "abandoned"]
    assert world.password() == "Old-Secret-1"


def test_a_refused_value_is_kept_when_the_current_one_cannot_be_proven(world: GatewayWorld) -> None:
    world.target.refuse_every = 1
    world.target.throttle_probes = 99
    job = world.run()
    assert (job.state, world.states()) == ("failed", ["current", "staged"]) or world.states() == ["current", "applying"]
    assert world.in_vault()


def test_a_fence_that_is_refused_leaves_the_target_alone(world: GatewayWorld) -> None:
    def overtake(job: object) -> None:
        world.router.epochs[world.user] += 1

    world.router.before["intend"] = overtake
    job = world.run()
    assert job.report is None
    assert world.target.changes == 0
    assert world.password() == "Old-Secret-1"


def test_a_cancellation_before_the_change_leaves_the_target_alone(world: GatewayWorld) -> None:
    job = world.job()
    world.at["before:change"] = lambda: setattr(job, "cancelled", True)
    world.run(job)
    assert job.report is not None
    assert job.report["status"] == "cancelled"
    assert world.target.changes == 0


def test_a_cancellation_heard_by_heartbeat_stops_before_staging(world: GatewayWorld) -> None:
    job = world.job()
    world.at["after:claim"] = lambda: world.engine.running.cancel(job.uid)
    world.run(job)
    assert job.report is not None
    assert job.report["status"] == "cancelled"
    assert world.states() == ["current"]


def test_a_target_that_is_down_fails_without_a_trace(world: GatewayWorld) -> None:
    world.target.is_down = True
    job = world.run()
    assert job.report is not None
    assert (job.state, job.report["cause"], job.report["effect"]) == ("failed", "unreachable", "not_applied")
    assert world.states() == ["current"]


def test_a_refused_login_of_the_account_itself_counts(world: GatewayWorld) -> None:
    world.target.accounts["app"].password = "changed-by-hand"
    job = world.run(admin_uid=None)
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("failed", "auth_rejected")
    assert world.router.refusals_left == 2


def test_a_budget_that_is_used_up_stops_before_the_change(world: GatewayWorld) -> None:
    world.router.refusals_left = 0
    job = world.run()
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("failed", "lockout_budget")
    assert world.target.logins == 0
    assert world.states() == ["current"]


def test_a_second_delivery_is_a_no_op(world: GatewayWorld) -> None:
    job = world.run()
    changes = world.target.changes
    world.engine.run(job.uid)
    assert world.target.changes == changes


def test_the_old_value_is_tried_when_asked(world: GatewayWorld) -> None:
    job = world.run(parameters={"check_old": True})
    assert job.state == "succeeded"
    assert world.router.ledger[world.user][1].evidence["old"] == "refused"
    assert world.detail(job)["old"] == "refused"


def test_an_old_value_that_is_still_accepted_is_an_outcome_of_its_own_and_no_error(world: GatewayWorld) -> None:
    world.target.has_grace = True
    job = world.run(parameters={"check_old": True})
    assert job.report is not None
    assert (job.state, job.report["status"], job.report["cause"]) == ("succeeded", "ok", "old_in_grace")
    assert world.router.ledger[world.user][1].evidence["old"] == "accepted"
    assert "the old one as well" in world.detail(job)["message"]
    assert world.router.refusals_left == 3


def test_scripts_that_fail_count_more_than_a_grace(world: GatewayWorld) -> None:
    world.target.has_grace = True
    world.attach(world.user, b"#!/bin/sh\nexit 3\n")
    job = world.run(parameters={"check_old": True})
    assert job.report is not None
    assert job.report["cause"] == "scripts_failed"


def test_an_open_breaker_leaves_the_target_alone(world: GatewayWorld) -> None:
    world.target.is_down = True
    for _ in range(3):
        world.run()
    world.target.is_down = False
    job = world.run()
    assert job.report is not None
    assert job.report["cause"] == "breaker_open"
    assert world.target.logins == 0


def test_a_vault_that_is_away_gives_the_job_back(world: GatewayWorld) -> None:
    world.vault.is_away = True
    job = world.run()
    assert (job.state, job.released) == ("queued", ["vault_unavailable"])


@pytest.mark.parametrize("call", ["claim", "stage", "intend", "promote", "abandon", "report", "release"])
def test_a_call_that_never_arrived_is_repeated(world: GatewayWorld, call: str) -> None:
    world.router.cut_before[call] = 2
    assert world.run().state == "succeeded"


@pytest.mark.parametrize("call", ["stage", "intend", "promote"])
def test_an_answer_of_the_router_that_was_lost_does_no_harm(world: GatewayWorld, call: str) -> None:
    world.router.cut_after[call] = 1
    job = world.run()
    assert job.state == "succeeded"
    assert world.states() == ["previous", "current"]
    password = world.record(world.user).password
    assert password is not None
    assert password.reveal() == world.password()


def test_a_lost_answer_to_a_promotion_before_scripts_is_found_done(world: GatewayWorld) -> None:
    world.attach(world.user, b"#!/bin/sh\nexit 0\n")
    world.router.cut_after["promote"] = 1
    job = world.run()
    assert job.state == "succeeded", world.detail(job)
    assert world.states() == ["previous", "current"]


def test_a_record_with_a_private_key_only_rotates_the_key(world: GatewayWorld) -> None:
    from pam_jobs.records.keys import generate_key

    old = generate_key("ssh-ed25519")
    world.target.accounts["app"] = FakeAccount(public_keys=[old.public])
    uid = world.add_user("app", None, {"type": "secret", "label": "privatePEMKey", "value": [old.private_pem.reveal()]})
    world.give_current(uid, Value(private_key=old.private_pem))
    job = world.run(record_uid=uid)
    assert job.state == "succeeded"
    record = world.record(uid)
    assert record.password is None
    assert record.private_key is not None
    assert record.private_key != old.private_pem
    assert len(world.target.accounts["app"].public_keys) == 2


def test_a_key_that_must_not_rotate_leaves_nothing_to_do(world: GatewayWorld) -> None:
    from pam_jobs.records.keys import generate_key

    old = generate_key("ssh-ed25519")
    uid = world.add_user(
        "app", None, {"type": "secret", "label": "privatePEMKey", "value": [old.private_pem.reveal()]},
        custom=[{"type": "text", "label": "Private Key Rotate", "value": ["FALSE"]}],
    )  # fmt: skip
    job = world.run(record_uid=uid)
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("failed", "invalid_input")
    assert "Private Key Rotate" in world.detail(job, uid)["message"]


def test_both_parts_rotate_together(world: GatewayWorld) -> None:
    from pam_jobs.records.keys import generate_key

    old = generate_key("ssh-ed25519")
    world.target.accounts["app"] = FakeAccount(password="Old-Secret-1", public_keys=[old.public])
    key_field = {"type": "secret", "label": "privatePEMKey", "value": [old.private_pem.reveal()]}
    uid = world.add_user("app", "Old-Secret-1", key_field)
    job = world.run(record_uid=uid)
    assert job.state == "succeeded"
    value = Value.of_record(world.record(uid))
    assert value.password is not None
    assert value.password.reveal() == world.password()
    row = json.loads(aes.decrypt(world.router.ledger[uid][0].ciphertext, world.key(uid)))
    assert set(row) == {"password", "private_key", "public_key"}


def test_other_profiles_are_refused_with_a_sentence(world: GatewayWorld) -> None:
    job = world.run(profile="iam_user")
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("failed", "unsupported")
    assert "iam_user" in world.detail(job)["message"]


def test_a_record_that_a_directory_manages_is_skipped(world: GatewayWorld) -> None:
    world.edit(world.user, lambda record: record.set_field("checkbox", True, "managed"))
    job = world.run()
    assert job.report is not None
    assert (job.report["status"], job.report["cause"]) == ("skipped", "managed")
    assert world.target.logins == 0


def test_the_complexity_of_the_settings_is_used(world: GatewayWorld) -> None:
    rule = aes.encrypt(b'{"length":33,"caps":1,"lowercase":1,"digits":1,"special":0}', world.key(world.user))
    world.run(complexity=rule)
    assert len(world.password() or "") == 33
    assert (world.password() or "").isalnum()


def test_a_newer_attempt_stops_the_older_one_before_its_promotion(world: GatewayWorld) -> None:
    def overtake() -> None:
        world.router.epochs[world.user] += 1

    world.at["after:change"] = overtake
    job = world.run()
    assert job.report is None
    assert world.states() == ["current", "applying"]
    assert world.in_vault()
    job.state = "queued"
    assert world.run(job).state == "succeeded"


def test_a_client_transaction_that_is_open_blocks_the_rotation(world: GatewayWorld) -> None:
    world.add_row(world.user, Value(password=SecretValue("x")), "staged").kind = "record"
    world.router.ledger[world.user][-1].ciphertext = world.router.records[world.user][0]
    job = world.run()
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("failed", "state")


def test_plan_changes_nothing(world: GatewayWorld) -> None:
    job = world.run(kind="plan")
    assert job.state == "succeeded"
    assert world.detail(job)["plan"]["parts"] == ["password"]
    assert world.states() == ["current"]
    assert world.target.changes == 0


def test_errors_of_an_overtaken_attempt_are_not_reported(world: GatewayWorld) -> None:
    def refuse(_job: object) -> None:
        raise EpochConflict

    world.router.before["stage"] = refuse
    job = world.run()
    assert job.report is None

from __future__ import annotations

import contextlib

import pytest

from pam_jobs.errors import Unreachable
from pam_jobs.secret import SecretValue
from tests.support.gateway import GatewayWorld
from tests.support.memory_router import MemoryJob
from workers.values import Value

pytestmark = pytest.mark.unit


@pytest.fixture
def world() -> GatewayWorld:
    return GatewayWorld()


def ended(job: MemoryJob) -> tuple[str, str | None]:
    assert job.report is not None
    return job.state, job.report["cause"]


def test_verify_proves_the_current_value(world: GatewayWorld) -> None:
    job = world.run(kind="verify")
    assert ended(job) == ("succeeded", None)
    assert job.report is not None
    assert job.report["probe"] == {"verdict": "accepted", "version_seq": 1}
    assert world.target.changes == 0


def test_verify_sees_drift(world: GatewayWorld) -> None:
    world.target.accounts["app"].password = "By-Hand-1"
    assert ended(world.run(kind="verify")) == ("failed", "drift")


def test_verify_names_an_unfinished_rotation(world: GatewayWorld) -> None:
    world.add_row(world.user, Value(password=SecretValue("Half-Way-1")), "applying")
    world.target.accounts["app"].password = "Half-Way-1"
    assert ended(world.run(kind="verify")) == ("failed", "unfinished")
    assert world.states() == ["current", "applying"]


def test_verify_of_a_locked_account(world: GatewayWorld) -> None:
    world.target.accounts["app"].is_locked = True
    assert ended(world.run(kind="verify")) == ("failed", "locked")


def test_verify_that_cannot_be_decided_gives_up_after_three_attempts(world: GatewayWorld) -> None:
    world.target.throttle_probes = 99
    job = world.job(kind="verify")
    assert [ended(world.run(job))[0] for _ in range(3)] == ["unknown", "unknown", "failed"]


def test_verify_says_what_it_saw(world: GatewayWorld) -> None:
    world.target.accounts["app"].is_locked = True
    job = world.run(kind="verify")
    assert job.report is not None
    assert job.report["probe"] == {"verdict": "locked", "version_seq": 1, "cause": "locked"}


def test_the_admin_is_asked_whether_a_refused_account_is_locked(world: GatewayWorld) -> None:
    world.target.hides_locks = world.target.accounts["app"].is_locked = True
    job = world.run(kind="verify")
    assert ended(job) == ("failed", "locked")
    assert job.report is not None
    assert job.report["probe"] == {"verdict": "locked", "version_seq": 1, "cause": "locked"}
    assert ended(world.run(kind="verify", admin_uid=None)) == ("failed", "drift")
    world.target.accounts["root"].password = "Another-1"
    assert ended(world.run(kind="verify")) == ("failed", "drift")


def test_a_scheduled_verification_leaves_the_last_login_of_the_budget(world: GatewayWorld) -> None:
    world.target.accounts["app"].password = "By-Hand-1"
    world.router.trigger = "scheduled"
    left = []
    for _ in range(4):
        job = world.run(kind="verify")
        left.append((world.router.refusals_left, *ended(job)))
    assert left == [
        (2, "failed", "drift"),
        (1, "failed", "drift"),
        (1, "failed", "lockout_budget"),
        (1, "failed", "lockout_budget"),
    ]
    assert job.report is not None
    assert job.report["probe"] == {"verdict": "unknown", "version_seq": 1, "cause": "lockout_budget"}


def test_a_person_may_spend_the_last_login(world: GatewayWorld) -> None:
    world.router.refusals_left = 1
    assert ended(world.run(kind="verify")) == ("succeeded", None)


def test_verify_of_a_target_that_others_found_away_is_tried_again(world: GatewayWorld) -> None:
    for _ in range(3):
        with contextlib.suppress(Unreachable), world.breakers.slot("db.test:9999"):
            raise Unreachable
    job = world.job(kind="verify")
    assert [ended(world.run(job)) for _ in range(3)] == [
        ("unknown", "breaker_open"), ("unknown", "breaker_open"), ("failed", "breaker_open"),
    ]  # fmt: skip


def test_reconcile_says_what_it_saw(world: GatewayWorld) -> None:
    world.target.accounts["app"].is_locked = True
    job = world.run(kind="reconcile")
    assert job.report is not None
    assert (job.state, job.report["probe"]["verdict"]) == ("waiting_human", "locked")


def test_verify_tells_an_operators_edit_from_the_ledger(world: GatewayWorld) -> None:
    world.edit(world.user, lambda record: record.set_field("password", "Typed-In-1"))
    world.target.accounts["app"].password = "Typed-In-1"
    job = world.run(kind="verify")
    assert job.report is not None
    assert job.report["probe"] == {"verdict": "accepted", "version_seq": None}


def test_reconcile_of_what_is_in_sync_does_nothing(world: GatewayWorld) -> None:
    assert ended(world.run(kind="reconcile")) == ("succeeded", None)
    assert world.target.changes == 0


def test_reconcile_lets_the_admin_set_the_current_value(world: GatewayWorld) -> None:
    world.target.accounts["app"].password = "By-Hand-1"
    job = world.run(kind="reconcile")
    assert ended(job) == ("succeeded", None)
    assert world.password() == "Old-Secret-1"
    assert world.states() == ["current"]
    assert "fence" in world.router.calls


def test_reconcile_without_an_admin_is_refused(world: GatewayWorld) -> None:
    world.target.accounts["app"].password = "By-Hand-1"
    assert ended(world.run(kind="reconcile", admin_uid=None)) == ("failed", "forbidden")


def test_reconcile_that_is_overtaken_changes_nothing(world: GatewayWorld) -> None:
    world.target.accounts["app"].password = "By-Hand-1"

    def overtake(_job: MemoryJob) -> None:
        world.router.epochs[world.user] += 1

    world.router.before["fence"] = overtake
    assert world.run(kind="reconcile").report is None
    assert world.target.changes == 0


def test_reconcile_that_hears_of_its_fence_too_late_changes_nothing(world: GatewayWorld) -> None:
    world.target.accounts["app"].password = "By-Hand-1"
    world.at["after:fence"] = world.oversleep
    assert world.run(kind="reconcile").report is None
    assert world.target.changes == 0


def test_reconcile_that_is_cancelled_in_time_changes_nothing(world: GatewayWorld) -> None:
    world.target.accounts["app"].password = "By-Hand-1"
    world.router.before["fence"] = lambda job: setattr(job, "cancelled", True)
    assert ended(world.run(kind="reconcile")) == ("cancelled", "cancelled")
    assert world.target.changes == 0


def test_reconcile_whose_answer_is_lost_is_settled_by_a_login(world: GatewayWorld) -> None:
    world.target.accounts["app"].password = "By-Hand-1"
    world.target.cut_after_send = 1
    assert ended(world.run(kind="reconcile")) == ("succeeded", None)


def test_a_plan_says_why_it_would_fail(world: GatewayWorld) -> None:
    world.target.accounts.pop("app")
    assert ended(world.run(kind="plan")) == ("failed", "unsupported")


def test_a_kind_that_is_not_known_is_refused(world: GatewayWorld) -> None:
    assert ended(world.run(kind="dance")) == ("failed", "unsupported")


@pytest.mark.parametrize("what", ["user", "resource", "admin", "configuration"])
def test_a_record_that_is_not_shared_is_named(world: GatewayWorld, what: str) -> None:
    uid = getattr(world, what)
    del world.router.records[uid]
    job = world.run()
    assert ended(job) == ("failed", "not_found")


def test_a_resource_without_a_host_is_refused_before_anything(world: GatewayWorld) -> None:
    world.edit(world.resource, lambda record: record.set_field("pamHostname", {"hostName": "", "port": "22"}))
    assert ended(world.run()) == ("failed", "invalid_input")


def test_a_defect_of_ours_ends_the_job_without_its_text(world: GatewayWorld) -> None:
    def fail() -> None:
        raise RuntimeError("Old-Secret-1")

    world.at["before:stage"] = fail
    job = world.run()
    assert ended(job) == ("failed", "internal")
    assert "Old-Secret-1" not in str(world.detail(job))


def test_a_defect_after_the_change_keeps_the_value(world: GatewayWorld) -> None:
    def fail() -> None:
        raise RuntimeError("secret")

    world.at["after:change"] = fail
    job = world.run()
    assert ended(job) == ("unknown", "internal")
    assert world.states() == ["current", "applying"]
    assert world.run(job).state == "succeeded"


def test_a_job_is_claimed_also_where_its_records_cannot_be_asked_for_along(world: GatewayWorld) -> None:
    world.vault.fetch_along = lambda _carry: {}  # type: ignore[method-assign] # as where the SDK fails before it sends
    assert world.run(kind="verify").state == "succeeded"

"""A rotation whose scripts failed is undone by the protocol itself."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from tests.support.gateway import GatewayWorld
from tests.support.memory_router import MemoryJob
from workers.values import Value

pytestmark = pytest.mark.unit
OLD = "Old-Secret-1"


class Killed(BaseException):
    """What a test throws in place of SIGKILL: nothing of ours catches it."""


def custom(world: GatewayWorld, uid: str, label: str, text: str = "TRUE") -> None:
    world.edit(uid, lambda record: record.set_field("text", text, label, custom=True))


@pytest.fixture
def world(tmp_path: Path) -> GatewayWorld:
    """A record with two scripts, the second of which fails, and the order to roll back then."""
    world = GatewayWorld()
    custom(world, world.configuration, "Rollback On Post Rotation Fail")
    world.attach(world.user, f"#!/bin/sh\nbase64 -d >> {tmp_path}/first; echo >> {tmp_path}/first\n".encode())
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/second; exit 3\n".encode())
    return world


def held(world: GatewayWorld) -> str | None:
    secret = world.record(world.user).password
    return secret.reveal() if secret else None


def codes(job: MemoryJob) -> tuple[str, str, str | None]:
    assert job.report is not None
    return str(job.report["status"]), str(job.report["post_rotation_status"]), job.report["cause"]


def told(path: Path) -> list[tuple[str, str]]:
    """Return old and new password of each run of the first script."""
    runs = [json.loads(line) for line in path.read_text().splitlines() if line]
    return [(run["oldPassword"], run["newPassword"]) for run in runs]


def test_the_former_value_is_set_back_proven_and_current(world: GatewayWorld, tmp_path: Path) -> None:
    job = world.run()
    assert (job.state, codes(job)) == ("failed", ("rolled_back", "failed", "scripts_failed"))
    assert world.password() == held(world) == OLD
    assert world.states() == ["previous", "previous", "current"]
    assert job.report is not None
    assert job.report["probe"] == {"verdict": "accepted", "version_seq": 3}
    assert [(step["kind"], step["state"]) for step in job.steps.values()] == [
        ("script", "succeeded"), ("script", "failed"), ("rollback", "succeeded"),
    ]  # fmt: skip
    assert len(told(tmp_path / "first")) == 1
    assert (tmp_path / "second").read_text().count("x") == 1


def test_without_the_field_nothing_is_undone(world: GatewayWorld) -> None:
    custom(world, world.user, "Rollback On Post Rotation Fail", "FALSE")
    job = world.run()
    assert codes(job) == ("ok", "failed", "scripts_failed")
    assert world.password() == held(world) != OLD
    assert [step["kind"] for step in job.steps.values()] == ["script", "script"]


def test_scripts_that_succeed_leave_the_new_value(world: GatewayWorld) -> None:
    world.edit(world.user, lambda record: record.with_scripts(record.scripts[:1]))
    assert world.run().state == "succeeded"
    assert world.password() == held(world) != OLD


def test_a_script_of_unknown_end_is_no_reason_to_undo(world: GatewayWorld) -> None:
    world.edit(world.user, lambda record: record.with_scripts(record.scripts[:1]))
    job = world.job()
    world.at["after:step:1"] = killed
    with pytest.raises(Killed):
        world.run(job)
    job.state = "queued"
    world.run(job)
    assert codes(job) == ("ok", "unknown", "scripts_unknown")
    assert world.password() == held(world) != OLD


def killed() -> None:
    raise Killed


def test_a_field_that_says_nothing_stops_before_the_change(world: GatewayWorld) -> None:
    custom(world, world.resource, "Rollback On Post Rotation Fail", "sometimes")
    job = world.run()
    assert codes(job)[2] == "invalid_input"
    assert world.target.changes == 0


def test_a_target_that_knows_its_old_passwords_refuses_and_it_is_told(world: GatewayWorld) -> None:
    world.target.remember = True
    job = world.run()
    assert codes(job) == ("rollback_refused", "failed", "policy_refused")
    assert job.report is not None
    assert job.report["effect"] == "applied"
    assert world.states() == ["previous", "current", "abandoned"]
    assert world.password() == held(world) != OLD
    [step] = [step for step in job.steps.values() if step["kind"] == "rollback"]
    assert (step["state"], step["cause"]) == ("failed", "policy_refused")
    assert world.run().state in {"succeeded", "failed"}, "the next rotation goes on with a new value"


def test_a_target_that_is_away_is_asked_again_later(world: GatewayWorld) -> None:
    world.at["rollback:begun"] = lambda: setattr(world.target, "is_down", True)
    job = world.run()
    assert (job.state, codes(job)) == ("unknown", ("unknown", "failed", "unreachable"))
    assert world.in_vault()
    world.target.is_down = False
    world.run(job)
    assert codes(job) == ("rolled_back", "failed", "scripts_failed")
    assert world.password() == held(world) == OLD


def test_a_lost_answer_to_the_change_back_is_resolved_by_a_login(world: GatewayWorld) -> None:
    world.at["rollback:begun"] = lambda: setattr(world.target, "cut_after_send", 1)
    assert codes(world.run())[0] == "rolled_back"
    assert world.target.changes == 2
    assert world.password() == held(world) == OLD


@pytest.mark.parametrize("re_run", [False, True])
def test_the_scripts_run_again_for_the_former_value_where_asked(
    world: GatewayWorld, tmp_path: Path, re_run: bool
) -> None:
    if re_run:
        custom(world, world.user, "Re-run On Post Rotation Fail")
    job = world.run()
    runs = told(tmp_path / "first")
    new = runs[0][1]
    assert runs == ([(OLD, new), (new, OLD)] if re_run else [(OLD, new)])
    assert codes(job) == ("rolled_back", "failed", "rerun_failed" if re_run else "scripts_failed")
    kinds = [step["kind"] for step in sorted(job.steps.values(), key=lambda step: step["position"])]
    assert kinds == ["script", "script", "rollback", *(["rerun", "rerun"] if re_run else [])]


BOUNDARIES = [
    "stored:step:2", "rollback:begun", "rollback:before:stage", "rollback:after:stage", "rollback:before:intend",
    "rollback:after:intend", "rollback:after:change", "rollback:before:probe", "rollback:after:probe",
    "rollback:before:promote", "rollback:after:promote", "before:declare", "rollback:before:finish",
    "rollback:after:finish", "before:step:4", "after:step:4", "stored:step:4", "stored:step:5", "before:report",
]  # fmt: skip


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("remembers", [False, True], ids=["taken", "refused"])
def test_a_roll_back_cut_off_anywhere_is_resumed(
    world: GatewayWorld, tmp_path: Path, boundary: str, remembers: bool
) -> None:
    custom(world, world.user, "Re-run On Post Rotation Fail")
    world.target.remember = remembers
    job = world.job()
    world.at["stored:step:1"] = lambda: world.at.update({boundary: killed})
    try:
        world.run(job)
    except Killed:
        assert world.in_vault(), "the live value must be in the vault at every instant"
        job.state = "queued"  # as the reconciler does when the lease has ended
        world.run(job)
    else:
        assert remembers, f"{boundary} is not passed"
    assert world.in_vault()
    assert world.password() == held(world)
    assert (held(world) == OLD) is not remembers
    assert codes(job)[:2] == ("rollback_refused" if remembers else "rolled_back", "failed")
    assert len(told(tmp_path / "first")) == (1 if remembers else 2), "once for each purpose"
    assert (tmp_path / "second").read_text().count("x") == (1 if remembers else 2)
    assert "applying" not in world.states()
    assert "staged" not in world.states()


def test_a_roll_back_that_another_job_left_is_settled_before_the_next_rotation(world: GatewayWorld) -> None:
    for boundary in ("rollback:after:stage", "rollback:after:change"):
        world.at[boundary] = killed
        with pytest.raises(Killed):
            world.run()
        assert world.in_vault()
        world.edit(world.user, lambda record: record.with_scripts([]))
        job = world.run()
        assert job.state == "succeeded", world.detail(job)
        assert world.password() == held(world) != OLD
        assert world.states()[-1] == "current"
        world.attach(world.user, b"#!/bin/sh\nexit 3\n")


def test_a_refused_roll_back_that_another_job_left_does_not_stop_the_next_rotation(world: GatewayWorld) -> None:
    world.target.remember = True
    world.at["rollback:after:stage"] = killed
    with pytest.raises(Killed):
        world.run()
    world.edit(world.user, lambda record: record.with_scripts([]))
    assert world.run().state == "succeeded"
    assert world.states() == ["previous", "previous", "abandoned", "current"]


def test_a_value_that_somebody_set_meanwhile_is_not_undone(world: GatewayWorld) -> None:
    job = world.job()
    world.at["stored:step:2"] = killed
    with pytest.raises(Killed):
        world.run(job)
    world.edit(world.user, lambda record: record.set_field("password", "By-Hand-1"))
    world.target.accounts["app"].password = "By-Hand-1"
    job.state = "queued"
    world.run(job)
    assert codes(job) == ("ok", "failed", "scripts_failed")
    assert world.password() == "By-Hand-1"


def test_a_key_is_set_back_as_well(world: GatewayWorld) -> None:
    from connectors.fake import FakeAccount
    from pam_jobs.records.keys import generate_key

    old = generate_key("ssh-ed25519")
    world.target.accounts["app"] = FakeAccount(password=OLD, public_keys=[old.public])
    scripts = world.record(world.user).values("script", "rotationScripts")[1:]

    def with_key(record: Record) -> Record:
        changed = record.set_field("secret", old.private_pem, "privatePEMKey")
        return changed.set_field("script", scripts, "rotationScripts")

    world.edit(world.user, with_key)
    world.router.ledger[world.user] = []
    world.give_current(world.user, Value(password=SecretValue(OLD), private_key=old.private_pem))
    job = world.run()
    assert codes(job)[0] == "rolled_back", world.detail(job)
    assert world.record(world.user).private_key == old.private_pem
    assert any(line.split()[:2] == old.public.split() for line in world.target.accounts["app"].public_keys)


def test_the_report_of_a_roll_back_holds_no_secret(world: GatewayWorld) -> None:
    job = world.run()
    shown = json.dumps(job.report, default=str) + json.dumps(world.detail(job))
    assert OLD not in shown
    assert base64.b64encode(OLD.encode()).decode() not in shown

"""Of password and key the target takes the one and refuses the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.fake import FakeAccount
from pam_jobs.records.keys import generate_key
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from tests.support.gateway import GatewayWorld
from tests.support.memory_router import MemoryJob
from workers.values import Value

pytestmark = pytest.mark.unit
OLD = "Old-Secret-1"
KEY = generate_key("ssh-ed25519")
LABELS = {"key": "Rollback On Private Key Fail", "password": "Rollback On Password Fail"}
CAUSES = {"key": "private_key_failed", "password": "password_failed"}


class Killed(BaseException):
    """What a test throws in place of SIGKILL: nothing of ours catches it."""


def killed() -> None:
    raise Killed


@pytest.fixture(params=["key", "password"])
def world(request: pytest.FixtureRequest) -> GatewayWorld:
    """A record with a password and a key, on a target that refuses new values of one of them."""
    return new_world(request.param)


def new_world(refused: str) -> GatewayWorld:
    world = GatewayWorld()
    world.target.accounts["app"] = FakeAccount(password=OLD, public_keys=[f"{KEY.public} keeper-security-{world.user}"])
    world.edit(world.user, lambda record: record.set_field("secret", KEY.private_pem, "privatePEMKey"))
    world.router.ledger[world.user] = []
    world.give_current(world.user, Value(password=SecretValue(OLD), private_key=KEY.private_pem))
    world.target.refuse_part = refused
    return world


def keep(world: GatewayWorld) -> None:
    """Order that the part that succeeded stays."""
    for label in LABELS.values():
        world.edit(world.user, lambda record, label=label: record.set_field("text", "FALSE", label, custom=True))


def codes(job: MemoryJob) -> tuple[str, str, str | None]:
    assert job.report is not None
    return str(job.report["status"]), str(job.report["effect"]), job.report["cause"]


def check_record_logs_in(world: GatewayWorld) -> tuple[bool, bool]:
    """Check that the target accepts the record's parts, and say which of them are new."""
    account, record = world.target.accounts["app"], world.record(world.user)
    password, key = record.password, record.private_key
    assert password is not None
    assert key is not None
    assert account.password == password.reveal()
    assert Value(private_key=key).candidate(_account(world)).public_key in " ".join(account.public_keys)
    return password.reveal() != OLD, key != KEY.private_pem


def _account(world: GatewayWorld):
    from connectors.base import Account

    return Account(login="app", record_uid=world.user)


def test_the_part_that_was_set_is_set_back(world: GatewayWorld) -> None:
    job = world.run()
    assert (job.state, codes(job)) == ("failed", ("rolled_back", "not_applied", CAUSES[world.target.refuse_part]))
    assert check_record_logs_in(world) == (False, False)
    assert world.states() == ["current", "abandoned"]
    assert world.router.ledger[world.user][1].evidence["current"] == "accepted"
    assert job.report is not None
    assert job.report["probe"] == {"verdict": "accepted", "version_seq": 1}


def test_the_part_that_was_set_stays_where_the_records_say_so(world: GatewayWorld, tmp_path: Path) -> None:
    keep(world)
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/ran\n".encode())
    job = world.run()
    refused = world.target.refuse_part
    assert codes(job) == ("partial", "applied", CAUSES[refused])
    assert check_record_logs_in(world) == (refused == "key", refused == "password")
    assert world.states() == ["previous", "abandoned", "current"]
    assert (tmp_path / "ran").read_text() == "x\n", "those who use the credential hear of the new part"
    current = Value.open(world.router.ledger[world.user][-1].ciphertext, world.key(world.user))
    assert current.covers(Value.of_record(world.record(world.user)))
    world.target.refuse_part = ""
    assert world.run().state == "succeeded"
    assert check_record_logs_in(world) == (True, True)


def test_a_part_kept_without_scripts_is_reported_with_its_promotion(world: GatewayWorld) -> None:
    keep(world)
    job = world.run()
    assert codes(job)[0] == "partial"
    assert "report" not in world.router.calls


def test_a_password_that_may_not_come_back_stays_and_is_told() -> None:
    world = new_world("key")
    world.target.remember = True
    job = world.run()
    assert codes(job) == ("rollback_refused", "applied", "private_key_failed")
    assert check_record_logs_in(world) == (True, False)
    assert "could not be set back" in world.detail(job)["message"]


def test_only_the_field_of_the_part_that_failed_counts() -> None:
    world = new_world("key")
    world.edit(world.user, lambda record: record.set_field("text", "FALSE", LABELS["password"], custom=True))
    assert codes(world.run())[0] == "rolled_back"


def test_what_no_login_proves_is_kept_until_one_does(world: GatewayWorld) -> None:
    world.at["before:undo"] = lambda: setattr(world.target, "throttle_probes", 99)
    job = world.run()
    assert (job.state, codes(job)) == ("unknown", ("unknown", "unknown", "partly_applied"))
    assert world.states() == ["current", "applying"]
    world.target.throttle_probes = 0
    world.run(job)
    assert codes(job)[0] == "rolled_back"
    assert check_record_logs_in(world) == (False, False)


def test_a_part_that_no_login_proves_does_not_become_current(world: GatewayWorld) -> None:
    keep(world)
    world.at["after:intend"] = lambda: setattr(world.target, "throttle_probes", 99)
    job = world.run()
    assert (job.state, codes(job)[2]) == ("unknown", "partly_applied")
    assert world.states() == ["current", "applying"]
    world.target.throttle_probes = 0
    world.run(job)
    assert codes(job)[0] == "partial"
    check_record_logs_in(world)


BOUNDARIES = ["before:undo", "after:undo", "before:promote", "after:promote", "before:step:1", "before:report"]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("is_kept", [False, True], ids=["undone", "kept"])
def test_an_attempt_cut_off_anywhere_is_resumed(
    world: GatewayWorld, tmp_path: Path, boundary: str, is_kept: bool
) -> None:
    if is_kept:
        keep(world)
    world.attach(world.user, f"#!/bin/sh\necho x >> {tmp_path}/ran\n".encode())
    world.at[boundary] = killed
    world.router.refusals_left = 9
    job = world.job()
    is_passed = (boundary in BOUNDARIES[:2]) is not is_kept or boundary == "before:report"
    if is_passed:
        with pytest.raises(Killed):
            world.run(job)
        job.state = "queued"
    world.run(job)
    assert codes(job) == (
        "partial" if is_kept else "rolled_back", "applied" if is_kept else "not_applied",
        CAUSES[world.target.refuse_part],
    )  # fmt: skip
    check_record_logs_in(world)
    assert not {"applying", "staged"} & set(world.states())
    assert (tmp_path / "ran").exists() is is_kept


def test_scripts_that_fail_after_a_part_was_kept_roll_it_back(tmp_path: Path) -> None:
    world = new_world("key")
    keep(world)
    world.edit(
        world.user, lambda record: record.set_field("text", "TRUE", "Rollback On Post Rotation Fail", custom=True)
    )
    world.attach(world.user, b"#!/bin/sh\nexit 1\n")
    world.at["before:step:1"] = lambda: setattr(world.target, "refuse_part", "")
    job = world.run()
    assert codes(job)[0] == "rolled_back"
    assert check_record_logs_in(world) == (False, False)


def test_a_field_of_the_record_is_not_lost_with_a_part(world: GatewayWorld) -> None:
    keep(world)

    def edit(record: Record) -> Record:
        return record.with_notes("edited meanwhile")

    world.at["before:promote"] = lambda: world.edit(world.user, edit)
    assert codes(world.run())[0] == "partial"
    assert world.record(world.user).notes == "edited meanwhile"

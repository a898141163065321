from __future__ import annotations

import threading

import pytest

from connectors.fake import FakeAccount
from pam_jobs.secret import SecretValue
from tests.support.gateway import GatewayWorld
from tests.support.memory_router import MemoryJob
from workers.values import Value

pytestmark = pytest.mark.unit


@pytest.fixture
def world() -> GatewayWorld:
    made = GatewayWorld()
    made.router.administers = True
    return made


def rescue_job(world: GatewayWorld) -> MemoryJob:
    """Submit the rotation of a second administrator, which stands on a resource record of its own."""
    world.target.accounts["rescue"] = FakeAccount(password="Rescue-Secret-1", is_admin=True)
    world.connector.add("10.0.0.5", 9999, world.target)
    host = {"type": "pamHostname", "label": "", "value": [{"hostName": "10.0.0.5", "port": "9999"}]}
    resource = world.add_record({"type": "pamMachine", "title": "Box again", "fields": [host]})
    rescue = world.add_user("rescue", "Rescue-Secret-1")
    world.give_current(rescue, Value(password=SecretValue("Rescue-Secret-1")))
    return world.job(record_uid=rescue, resource_uid=resource, admin_uid=rescue)


def root_job(world: GatewayWorld) -> MemoryJob:
    world.give_current(world.admin, Value(password=SecretValue("Admin-Secret-1")))
    return world.job(record_uid=world.admin)


def test_two_administrators_on_two_records_are_changed_one_after_the_other(world: GatewayWorld) -> None:
    first, second = root_job(world), rescue_job(world)
    seen = []

    def meanwhile() -> None:
        run = threading.Thread(target=world.engine.run, args=(second.uid,))
        run.start()
        run.join(20)
        seen.append((second.state, second.released, world.target.accounts["rescue"].password))

    world.at["after:change"] = meanwhile
    world.run(first)
    assert seen == [("queued", ["administrator_busy"], "Rescue-Secret-1")]
    assert first.state == "succeeded"
    assert world.run(second).state == "succeeded"


def test_nothing_is_staged_and_nobody_logs_in_before_the_turn_has_come(world: GatewayWorld) -> None:
    first, second = root_job(world), rescue_job(world)
    logins: list[int] = []

    def meanwhile() -> None:
        logins.append(world.target.logins)
        world.engine.run(second.uid)
        logins.append(world.target.logins)

    world.at["before:stage"] = meanwhile
    world.router.before["exclusive"] = lambda _job: logins.append(world.target.logins)
    world.run(first)
    assert logins[0] == 0
    assert logins[1] == logins[2]
    assert world.states(second.record_uid) == ["current"]
    assert second.report is None


@pytest.mark.parametrize("kind", ["rotate", "reconcile"])
def test_only_administrators_ask(world: GatewayWorld, kind: str) -> None:
    world.run(kind=kind)
    assert world.router.calls.count("exclusive") == 1
    world.router.administers = False
    world.run(kind=kind)
    assert world.router.calls.count("exclusive") == 1


@pytest.mark.parametrize("kind", ["verify", "plan"])
def test_what_changes_nothing_does_not_ask(world: GatewayWorld, kind: str) -> None:
    assert world.run(kind=kind).state == "succeeded"
    assert "exclusive" not in world.router.calls


def test_an_administrator_whose_scripts_alone_run_does_not_ask(world: GatewayWorld) -> None:
    assert world.run(profile="scripts_only").state == "succeeded"
    assert "exclusive" not in world.router.calls


def test_a_lost_answer_is_asked_for_again(world: GatewayWorld) -> None:
    world.router.cut_after["exclusive"] = 1
    assert world.run().state == "succeeded"
    assert world.router.calls.count("exclusive") == 2


def test_a_job_that_was_taken_back_with_a_lost_answer_is_left_alone(world: GatewayWorld) -> None:
    first, second = root_job(world), rescue_job(world)

    def meanwhile() -> None:
        world.router.cut_after["exclusive"] = 1
        world.engine.run(second.uid)

    world.at["after:change"] = meanwhile
    world.run(first)
    assert (second.state, second.released, second.report) == ("queued", ["administrator_busy"], None)
    assert world.target.accounts["rescue"].password == "Rescue-Secret-1"


def test_a_router_that_stays_away_has_nothing_changed(world: GatewayWorld) -> None:
    world.router.lost["exclusive"] = 1000
    job = world.run()
    assert (job.state, world.target.logins, world.states()) == ("queued", 0, ["current"])


def test_a_resource_without_a_host_is_told_of_as_before(world: GatewayWorld) -> None:
    world.edit(world.resource, lambda record: record.set_field("pamHostname", {"hostName": "", "port": "9999"}))
    job = world.run()
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("failed", "invalid_input")
    assert "exclusive" not in world.router.calls

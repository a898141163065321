from __future__ import annotations

from datetime import timedelta

import pytest

from pam_jobs.db.engine import Database
from pam_jobs.db.tables import Gateway, GatewayInstance
from pam_jobs.errors import InvalidInput, NotFound, StateError
from pam_jobs.jobs import presence, wire
from pam_jobs.jobs.cancel import cancel
from pam_jobs.jobs.devices import Device
from pam_jobs.jobs.trail import CONTROL
from tests.support.attempts import POLICY, ask, begin, outbox
from tests.support.fleet import OPERATOR, Fleet, new_fleet


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return new_fleet(database)  # nobody is online


def device(fleet: Fleet) -> Device:
    with fleet.database.transaction(read_only=True) as session:
        allowed = session.get_one(Gateway, fleet.gateway_uid).max_instances
    return Device(
        client_id="c", gateway_uid=fleet.gateway_uid, gateway_name="office", max_instances=allowed,
        remote_address="10.0.0.9", user_agent="1",
    )  # fmt: skip


def hello(fleet: Fleet, instance: str = "i1", **details: object) -> bool:
    said = wire.Hello(instance=instance, version="1;linux;6;x86_64;12", details=details)
    with fleet.database.transaction() as session:
        return presence.hello(session, fleet.clock, POLICY, device(fleet), said)


def beat(fleet: Fleet, instance: str = "i1", *running: str) -> list[str]:
    said = wire.Heartbeat(instance=instance, running=list(running))
    with fleet.database.transaction() as session:
        return presence.heartbeat(session, fleet.clock, POLICY, device(fleet), said)


def leave(fleet: Fleet, instance: str = "i1") -> bool:
    with fleet.database.transaction() as session:
        return presence.goodbye(session, fleet.clock, POLICY, device(fleet), instance)


def overdue(fleet: Fleet) -> list[str]:
    with fleet.database.transaction() as session:
        return [instance for _, _, instance in presence.overdue(session, fleet.clock, POLICY, CONTROL)]


def allow(fleet: Fleet, instances: int) -> None:
    with fleet.database.transaction() as session:
        session.get_one(Gateway, fleet.gateway_uid).max_instances = instances


def told(fleet: Fleet) -> tuple[int, int]:
    return len(fleet.events("pam_gateway_online")), len(fleet.events("pam_gateway_offline"))


def test_a_gateway_comes_online_once_and_goes_offline_with_its_last_instance(fleet: Fleet):
    allow(fleet, 2)
    assert hello(fleet, "i1")
    assert not hello(fleet, "i1")
    assert not hello(fleet, "i2")
    assert told(fleet) == (1, 0)
    assert not leave(fleet, "i1")
    assert leave(fleet, "i2")
    assert not leave(fleet, "i2")
    assert told(fleet) == (1, 1)
    assert hello(fleet, "i3")
    assert told(fleet) == (2, 1)


def test_only_so_many_live_instances_are_let_in(fleet: Fleet):
    hello(fleet, "i1")
    with pytest.raises(StateError, match="1 of 1"):
        hello(fleet, "i2")
    fleet.clock.advance(timedelta(seconds=POLICY.offline_seconds + 1))
    hello(fleet, "i2")  # the first one is not heard of any more
    overdue(fleet)
    with pytest.raises(NotFound):
        beat(fleet, "i1")  # its place was given away


def test_a_silent_instance_is_told_offline_once_and_comes_back(fleet: Fleet):
    hello(fleet)
    fleet.clock.advance(timedelta(seconds=POLICY.offline_seconds + 1))
    assert overdue(fleet) == ["i1"]
    assert overdue(fleet) == []
    assert told(fleet) == (1, 1)
    beat(fleet)
    assert told(fleet) == (2, 1)
    assert overdue(fleet) == []


def test_an_instance_that_was_never_heard_of_must_say_hello(fleet: Fleet):
    with pytest.raises(NotFound, match="not registered"):
        beat(fleet, "nobody")


def test_a_restarted_instance_takes_the_place_and_frees_the_leases_of_the_dead_one(fleet: Fleet):
    record = fleet.add_record()
    fleet.put(record)
    job = ask(fleet, record)
    hello(fleet, "i1")
    begin(fleet, job.uid, "i1")
    hello(fleet, "i2", replaces="i1")
    assert begin(fleet, job.uid, "i2").claim.epoch == 2


def test_one_start_takes_the_places_of_all_that_died_with_the_machine(fleet: Fleet):
    allow(fleet, 2)
    records = [fleet.add_record() for _ in range(2)]
    for number, record in enumerate(records):
        fleet.put(record)
        hello(fleet, f"i{number}")
    jobs = [ask(fleet, record) for record in records]
    for number, job in enumerate(jobs):
        begin(fleet, job.uid, f"i{number}")
    hello(fleet, "i2", replaces=["i0", "i1", 17])
    assert [begin(fleet, job.uid, "i2").claim.attempts for job in jobs] == [2, 2]


def test_a_heartbeat_tells_which_of_its_jobs_were_cancelled(fleet: Fleet):
    hello(fleet)
    records = [fleet.add_record() for _ in range(2)]
    for record in records:
        fleet.put(record)
    kept, cancelled = [ask(fleet, record).uid for record in records]
    begin(fleet, kept)
    begin(fleet, cancelled)
    with fleet.database.transaction() as session:
        cancel(session, fleet.clock, OPERATOR, cancelled)
    assert beat(fleet, "i1", kept, cancelled, "unheard-of") == [cancelled]
    with fleet.database.transaction(read_only=True) as session:
        assert session.get_one(GatewayInstance, (fleet.gateway_uid, "i1")).running == 3


def test_jobs_that_wait_are_published_when_the_gateway_comes(fleet: Fleet):
    record = fleet.add_record()
    fleet.put(record)
    job = ask(fleet, record)
    with fleet.database.transaction() as session:
        assert presence.waiting_jobs(session, fleet.clock, fleet.gateway_uid) == [job.uid]
    assert outbox(fleet, job.uid) == 2


def test_details_are_bounded(fleet: Fleet):
    with pytest.raises(InvalidInput):
        hello(fleet, "i1", text="x" * 20_000)


def test_a_journal_that_cannot_be_written_is_told_once_and_once_more_when_it_can(fleet: Fleet):
    hello(fleet, journal=None)
    for trouble in ("No space left on device", "No space left on device", None, None):
        hello(fleet, journal=trouble)
    (failed,) = fleet.events("pam_gateway_journal_failed")
    assert (failed.fields["result_code"], failed.fields["instance"]) == ("No space left on device", "i1")
    assert len(fleet.events("pam_gateway_journal_restored")) == 1

"""The publisher against a real Redis server: what is sent, and what is kept when nothing can be sent."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from pam_jobs.app import queue_name
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import GatewayInstance, Job, JobKind, JobState, OutboxMessage
from pam_jobs.ids import new_uid
from pam_jobs.jobs.publisher import Publisher
from pam_jobs.jobs.reconciler import reconcile_once
from pam_jobs.jobs.signing import MessageRefused, verify
from pam_jobs.settings import ControlSettings
from tests.support.attempts import POLICY, ask, begin, outbox, register, reload
from tests.support.broker import RedisBroker
from tests.support.fleet import Fleet, new_fleet

pytestmark = pytest.mark.integration


@pytest.fixture
def fleet(database: Database) -> Fleet:
    made = new_fleet(database)
    register(made)
    return made


@pytest.fixture
def record(fleet: Fleet) -> str:
    uid = fleet.add_record()
    fleet.put(uid)
    return uid


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    store = KeyStore(tmp_path / "keys")
    store.ensure()
    return store


@pytest.fixture
def settings(broker: RedisBroker, tmp_path: Path) -> ControlSettings:
    return ControlSettings(database_url="sqlite://", broker_url=broker.url, keys_dir=tmp_path / "keys")


@pytest.fixture
def publisher(fleet: Fleet, keys: KeyStore, settings: ControlSettings) -> Iterator[Publisher]:
    made = Publisher(settings.broker_url, keys, fleet.clock, settings)
    yield made
    made.close()


def taken(broker: RedisBroker, fleet: Fleet) -> dict[str, Any]:
    """Take one message from the gateway's queue."""
    with broker.client() as client:
        raw = client.rpop(queue_name(fleet.gateway_uid))
    assert raw is not None
    message: dict[str, Any] = json.loads(raw)
    return message


def waiting(fleet: Fleet, count: int) -> list[str]:
    """Add jobs with a message each, as if nobody had published them."""
    now = fleet.clock.now()
    uids = [new_uid() for _ in range(count)]
    common = {
        "kind": JobKind.ROTATE, "state": JobState.CREATED, "trigger": "on_demand", "requested_by": "ada",
        "gateway_uid": fleet.gateway_uid, "configuration_uid": fleet.configuration_uid, "parameters": {},
        "created_at": now,
    }  # fmt: skip
    message = {"queue": queue_name(fleet.gateway_uid), "created_at": now}
    with fleet.database.transaction() as session:
        session.execute(insert(Job), [{"uid": uid, **common} for uid in uids])
        session.execute(insert(OutboxMessage), [{"job_uid": uid, **message} for uid in uids])
    return uids


def wait(is_done: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_message_holds_identifiers_only_and_is_signed_for_its_queue(
    broker: RedisBroker, fleet: Fleet, record: str, publisher: Publisher, keys: KeyStore
):
    job = ask(fleet, record)
    assert publisher.publish(fleet.database, [job.uid]) == 1
    now = reload(fleet, job.uid)
    assert (now.state, now.queued_at) == (JobState.QUEUED, fleet.clock.now())
    assert outbox(fleet, job.uid) == 0
    message = taken(broker, fleet)
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    headers = message["headers"]
    assert (args, kwargs) == ([job.uid], {})
    assert headers["task"] == "pam.rotate"
    assert headers["id"].startswith(f"{job.uid}.")
    parts: dict[str, Any] = {
        "name": headers["task"], "message_id": headers["id"], "queue": queue_name(fleet.gateway_uid),
        "args": args, "kwargs": kwargs, "now": fleet.clock.now(),
    }  # fmt: skip
    verify(keys.signing_public, headers["pam"], **parts)
    for change in (
        {"queue": queue_name("another")},
        {"name": "pam.discover"},
        {"now": fleet.clock.now() + timedelta(days=2)},
    ):
        with pytest.raises(MessageRefused):
            verify(keys.signing_public, headers["pam"], **{**parts, **change})
    assert record not in json.dumps(message)


def test_many_jobs_go_in_one_batch(broker: RedisBroker, fleet: Fleet, publisher: Publisher):
    records = [fleet.add_record() for _ in range(30)]
    for uid in records:
        fleet.put(uid)
    uids = [ask(fleet, uid).uid for uid in records]
    assert publisher.publish(fleet.database, uids) == 30
    assert broker.length(queue_name(fleet.gateway_uid)) == 30
    assert publisher.publish(fleet.database, uids) == 0
    with broker.client() as client:
        # Nothing but the queue: no bindings that would grow with every gateway or get lost with the broker's data.
        assert [key.decode() for key in client.scan_iter()] == [queue_name(fleet.gateway_uid)]


def test_what_ended_before_it_was_sent_is_not_sent(
    broker: RedisBroker, fleet: Fleet, record: str, publisher: Publisher
):
    job = ask(fleet, record)
    begin(fleet, job.uid).report()
    assert publisher.publish(fleet.database, [job.uid]) == 0
    assert outbox(fleet, job.uid) == 0
    assert broker.length(queue_name(fleet.gateway_uid)) == 0


def test_jobs_stay_in_the_outbox_while_the_broker_is_away(
    broker: RedisBroker, fleet: Fleet, record: str, publisher: Publisher
):
    first = ask(fleet, record)
    publisher.publish(fleet.database, [first.uid])
    begin(fleet, first.uid).report()
    broker.stop(kill=True)
    job = ask(fleet, record)
    started = time.monotonic()
    assert publisher.publish(fleet.database, [job.uid]) == 0
    assert time.monotonic() - started < 8
    assert (reload(fleet, job.uid).state, outbox(fleet, job.uid)) == (JobState.CREATED, 1)
    broker.start()
    wait(lambda: publisher.publish(fleet.database) == 1)
    assert (reload(fleet, job.uid).state, outbox(fleet, job.uid)) == (JobState.QUEUED, 0)


def test_the_hook_returns_at_once_and_the_thread_sends(
    broker: RedisBroker, fleet: Fleet, record: str, publisher: Publisher
):
    hook = publisher.after_commit(fleet.database)
    job = ask(fleet, record)
    hook([job.uid])
    wait(lambda: reload(fleet, job.uid).state == JobState.QUEUED)
    broker.stop(kill=True)
    begin(fleet, job.uid).report()
    second = ask(fleet, record)
    started = time.monotonic()
    hook([second.uid])
    assert time.monotonic() - started < 0.2
    broker.start()
    time.sleep(0.5)
    fleet.clock.advance(timedelta(seconds=3))  # older than what its submitter may still be sending
    with fleet.database.transaction() as session:
        session.get_one(GatewayInstance, (fleet.gateway_uid, "i1")).last_seen_at = fleet.clock.now()

    def reconciled() -> bool:
        settings = ControlSettings(database_url="sqlite://", broker_url=broker.url, keys_dir=Path("/unused"))
        reconcile_once(fleet.database, fleet.clock, settings, publisher=publisher, policy=POLICY)
        return reload(fleet, second.uid).state == JobState.QUEUED

    wait(reconciled)
    assert broker.length(queue_name(fleet.gateway_uid)) >= 1


def test_a_message_that_was_lost_with_the_brokers_data_is_sent_again(
    broker: RedisBroker, fleet: Fleet, record: str, publisher: Publisher, settings: ControlSettings
):
    job = ask(fleet, record)
    publisher.publish(fleet.database, [job.uid])
    with broker.client() as client:
        client.flushall()
    fleet.clock.advance(timedelta(seconds=settings.republish_seconds))
    with fleet.database.transaction() as session:
        session.get_one(GatewayInstance, (fleet.gateway_uid, "i1")).last_seen_at = fleet.clock.now()
    counts = reconcile_once(fleet.database, fleet.clock, settings, publisher=publisher)
    assert (counts.republished, counts.published) == (1, 1)
    assert json.loads(base64.b64decode(taken(broker, fleet)["body"]))[0] == [job.uid]
    assert not reconcile_once(fleet.database, fleet.clock, settings, publisher=publisher)


def test_after_an_outage_one_pass_follows_another_until_the_outbox_is_empty(
    broker: RedisBroker, fleet: Fleet, publisher: Publisher, settings: ControlSettings
):
    # Given more jobs than the reconciler reads at once, made while the broker is away
    uids = waiting(fleet, 4100)
    broker.stop(kill=True)
    fleet.clock.advance(timedelta(seconds=3))
    gone = reconcile_once(fleet.database, fleet.clock, settings, publisher=publisher)
    assert (gone.published, gone.has_more) == (0, False)
    # When it is back, and leases must be looked at again at once
    broker.start()
    hurried = settings.model_copy(update={"reconcile_seconds": 1e-6})
    first = reconcile_once(fleet.database, fleet.clock, hurried, publisher=publisher)
    # Then one batch goes, and the next pass, which has time, sends all that is left
    assert (first.published, first.has_more) == (2000, True)
    patient = settings.model_copy(update={"reconcile_seconds": 600})
    second = reconcile_once(fleet.database, fleet.clock, patient, publisher=publisher)
    assert (second.published, second.has_more) == (2100, False)
    assert broker.length(queue_name(fleet.gateway_uid)) == len(uids)
    assert not reconcile_once(fleet.database, fleet.clock, patient, publisher=publisher)

"""What every sink owes the log, against real receivers: a file, Debian's rsyslogd, an HTTP collector."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from pam_jobs.audit.delivery import BATCH, serve_once
from pam_jobs.audit.sealing import seal_once
from pam_jobs.clock import VirtualClock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import AuditEvent, SiemSink
from tests.support.audit import add_sink, new_clock, new_keys, read_sink, write_events, write_sealed
from tests.support.receivers import KINDS, Receiver, make_receiver

pytestmark = pytest.mark.contract

NETWORK_KINDS = [kind for kind in KINDS if kind != "json"]


@pytest.fixture
def clock() -> VirtualClock:
    return new_clock()


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return new_keys(tmp_path)


@pytest.fixture(params=KINDS)
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    receiver = make_receiver(request.param, tmp_path / "receiver")
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture
def sink_uid(database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver) -> str:
    return add_sink(database, clock, keys, receiver.kind, receiver.settings, receiver.token)


def positions(receiver: Receiver, at_least: int) -> list[int]:
    return [body["position"] for body in receiver.bodies(at_least)]


def without_repeats(positions: list[int]) -> list[int]:
    return list(dict.fromkeys(positions))


def test_events_arrive_in_the_order_of_the_log_with_all_their_members(
    database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver, sink_uid: str
) -> None:
    records = write_sealed(database, clock, 20)

    assert serve_once(database, keys, clock) == 21  # setting the sink up is an event too

    bodies = receiver.bodies(21)
    assert [body["position"] for body in bodies] == list(range(1, 22))
    assert [body["audit_event"] for body in bodies] == ["audit_sync_setup"] + ["record_update"] * 20
    assert [body["record_uid"] for body in bodies[1:]] == records
    assert bodies[1] == {
        "audit_event": "record_update",
        "category": "usage",
        "timestamp": "2025-03-01T12:00:00.123Z",
        "username": "alice",
        "remote_address": "192.0.2.7",
        "client_version": "pam-jobs/0.1.0",
        "enterprise_id": bodies[0]["enterprise_id"],
        "event_uid": bodies[1]["event_uid"],
        "position": 2,
        "record_uid": records[0],
    }
    assert len({body["event_uid"] for body in bodies}) == 21


def test_what_was_delivered_is_not_delivered_again(
    database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver, sink_uid: str
) -> None:
    write_sealed(database, clock, 3)
    serve_once(database, keys, clock)
    assert serve_once(database, keys, clock) == 0
    write_sealed(database, clock, 2)
    assert serve_once(database, keys, clock) == 2
    assert positions(receiver, 6) == [1, 2, 3, 4, 5, 6]
    assert read_sink(database, sink_uid).cursor == 6
    assert read_sink(database, sink_uid).last_delivered_at == clock.now()


def test_an_event_that_is_not_ordered_yet_waits(
    database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver, sink_uid: str
) -> None:
    write_events(database, clock, 2)
    assert serve_once(database, keys, clock) == 0
    seal_once(database, clock)
    assert serve_once(database, keys, clock) == 3


def test_a_long_log_goes_out_in_several_batches_of_one_call(
    database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver, sink_uid: str
) -> None:
    count = 2 * BATCH + 7
    with database.transaction() as session:
        session.add_all(
            AuditEvent(uid=f"{number:022}", event="open_record", created_at=clock.now(), username="alice", fields={})
            for number in range(count)
        )
    seal_once(database, clock)
    assert serve_once(database, keys, clock) == count + 1
    assert positions(receiver, count + 1) == list(range(1, count + 2))


def test_delivery_goes_on_after_an_outage_where_it_stopped(
    database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver, sink_uid: str
) -> None:
    write_sealed(database, clock, 3)
    serve_once(database, keys, clock)
    assert positions(receiver, 4) == [1, 2, 3, 4]

    # When the receiver is away for three tries
    receiver.stop()
    write_sealed(database, clock, 5)
    for tries in (1, 2, 3):
        assert serve_once(database, keys, clock) == 0
        sink = read_sink(database, sink_uid)
        assert (sink.failures, sink.cursor) == (tries, 4)
        assert sink.last_error
        assert sink.next_try_at is not None
        assert serve_once(database, keys, clock) == 0  # and is not asked again before its time
        assert read_sink(database, sink_uid).failures == tries
        clock.advance(timedelta(minutes=6))
        seal_once(database, clock)

    # Then it gets everything it missed, in order, and the log tells of the outage once
    receiver.start()
    assert serve_once(database, keys, clock) == 6
    seal_once(database, clock)
    assert serve_once(database, keys, clock) == 1
    bodies = receiver.bodies(11)
    assert without_repeats([body["position"] for body in bodies]) == list(range(1, 12))
    names = [body["audit_event"] for body in bodies]
    assert names[9:] == ["audit_sync_failed", "audit_sync_restored"]
    sink = read_sink(database, sink_uid)
    assert (sink.failures, sink.last_error, sink.next_try_at) == (0, None, None)


def test_a_crash_before_the_cursor_moved_repeats_the_batch_and_loses_nothing(
    database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver, sink_uid: str
) -> None:
    write_sealed(database, clock, 4)
    serve_once(database, keys, clock)
    with database.transaction() as session:  # what a crash right after the delivery leaves behind
        session.execute(update(SiemSink).values(cursor=2, next_try_at=clock.now() + timedelta(seconds=120)))
    write_sealed(database, clock, 2)
    assert serve_once(database, keys, clock) == 0  # its claim still stands
    clock.advance(timedelta(seconds=121))
    assert serve_once(database, keys, clock) == 5
    arrived = positions(receiver, 10)
    assert arrived == [1, 2, 3, 4, 5, 3, 4, 5, 6, 7]
    assert without_repeats(arrived) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("receiver", NETWORK_KINDS, indirect=True)
def test_a_receiver_that_dies_in_a_batch_gets_the_batch_again(
    database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver, sink_uid: str
) -> None:
    write_sealed(database, clock, 40)
    receiver.die_in_next_batch()

    assert serve_once(database, keys, clock) == 0
    assert read_sink(database, sink_uid).cursor == 0

    receiver.stop()
    receiver.start()
    clock.advance(timedelta(minutes=6))
    assert serve_once(database, keys, clock) == 41
    arrived = positions(receiver, 41)
    assert without_repeats(arrived) == list(range(1, 42))
    assert arrived[-41:] == list(range(1, 42))  # the repeated batch is whole and in order


def test_two_processes_do_not_serve_one_sink_at_once(
    database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver, sink_uid: str
) -> None:
    write_sealed(database, clock, BATCH + 30)
    others = [Database(database.engine.url.render_as_string(hide_password=False)) for _ in range(2)]
    taken: list[int] = []
    threads = [
        threading.Thread(target=lambda other=other: taken.append(serve_once(other, keys, clock))) for other in others
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.dispose()
    assert sum(taken) == BATCH + 31
    assert positions(receiver, BATCH + 31) == list(range(1, BATCH + 32))


def test_a_paused_sink_gets_nothing_and_then_everything(
    database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver, sink_uid: str
) -> None:
    with database.transaction() as session:
        session.scalars(select(SiemSink)).one().paused = True
    write_sealed(database, clock, 3)
    assert serve_once(database, keys, clock) == 0
    with database.transaction() as session:
        session.scalars(select(SiemSink)).one().paused = False
    assert serve_once(database, keys, clock) == 4
    assert positions(receiver, 4) == [1, 2, 3, 4]


def test_a_sick_sink_delays_no_other(
    database: Database, clock: VirtualClock, keys: KeyStore, receiver: Receiver, sink_uid: str, tmp_path: Path
) -> None:
    nowhere = tmp_path / "no-such-folder" / "audit.jsonl"
    with database.transaction() as session:
        session.add(
            SiemSink(
                uid="A" * 22, name="a first one", kind="json", settings={"path": str(nowhere)}, created_at=clock.now()
            )
        )
        session.add(SiemSink(uid="B" * 22, name="an unknown one", kind="pigeon", settings={}, created_at=clock.now()))
    write_sealed(database, clock, 3)
    assert serve_once(database, keys, clock) == 4
    assert positions(receiver, 4) == [1, 2, 3, 4]
    assert read_sink(database, "A" * 22).failures == 1
    assert "pigeon" in (read_sink(database, "B" * 22).last_error or "")

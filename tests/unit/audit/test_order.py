from __future__ import annotations

import contextlib
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from pam_jobs.audit import sealing
from pam_jobs.audit.log import record_event
from pam_jobs.audit.query import EventFilter, head, read_page, unsealed
from pam_jobs.audit.sealing import seal_once
from pam_jobs.clock import VirtualClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import AuditEvent
from pam_jobs.errors import InvalidInput
from pam_jobs.ids import new_uid
from tests.support.audit import ALICE, START, new_clock, write_events, write_sealed

pytestmark = pytest.mark.unit


@pytest.fixture
def clock() -> VirtualClock:
    return new_clock()


def log(database: Database) -> list[tuple[int | None, str]]:
    with database.transaction(read_only=True) as session:
        rows = session.scalars(select(AuditEvent).order_by(AuditEvent.position)).all()
        return [(row.position, row.fields["record_uid"]) for row in rows]


def test_positions_are_consecutive_and_in_the_order_of_writing(database: Database, clock: VirtualClock) -> None:
    first = write_events(database, clock, 3)
    assert seal_once(database, clock) == 3
    assert seal_once(database, clock) == 0
    second = write_events(database, clock, 2)
    assert seal_once(database, clock) == 2
    assert log(database) == list(enumerate(first + second, start=1))


def test_an_event_that_commits_late_is_ordered_after_those_before_it(database: Database, clock: VirtualClock) -> None:
    if database.is_sqlite:
        # one writer at a time: nothing commits late there
        write_events(database, clock, 1)
        assert seal_once(database, clock) == 1
        return
    early = new_uid()
    with database.transaction() as open_transaction:
        record_event(open_transaction, clock, ALICE, "record_add", record_uid=early)
        open_transaction.flush()  # it has its number now, and is not committed
        others = write_events(database, clock, 2)
        assert seal_once(database, clock) == 2
    assert seal_once(database, clock) == 1
    assert log(database) == list(enumerate([*others, early], start=1))


def test_an_undone_change_leaves_no_gap(database: Database, clock: VirtualClock) -> None:
    write_events(database, clock, 1)
    with contextlib.suppress(RuntimeError), database.transaction() as session:
        record_event(session, clock, ALICE, "record_add", record_uid="undone")
        session.flush()
        raise RuntimeError
    write_events(database, clock, 1)
    seal_once(database, clock)
    assert [position for position, _ in log(database)] == [1, 2]


def test_two_sealers_give_each_event_one_position(
    database: Database, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_BATCH", 7)
    uids = write_events(database, clock, 60)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(seal_once(database, clock))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seal_once(database, clock)
    assert log(database) == list(enumerate(uids, start=1))


def test_pages_follow_each_other(database: Database, clock: VirtualClock) -> None:
    uids = write_sealed(database, clock, 5)
    found: list[str] = []
    after: int | None = 0
    with database.transaction(read_only=True) as session:
        while after is not None:
            page = read_page(session, EventFilter(), after_position=after, limit=2)
            found += [row.fields["record_uid"] for row in page.events]
            after = page.next_position
        newest = read_page(session, EventFilter(), limit=2, newest=True)
    assert found == uids
    assert [row.fields["record_uid"] for row in newest.events] == uids[-2:]


def test_filters_narrow_the_page(database: Database, clock: VirtualClock) -> None:
    first = write_sealed(database, clock, 2)
    clock.advance(timedelta(hours=1))
    with database.transaction() as session:
        record_event(session, clock, ALICE, "open_record", record_uid=first[0])
    seal_once(database, clock)

    def positions(**wanted: object) -> list[int | None]:
        with database.transaction(read_only=True) as session:
            return [row.position for row in read_page(session, EventFilter(**wanted)).events]

    assert positions(record_uid=first[0]) == [1, 3]
    assert positions(event="open_record") == [3]
    assert positions(username="bob") == []
    assert positions(created_from=START + timedelta(minutes=1)) == [3]
    assert positions(created_to=START + timedelta(minutes=1)) == [1, 2]
    assert positions(created_from=START, created_to=START) == []


def test_head_and_backlog(database: Database, clock: VirtualClock) -> None:
    write_sealed(database, clock, 2)
    write_events(database, clock, 3)
    with database.transaction(read_only=True) as session:
        assert (head(session), unsealed(session)) == (2, 3)


@pytest.mark.parametrize("limit", [0, 1001])
def test_a_page_has_a_size(sqlite_database: Database, limit: int) -> None:
    with pytest.raises(InvalidInput), sqlite_database.transaction(read_only=True) as session:
        read_page(session, EventFilter(), limit=limit)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidInput, match="zone"):
        EventFilter(created_from=START.replace(tzinfo=None))

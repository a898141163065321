from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import bindparam, event, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import AuditEvent, Schedule
from pam_jobs.ids import new_uid

NOON = datetime(2026, 3, 2, 12, 0, 0, 123456, tzinfo=UTC)
EVENTS, SCHEDULES = table_of(AuditEvent), table_of(Schedule)
HOSTILE = "a'b\"c\\d;$1 :rows %s %(x)s ? \u202e \U0001d4b3 \x01 \n"
ADD = insert(EVENTS).returning(*EVENTS.c)
FIND = select(EVENTS).where(EVENTS.c.uid == bindparam("uid"))
RENAME = update(EVENTS).where(EVENTS.c.uid == bindparam("which"), EVENTS.c.event.in_(("a", "b")))
EARLIER = (
    select(func.count(), EVENTS.c.created_at)
    .where(EVENTS.c.created_at <= bindparam("at", type_=EVENTS.c.created_at.type))
    .group_by(EVENTS.c.created_at)
)


def row(**changes: object) -> dict[str, Any]:
    made: dict[str, Any] = {
        "uid": new_uid(), "event": "a", "created_at": NOON, "username": HOSTILE, "remote_address": None,
        "client_version": None, "fields": {"n": 1, "s": HOSTILE, "none": None},
    }  # fmt: skip
    return made | changes


def test_rows_are_as_the_session_itself_gives_them(database: Database) -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-8)))
    wanted = row(created_at=elsewhere)
    with database.transaction() as session:
        added = prepared.row(session, ADD, wanted)
        found = prepared.row(session, FIND, {"uid": wanted["uid"]})
        stored = session.execute(FIND, {"uid": wanted["uid"]}).one()
        assert added is not None
        assert tuple(added) == tuple(found or ()) == tuple(stored)
        assert (added.username, added.fields, added.created_at) == (HOSTILE, wanted["fields"], NOON)
        assert [tuple(each) for each in prepared.rows(session, EARLIER, {"at": NOON})] == [(1, NOON)]
        assert prepared.row(session, FIND, {"uid": "nobody"}) is None
        assert prepared.scalar(session, FIND, {"uid": wanted["uid"]}) == added[0]


def test_changes_are_counted_and_are_the_transactions_own(database: Database) -> None:
    wanted = row()
    with database.transaction() as session:
        prepared.run(session, ADD, wanted)
        assert prepared.run(session, RENAME, {"which": wanted["uid"], "event": "c"}) == 1
        assert prepared.run(session, RENAME, {"which": wanted["uid"], "event": "d"}) == 0
        session.rollback()
    with database.transaction() as session:
        assert prepared.row(session, FIND, {"uid": wanted["uid"]}) is None


def test_objects_that_were_changed_come_first(database: Database) -> None:
    with database.transaction() as session:
        session.add(AuditEvent(**row(uid="u" * 22)))
        assert prepared.row(session, FIND, {"uid": "u" * 22}) is not None


def test_a_refusal_is_told_as_ever_and_without_the_values(database: Database) -> None:
    wanted = row()
    with database.transaction() as session:
        prepared.run(session, ADD, wanted)
        with pytest.raises(IntegrityError) as raised:
            prepared.run(session, ADD, wanted)
        session.rollback()
    assert "INSERT INTO" in str(raised.value)
    assert HOSTILE not in str(raised.value)
    with database.transaction() as session:
        assert prepared.row(session, FIND, {"uid": wanted["uid"]}) is None


def test_who_listens_to_statements_hears_them(database: Database) -> None:
    heard: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        heard.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        with database.transaction() as session:
            wanted = row()
            added = prepared.row(session, ADD, wanted)
            assert added is not None
            assert prepared.row(session, FIND, {"uid": wanted["uid"]}) == added
            assert prepared.run(session, RENAME, {"which": wanted["uid"], "event": "b"}) == 1
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert [text.split()[0] for text in heard if text.split()[0] != "BEGIN"][-3:] == ["INSERT", "SELECT", "UPDATE"]


def test_a_list_of_any_length_and_a_default_of_ours_are_refused(database: Database) -> None:
    listed = select(EVENTS.c.uid).where(EVENTS.c.uid.in_(bindparam("uids", expanding=True)))
    with database.transaction() as session:
        with pytest.raises(TypeError, match="among"):
            prepared.rows(session, listed, {"uids": ["a"]})
        with pytest.raises(TypeError, match="default"):
            prepared.run(session, insert(table_with_default()), {"uid": "a"})


def table_with_default() -> Any:
    from pam_jobs.db.tables import Job

    return table_of(Job)

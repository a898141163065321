from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from pam_jobs.db.base import table_of
from pam_jobs.db.engine import Database
from pam_jobs.db.many import ManyInsert, ManyUpdate, among
from pam_jobs.db.tables import AuditEvent, Schedule
from pam_jobs.ids import new_uid

NOON = datetime(2026, 3, 2, 12, 0, 0, 123456, tzinfo=UTC)
TABLE = table_of(Schedule)
NAMES = ("uid", "kind", "subject_uid", "spec", "anchor_at", "next_run_at", "paused", "moved_by")
HOSTILE = "a'b\"c\\d;$1 :rows %s \u202e \U0001d4b3 \x01 \n"


def row(**changes: object) -> dict[str, object]:
    made = {
        "uid": new_uid(), "kind": "rotate", "subject_uid": new_uid(), "spec": "[]", "anchor_at": NOON,
        "next_run_at": None, "paused": False, "moved_by": None,
    }  # fmt: skip
    return made | changes


def stored(database: Database) -> dict[str, Schedule]:
    with database.transaction(read_only=True) as session:
        return {found.uid: found for found in session.scalars(select(Schedule))}


def test_rows_come_back_as_any_other_way_of_writing_would_have_stored_them(database: Database) -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-8)))
    rows = [row(spec=HOSTILE), row(next_run_at=elsewhere, paused=True), row(next_run_at=NOON.replace(microsecond=0))]
    with database.transaction() as session:
        ManyInsert(TABLE, NAMES).run(session, rows)
        uids = [row["uid"] for row in rows]
        due = session.scalars(select(Schedule.uid).where(Schedule.next_run_at == NOON, Schedule.paused.is_(True))).all()

    assert due == [uids[1]]
    found = [stored(database)[str(uid)] for uid in uids]
    assert [each.spec for each in found] == [HOSTILE, "[]", "[]"]
    assert [each.next_run_at for each in found] == [None, NOON, NOON.replace(microsecond=0)]
    assert [each.paused for each in found] == [False, True, False]


def test_documents_in_a_column_stay_documents(database: Database) -> None:
    fields = {"record_uid": "r", "count": 3, "is": True, "text": HOSTILE, "in": {"a": [1]}}
    names = ("uid", "event", "created_at", "username", "fields")
    event = {"uid": new_uid(), "event": "e", "created_at": NOON, "username": "beat", "fields": fields}
    with database.transaction() as session:
        ManyInsert(table_of(AuditEvent), names).run(session, [event])
    with database.transaction(read_only=True) as session:
        [found] = session.scalars(select(AuditEvent))
        assert session.scalar(select(AuditEvent.fields["count"].as_integer())) == 3
    assert (found.fields, found.created_at, found.id > 0) == (fields, NOON, True)


def test_a_row_that_stands_already_is_left_out_or_refused_as_asked(database: Database) -> None:
    known, new = row(), row()
    with database.transaction() as session:
        ManyInsert(TABLE, NAMES).run(session, [known])
        added = ManyInsert(TABLE, NAMES, ignoring=True, returning="uid").run(session, [known | {"spec": "x"}, new])
        assert list(added.scalars()) == [new["uid"]]
    assert stored(database)[str(known["uid"])].spec == "[]"
    with pytest.raises(IntegrityError), database.transaction() as session:
        ManyInsert(TABLE, NAMES).run(session, [known])


def test_each_row_is_changed_to_its_own_values_and_no_other_row_is(database: Database) -> None:
    first, second, third = row(), row(moved_by="c"), row(spec="keep")
    with database.transaction() as session:
        ManyInsert(TABLE, NAMES).run(session, [first, second, third])
        update = ManyUpdate(TABLE, "uid", ("next_run_at", "moved_by"))
        values = [
            {"uid": first["uid"], "next_run_at": NOON, "moved_by": None},
            {"uid": second["uid"], "next_run_at": None, "moved_by": "d"},
            {"uid": "gone", "next_run_at": NOON, "moved_by": None},
        ]
        assert update.run(session, values) == 2
    found = stored(database)
    assert [(found[str(each["uid"])].next_run_at, found[str(each["uid"])].moved_by) for each in (first, second, third)] == [
        (NOON, None), (None, "d"), (None, None),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [NOON.replace(tzinfo=None), b"bytes", object()])
def test_a_value_without_a_certain_form_is_refused(sqlite_database: Database, value: object) -> None:
    with pytest.raises(TypeError, match="no form in JSON"), sqlite_database.transaction() as session:
        ManyInsert(TABLE, NAMES).run(session, [row(next_run_at=value)])


def test_a_condition_finds_the_rows_of_as_many_values_as_there_are(database: Database) -> None:
    rows = [row(spec=HOSTILE), row(spec='["x"]'), row(spec="")]
    wanted = select(Schedule.uid).where(among(Schedule.spec, "specs"), Schedule.paused.is_(False))
    with database.transaction() as session:
        ManyInsert(TABLE, NAMES).run(session, rows)
        for specs in ([HOSTILE, "", "other"], ['["x"]'], ["other"], []):
            found = set(session.scalars(wanted, {"specs": specs}))
            assert found == {row["uid"] for row in rows if row["spec"] in specs}

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update

from pam_jobs.clock import VirtualClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import Job, JobState, MissedRuns, OutboxMessage, Schedule
from pam_jobs.errors import InvalidInput, StateError
from pam_jobs.rotation import calendars, configurations
from pam_jobs.rotation.configurations import Changes
from pam_jobs.rotation.reasons import reasons
from scheduler import due
from tests.support.fleet import NOON, OPERATOR, Fleet, cron, new_fleet

pytestmark = pytest.mark.unit

NIGHT = {"type": "WEEKLY", "from": "22:00", "to": "06:00",
         "weekdays": ["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"]}  # fmt: skip
AFTERNOON = {**NIGHT, "from": "12:30", "to": "16:00"}


def calendar(fleet: Fleet, *periods: dict[str, Any], tz: str = "Etc/UTC", name: str = "freeze") -> str:
    with fleet.database.transaction() as session:
        return calendars.create(session, fleet.clock, OPERATOR, name=name, tz=tz, periods=periods).uid


def configure(fleet: Fleet, **changes: Any) -> None:
    with fleet.database.transaction() as session:
        configurations.change(
            session, fleet.clock, OPERATOR, fleet.configuration_uid, Changes(**changes), minimum_seconds=0
        )


def tick(fleet: Fleet, **later: float) -> list[str]:
    fleet.clock.advance(timedelta(**later))
    return due.tick(fleet.database, fleet.clock)


def finish(fleet: Fleet) -> None:
    with fleet.database.transaction() as session:
        session.execute(update(Job).values(state=JobState.SUCCEEDED))
        session.execute(delete(OutboxMessage))


def row(fleet: Fleet, record: str) -> Schedule:
    found = fleet.row(record)
    assert found is not None
    return found


def why(fleet: Fleet, record: str) -> list[str]:
    with fleet.database.transaction(read_only=True) as session:
        found = row(fleet, record)
        return reasons(session, [found])[found.uid]


def runs(fleet: Fleet, until: datetime) -> list[datetime]:
    """Let beat run on the virtual clock, with every job ending at once, and return when jobs were made."""
    seen = []
    while (moment := due.next_due(fleet.database)) is not None and moment < until:
        fleet.clock.advance(max(moment - fleet.clock.now(), timedelta(0)))
        if due.tick(fleet.database, fleet.clock):
            seen.append(moment)
            finish(fleet)
    return seen


def hours(moments: Sequence[datetime]) -> list[str]:
    return [moment.strftime("%d %H:%M") for moment in moments]


def test_runs_inside_a_blackout_become_one_at_its_end(fleet: Fleet) -> None:
    record = fleet.scheduled()
    uid = calendar(fleet, AFTERNOON)
    configure(fleet, blackouts=[uid])

    assert why(fleet, record) == [
        "planned for 2026-03-02 13:00:00 UTC, moved to 2026-03-02 16:00:00 UTC by the calendar 'freeze'"
    ]
    assert hours(runs(fleet, NOON + timedelta(hours=6))) == ["02 16:00", "02 17:00"]
    first = fleet.jobs()[0]
    assert (first.planned_at, first.due_at, first.moved_by) == (
        NOON + timedelta(hours=1), NOON + timedelta(hours=4), uid
    )  # fmt: skip
    [told] = fleet.events("pam_run_moved")
    assert (told.fields["calendar_uid"], told.fields["job_uid"]) == (uid, first.uid)
    assert told.fields["planned_at"] == "2026-03-02T13:00:00+00:00"


def test_runs_outside_the_windows_wait_for_the_next_one(fleet: Fleet) -> None:
    fleet.scheduled(cron("15 */6 * * *"))  # 00:15, 06:15, 12:15, 18:15
    configure(fleet, windows=[calendar(fleet, NIGHT)])
    assert hours(runs(fleet, NOON + timedelta(days=2))) == ["02 22:00", "03 00:15", "03 22:00", "04 00:15"]


def test_a_blackout_inside_a_window_pushes_to_what_is_left_of_it(fleet: Fleet) -> None:
    fleet.scheduled(cron("0 23 * * *"))
    once = {"type": "ONCE", "from": "2026-03-02T20:00", "to": "2026-03-03T03:00"}
    configure(fleet, windows=[calendar(fleet, NIGHT, name="nights")], blackouts=[calendar(fleet, once)])
    assert hours(runs(fleet, NOON + timedelta(days=2))) == ["03 03:00", "03 23:00"]


@pytest.mark.parametrize(
    ("tz", "start", "expected"),
    [
        ("Europe/Berlin", datetime(2026, 3, 27, 12, tzinfo=UTC), ["28 05:00", "29 04:00", "30 04:00"]),
        ("Europe/Berlin", datetime(2026, 10, 23, 12, tzinfo=UTC), ["24 04:00", "25 05:00", "26 05:00"]),
        ("Australia/Sydney", datetime(2026, 4, 3, 0, tzinfo=UTC), ["03 19:00", "04 20:00", "05 20:00"]),
        ("Australia/Sydney", datetime(2026, 10, 2, 0, tzinfo=UTC), ["02 20:00", "03 19:00", "04 19:00"]),
    ],
)
def test_a_night_of_blackout_ends_by_the_clock_on_the_wall(
    sqlite_database: Database, tz: str, start: datetime, expected: list[str]
) -> None:
    fleet = new_fleet(sqlite_database, VirtualClock(start))
    fleet.scheduled(cron("30 2 * * *", tz))
    configure(fleet, blackouts=[calendar(fleet, NIGHT, tz=tz)])
    assert hours(runs(fleet, start + timedelta(days=3))) == expected


def test_a_run_that_is_late_is_held_when_a_blackout_has_begun(fleet: Fleet) -> None:
    record = fleet.scheduled(cron("0 21 * * *"))
    configure(fleet, blackouts=[uid := calendar(fleet, NIGHT)])
    assert tick(fleet, hours=11) == []  # no beat was there at nine; it is eleven
    held = row(fleet, record)
    assert (held.next_run_at, held.planned_at, held.moved_by) == (
        NOON + timedelta(hours=18), NOON + timedelta(hours=9), uid
    )  # fmt: skip
    assert held.last_due_at is None
    assert len(tick(fleet, hours=7)) == 1


def test_a_run_is_freed_when_the_blackout_is_taken_away(fleet: Fleet) -> None:
    record = fleet.scheduled()
    uid = calendar(fleet, AFTERNOON)
    configure(fleet, blackouts=[uid])
    assert tick(fleet, hours=2) == []
    with fleet.database.transaction() as session:
        calendars.change(session, fleet.clock, OPERATOR, uid, periods=[{**AFTERNOON, "to": "13:30"}])
    assert row(fleet, record).next_run_at == fleet.clock.now()
    assert len(tick(fleet)) == 1
    assert row(fleet, record).next_run_at == NOON + timedelta(hours=3)


def test_a_blackout_that_leaves_no_time_is_refused(fleet: Fleet) -> None:
    always = calendar(fleet, {**NIGHT, "from": "00:00", "to": "24:00"})
    gone = calendar(fleet, {"type": "ONCE", "from": "2026-01-01T00:00", "to": "2026-01-02T00:00"}, name="gone")
    for changes in ({"blackouts": [always]}, {"windows": [gone]}):
        with pytest.raises(InvalidInput, match="no time to run"):
            configure(fleet, **changes)
    with pytest.raises(InvalidInput, match="both a window and a blackout"):
        configure(fleet, windows=[always], blackouts=[always])
    configure(fleet, windows=[always])
    with fleet.database.transaction() as session, pytest.raises(InvalidInput, match="no time to run"):
        calendars.change(
            session, fleet.clock, OPERATOR, always,
            periods=[{"type": "ONCE", "from": "2026-01-01T00:00", "to": "2026-01-02T00:00"}],
        )  # fmt: skip


def test_a_calendar_in_use_stays(fleet: Fleet) -> None:
    uid = calendar(fleet, AFTERNOON)
    configure(fleet, blackouts=[uid])
    with fleet.database.transaction() as session, pytest.raises(StateError, match="is used by 1 PAM"):
        calendars.remove(session, fleet.clock, OPERATOR, uid)
    configure(fleet, blackouts=[])
    with fleet.database.transaction() as session:
        calendars.remove(session, fleet.clock, OPERATOR, uid)
    assert [len(fleet.events(f"pam_calendar_{word}")) for word in ("created", "removed")] == [1, 1]


def test_windows_that_are_over_hold_what_is_left_and_say_so(fleet: Fleet) -> None:
    record = fleet.scheduled()
    uid = calendar(fleet, {"type": "ONCE", "from": "2026-03-02T12:00", "to": "2026-03-02T13:30"})
    configure(fleet, windows=[uid])
    assert len(tick(fleet, hours=1)) == 1
    assert row(fleet, record).next_run_at is None
    assert "leave no time for it" in why(fleet, record)[0]
    with fleet.database.transaction() as session:
        calendars.change(session, fleet.clock, OPERATOR, uid, periods=[AFTERNOON])
    assert row(fleet, record).next_run_at == NOON + timedelta(hours=2)


def test_jitter_spreads_within_its_limit_and_alike_for_every_beat(fleet: Fleet) -> None:
    records = [fleet.scheduled() for _ in range(12)]
    configure(fleet, jitter_seconds=600)
    first = [row(fleet, record).next_run_at for record in records]
    offsets = [moment - NOON - timedelta(hours=1) for moment in first if moment is not None]
    assert all(timedelta(0) <= offset <= timedelta(seconds=600) for offset in offsets)
    assert len(set(offsets)) > 6
    configure(fleet, jitter_seconds=600)
    assert [row(fleet, record).next_run_at for record in records] == first
    configure(fleet, jitter_seconds=0)
    assert {row(fleet, record).next_run_at for record in records} == {NOON + timedelta(hours=1)}


def test_jitter_stays_before_the_next_run_and_inside_the_window(fleet: Fleet) -> None:
    often = [fleet.scheduled(cron("*/5 * * * *")) for _ in range(6)]
    configure(fleet, jitter_seconds=86_400, windows=[calendar(fleet, {**NIGHT, "from": "12:00", "to": "12:07"})])
    for record in often:
        moment = row(fleet, record).next_run_at
        assert moment is not None
        assert NOON + timedelta(minutes=5) <= moment < NOON + timedelta(minutes=7)
    configure(fleet, windows=[])
    for record in often:
        moment = row(fleet, record).next_run_at
        assert moment is not None
        assert NOON + timedelta(minutes=5) <= moment < NOON + timedelta(minutes=10)


def test_a_run_that_comes_too_late_is_left_out_by_policy(fleet: Fleet) -> None:
    record = fleet.scheduled()
    configure(fleet, missed_runs=MissedRuns.SKIP, missed_grace_seconds=600)
    assert tick(fleet, hours=1, minutes=11) == []
    skipped = row(fleet, record)
    assert (skipped.next_run_at, skipped.blocked) == (NOON + timedelta(hours=2), "missed")
    assert "was left out" in why(fleet, record)[0]
    [told] = fleet.events("pam_run_skipped")
    assert told.fields["schedule_uid"] == skipped.uid
    assert len(tick(fleet, minutes=59)) == 1  # ten minutes late: within the grace
    assert row(fleet, record).blocked is None

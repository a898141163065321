from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from pam_jobs.clock import VirtualClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import JobKind, MissedRuns, RotationSettings, Schedule
from pam_jobs.rotation import calendars, configurations, pausing, schedules
from pam_jobs.rotation.configurations import Changes
from pam_jobs.rotation.forecast import forecast
from pam_jobs.rotation.preview import Preview, preview
from scheduler.simulate import simulate
from tests.support.fleet import EVERY_HOUR, NOON, OPERATOR, Fleet, cron, new_fleet

pytestmark = pytest.mark.simulation

ZONES = st.sampled_from(["Etc/UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
TIMES = st.times().map(lambda at: at.replace(microsecond=0, tzinfo=None).isoformat())
COUNTS = st.integers(1, 5)
ENTRIES = st.one_of(
    st.builds(lambda minute, every: {"type": "HOURLY", "minute": minute, "second": 0, "intervalCount": every},
              st.integers(0, 59), COUNTS),
    st.builds(lambda at, tz, every: {"type": "DAILY", "time": at, "tz": tz, "intervalCount": every},
              TIMES, ZONES, COUNTS),
    st.builds(lambda at, tz, day: {"type": "WEEKLY", "weekday": day, "time": at, "tz": tz, "intervalCount": 1},
              TIMES, ZONES, st.sampled_from(["SUNDAY", "MONDAY"])),
    st.builds(lambda minute, hour, tz: cron(f"{minute} {hour} * * *", tz)[0],
              st.integers(0, 59), st.sampled_from(["*/4", "1,2,3", "2"]), ZONES),
    st.builds(lambda day, tz: {"type": "RUN_ONCE", "time": f"2026-03-{day:02}T02:30:00", "tz": tz},
              st.integers(26, 31), ZONES),
)  # fmt: skip


def previewed(fleet: Fleet, start: datetime, until: datetime, *, limit: int = 10_000) -> Preview:
    with fleet.database.transaction(read_only=True) as session:
        return preview(session, start, until, limit=limit)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    schedule_lists=st.lists(st.lists(ENTRIES, min_size=1, max_size=2), min_size=1, max_size=4),
    offset=st.integers(0, 72 * 60),
)
def test_the_preview_is_what_the_scheduler_does(
    sqlite_database: Database, schedule_lists: list[list[dict[str, object]]], offset: int
) -> None:
    start = datetime(2026, 3, 25, tzinfo=UTC)
    with sqlite_database.transaction() as session:
        session.connection().exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        for table in reversed(Schedule.metadata.sorted_tables):
            session.execute(table.delete())
    fleet = new_fleet(sqlite_database, VirtualClock(start))
    for entries in schedule_lists:
        fleet.scheduled(entries)
    begin = start + timedelta(minutes=offset)  # some runs are overdue by then
    until = begin + timedelta(days=6)

    told = previewed(fleet, begin, until)
    seen = simulate(fleet.database, begin, until, limit=10_000)

    assert list(told.runs) == seen
    assert told.is_complete


def test_a_simulation_leaves_the_real_table_alone(database: Database) -> None:
    fleet = new_fleet(database)
    record = fleet.scheduled()
    runs = simulate(fleet.database, NOON, NOON + timedelta(days=1, seconds=1), limit=100)
    assert [run.due_at for run in runs] == [NOON + timedelta(hours=hour) for hour in range(1, 25)]
    assert {(run.subject_uid, run.gateway_uid) for run in runs} == {(record, fleet.gateway_uid)}
    assert fleet.jobs() == []
    row = fleet.row(record)
    assert row is not None
    assert row.next_run_at == NOON + timedelta(hours=1)


def test_both_stop_at_their_cap(sqlite_database: Database) -> None:
    fleet = new_fleet(sqlite_database)
    fleet.scheduled()
    until = NOON + timedelta(days=30)
    assert len(simulate(fleet.database, NOON, until, limit=10)) == 10
    told = previewed(fleet, NOON, until, limit=10)
    assert (len(told.runs), told.is_complete) == (10, False)


def test_discovery_is_previewed_too(sqlite_database: Database) -> None:
    fleet = new_fleet(sqlite_database)
    with fleet.database.transaction() as session:
        schedules.keep(
            session, fleet.clock, kind=JobKind.DISCOVER, subject_uid=fleet.configuration_uid,
            spec=schedules.checked(EVERY_HOUR, clock=fleet.clock, minimum_seconds=0).to_json(), paused=False,
        )  # fmt: skip
    until = NOON + timedelta(hours=3, minutes=1)
    told = previewed(fleet, NOON, until)
    assert list(told.runs) == simulate(fleet.database, NOON, until, limit=10)
    assert len(told.runs) == 3
    assert told.runs[0].gateway_uid == fleet.gateway_uid


def test_a_schedule_that_is_no_longer_valid_is_previewed_up_to_its_last_run(sqlite_database: Database) -> None:
    fleet = new_fleet(sqlite_database)
    record = fleet.scheduled()
    with fleet.database.transaction() as session:
        session.execute(update(Schedule).values(spec='[{"type":"DAILY","time":"02:00:00","tz":"Atlantis/Capital"}]'))
    told = previewed(fleet, NOON, NOON + timedelta(days=30))
    assert [(run.subject_uid, run.due_at) for run in told.runs] == [(record, NOON + timedelta(hours=1))]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana"])
def test_a_nightly_rotation_runs_once_a_night_all_year(sqlite_database: Database, zone: str) -> None:
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    fleet = new_fleet(sqlite_database, VirtualClock(start))
    for expression in ("30 2 * * *", "0 0 2 ? * *", "15 1 * * *", "30 0 * * *"):
        fleet.scheduled(cron(expression, zone))
    until = start + timedelta(days=365)
    runs = previewed(fleet, start, until).runs
    assert len(runs) == 4 * 365
    by_schedule: dict[str, list[datetime]] = {}
    for run in runs:
        by_schedule.setdefault(run.schedule_uid, []).append(run.due_at)
    for moments in by_schedule.values():
        gaps = [after - before for before, after in itertools.pairwise(moments)]
        assert min(gaps) >= timedelta(hours=22)
        assert max(gaps) <= timedelta(hours=26)


NIGHTS = {"type": "WEEKLY", "from": "22:00", "to": "06:00",
          "weekdays": ["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"]}  # fmt: skip


def timed(fleet: Fleet, **changes: object) -> str:
    with fleet.database.transaction() as session:
        uid = calendars.create(
            session, fleet.clock, OPERATOR, name="nights", tz="Australia/Sydney", periods=[NIGHTS]
        ).uid
        uses = {name: [uid] if value == "nights" else value for name, value in changes.items()}
        configurations.change(
            session, fleet.clock, OPERATOR, fleet.configuration_uid, Changes(**uses), minimum_seconds=0
        )  # type: ignore[arg-type]
    return uid


@pytest.mark.parametrize(
    "changes",
    [
        {"blackouts": "nights"},
        {"windows": "nights"},
        {"blackouts": "nights", "jitter_seconds": 1800},
        {"windows": "nights", "jitter_seconds": 86_400},
        {"missed_runs": MissedRuns.SKIP, "missed_grace_seconds": 60, "blackouts": "nights"},
    ],
)
def test_the_preview_goes_by_calendars_jitter_and_policy_like_the_scheduler(
    sqlite_database: Database, changes: dict[str, object]
) -> None:
    start = datetime(2026, 4, 2, 9, 30, tzinfo=UTC)  # the clocks of Sydney go back on the 5th
    fleet = new_fleet(sqlite_database, VirtualClock(start))
    for entries in (EVERY_HOUR, cron("30 2 * * *", "Australia/Sydney"), cron("*/20 1,5 * * *")):
        fleet.scheduled(entries)
    timed(fleet, **changes)
    begin = start + timedelta(hours=5)  # some runs are overdue by then, inside the calendar's period or not
    until = begin + timedelta(days=5)
    told = previewed(fleet, begin, until)
    assert list(told.runs) == simulate(fleet.database, begin, until, limit=10_000)
    assert len(told.runs) > 10


def test_the_forecast_counts_load_collisions_moved_runs_and_misses(sqlite_database: Database) -> None:
    fleet = new_fleet(sqlite_database)
    nightly = [fleet.scheduled(cron("0 14 * * *")) for _ in range(2)]  # 14:00 is in the night of Sydney
    daily, monthly, paused = fleet.scheduled(cron("0 2 * * *")), fleet.scheduled(cron("0 3 28 * *")), fleet.scheduled()
    blocked = fleet.scheduled(cron("0 4 * * *"), profile="scripts_only", resource_uid=None)
    uid = timed(fleet, blackouts="nights")
    with fleet.database.transaction() as session:
        row = session.scalar(select(Schedule).where(Schedule.subject_uid == paused))
        assert row is not None
        pausing.pause(session, fleet.clock, OPERATOR, row.uid)
        session.execute(update(RotationSettings).values(last_rotated_at=NOON - timedelta(hours=1)))
        session.execute(
            update(RotationSettings).where(RotationSettings.record_uid == blocked).values(profile="iam_user")
        )
    with fleet.database.transaction(read_only=True) as session:
        told = forecast(session, NOON, NOON + timedelta(days=3), max_age=timedelta(days=2))

    assert (told.runs, told.is_complete) == (9, True)
    assert sum(load.runs for load in told.load) == 9
    assert {load.gateway_uid for load in told.load} == {fleet.gateway_uid}
    assert [(load.hour.hour, load.runs) for load in told.load[:2]] == [(19, 2), (2, 1)]
    assert [(each.at.hour, len(each.schedule_uids)) for each in told.collisions] == [(19, 2)] * 3
    assert {run.subject_uid for run in told.moved} == set(nightly)
    assert (told.moved_count, told.moved[0].moved_by, told.moved[0].planned_at.hour) == (6, uid, 14)
    misses = {(miss.record_uid, miss.code) for miss in told.misses}
    assert (paused, "paused") in misses
    assert (blocked, "profile_not_served") in misses
    assert {uid for uid, code in misses if code == "too_old"} == {monthly, paused, blocked}
    assert daily not in {uid for uid, _ in misses}

    with fleet.database.transaction(read_only=True) as session:
        cut = forecast(session, NOON, NOON + timedelta(days=3), most=4)
    assert (cut.runs, cut.is_complete) == (4, False)

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select, update

from pam_jobs.app import queue_name
from pam_jobs.clock import VirtualClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import ApplicationShare, Job, JobKind, JobState, OutboxMessage, Schedule
from pam_jobs.rotation import configurations, schedules
from pam_jobs.rotation.configurations import Changes
from scheduler import due
from scheduler.emission import job_uid_of
from tests.support.database import PostgresDatabases
from tests.support.fleet import EVERY_HOUR, NOON, OPERATOR, Fleet, cron, new_fleet, share

pytestmark = pytest.mark.unit


def finish(fleet: Fleet) -> None:
    """Let every job end as a gateway would have it."""
    with fleet.database.transaction() as session:
        session.execute(update(Job).values(state=JobState.SUCCEEDED))
        session.execute(delete(OutboxMessage))


def tick(fleet: Fleet, **later: float) -> list[str]:
    fleet.clock.advance(timedelta(**later))
    return due.tick(fleet.database, fleet.clock)


def test_nothing_is_due_before_its_time(fleet: Fleet) -> None:
    fleet.scheduled()
    assert tick(fleet, minutes=59) == []
    assert due.next_due(fleet.database) == NOON + timedelta(hours=1)


def test_a_due_run_becomes_one_job_with_its_message_and_event(fleet: Fleet) -> None:
    record = fleet.scheduled()
    [uid] = tick(fleet, hours=1)

    [job] = fleet.jobs()
    row = fleet.row(record)
    assert row is not None
    assert (job.uid, job.record_uid, job.gateway_uid) == (uid, record, fleet.gateway_uid)
    assert (job.kind, job.state, job.trigger) == (JobKind.ROTATE, JobState.CREATED, "scheduled")
    assert (job.due_at, job.schedule_uid) == (NOON + timedelta(hours=1), row.uid)
    assert job.uid == job_uid_of(row.uid, NOON + timedelta(hours=1))
    assert (row.last_due_at, row.next_run_at) == (NOON + timedelta(hours=1), NOON + timedelta(hours=2))
    with fleet.database.transaction(read_only=True) as session:
        assert session.scalars(select(OutboxMessage.queue)).all() == [queue_name(fleet.gateway_uid)]
    assert [event.fields["job_uid"] for event in fleet.events("pam_job_created")] == [uid]
    assert tick(fleet) == []


def test_missed_runs_are_made_up_for_once(fleet: Fleet) -> None:
    record = fleet.scheduled()
    assert len(tick(fleet, days=3, minutes=30)) == 1
    finish(fleet)
    row = fleet.row(record)
    assert row is not None
    assert row.next_run_at == NOON + timedelta(days=3, hours=1)
    assert tick(fleet) == []
    assert len(tick(fleet, minutes=30)) == 1


def test_a_waiting_job_covers_the_next_run(fleet: Fleet) -> None:
    record = fleet.scheduled()
    assert len(tick(fleet, hours=1)) == 1
    assert tick(fleet, hours=1) == []
    row = fleet.row(record)
    assert row is not None
    assert row.next_run_at == NOON + timedelta(hours=3)
    finish(fleet)
    assert len(tick(fleet, hours=1)) == 1
    assert len(fleet.jobs(record)) == 2


@pytest.mark.parametrize(
    ("state", "covers"),
    [
        (JobState.QUEUED, True),
        (JobState.UNKNOWN, True),
        (JobState.LEASED, False),
        (JobState.RUNNING, False),
        (JobState.WAITING_HUMAN, False),
        (JobState.FAILED, False),
    ],
)
def test_only_what_is_about_to_run_covers_the_next_run(fleet: Fleet, state: JobState, *, covers: bool) -> None:
    fleet.scheduled()
    tick(fleet, hours=1)
    with fleet.database.transaction() as session:
        session.execute(update(Job).values(state=state))
    assert (tick(fleet, hours=1) == []) is covers


def test_run_once_runs_once(fleet: Fleet) -> None:
    record = fleet.scheduled([{"type": "RUN_ONCE", "time": "2026-03-02T15:00:00", "tz": "Etc/UTC"}])
    assert len(tick(fleet, hours=3)) == 1
    finish(fleet)
    row = fleet.row(record)
    assert row is not None
    assert row.next_run_at is None
    assert tick(fleet, days=400) == []
    assert due.next_due(fleet.database) is None


def test_a_changed_schedule_takes_effect_at_once(fleet: Fleet) -> None:
    record = fleet.scheduled()
    fleet.put(record, schedule=cron("*/10 * * * *"), minimum_seconds=0)
    assert len(tick(fleet, minutes=10)) == 1
    finish(fleet)
    fleet.put(record, schedule=cron("0 0 1 1 *"))
    assert tick(fleet, days=1) == []


def test_what_is_not_ready_makes_no_job_and_is_told_when_the_reason_is_new(fleet: Fleet) -> None:
    record = fleet.scheduled()
    with fleet.database.transaction() as session:
        session.execute(delete(ApplicationShare))

    assert tick(fleet, hours=1) == []
    assert tick(fleet, hours=1) == []

    assert fleet.jobs() == []
    [event] = fleet.events("record_rotation_scheduled_fail")
    assert (event.fields["record_uid"], event.fields["result_code"]) == (record, "gateway_not_bound")
    row = fleet.row(record)
    assert row is not None
    assert (row.blocked, row.next_run_at) == ("gateway_not_bound", NOON + timedelta(hours=3))

    with fleet.database.transaction() as session:
        share(session, fleet.clock, fleet.application_uid, fleet.folder_uid)
    assert len(tick(fleet, hours=1)) == 1
    row = fleet.row(record)
    assert row is not None
    assert row.blocked is None


def test_a_disabled_record_is_not_due(fleet: Fleet) -> None:
    record = fleet.scheduled()
    fleet.put(record, schedule=EVERY_HOUR, disabled=True)
    with fleet.database.transaction() as session:
        configurations.change(
            session,
            fleet.clock,
            OPERATOR,
            fleet.configuration_uid,
            Changes(default_schedule=cron("0 1 * * *")),
            minimum_seconds=0,
        )
    assert tick(fleet, days=2) == []
    assert fleet.events("record_rotation_scheduled_fail") == []


def test_batches_leave_the_rest_for_the_next_turn(fleet: Fleet) -> None:
    records = {fleet.scheduled() for _ in range(7)}
    fleet.clock.advance(timedelta(hours=1))
    sizes = [len(due.tick(fleet.database, fleet.clock, limit=3)) for _ in range(4)]
    assert sizes == [3, 3, 1, 0]
    assert {job.record_uid for job in fleet.jobs()} == records


def test_two_beats_at_once_make_each_job_once(fleet: Fleet) -> None:
    records = [fleet.scheduled() for _ in range(40)]
    fleet.clock.advance(timedelta(hours=1))
    made: list[str] = []
    start = threading.Barrier(4)

    def beat() -> None:
        start.wait()
        idle = 0
        while idle < 3:
            created = due.tick(fleet.database, fleet.clock, limit=5)
            made.extend(created)
            idle = 0 if created else idle + 1

    threads = [threading.Thread(target=beat) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    jobs = fleet.jobs()
    assert sorted(job.record_uid or "" for job in jobs) == sorted(records)
    assert sorted(made) == sorted(job.uid for job in jobs)
    with fleet.database.transaction(read_only=True) as session:
        assert len(session.scalars(select(OutboxMessage.id)).all()) == len(records)


def test_a_run_whose_job_stands_already_makes_no_second_one(fleet: Fleet) -> None:
    """A clock that was set back finds the same schedule and time due again."""
    record = fleet.scheduled()
    tick(fleet, hours=1)
    finish(fleet)
    with fleet.database.transaction() as session:
        session.execute(update(Schedule).values(next_run_at=NOON + timedelta(hours=1)))
    assert tick(fleet) == []
    assert len(fleet.jobs(record)) == 1
    with fleet.database.transaction(read_only=True) as session:
        assert session.scalars(select(OutboxMessage.id)).all() == []


def test_a_transaction_that_ends_early_leaves_the_row_due(fleet: Fleet) -> None:
    fleet.scheduled()
    fleet.clock.advance(timedelta(hours=1))

    def die() -> None:
        with fleet.database.transaction() as session:
            assert len(due.claim(session, fleet.clock.now(), 10)) == 1
            raise RuntimeError("the beat dies here")

    with pytest.raises(RuntimeError):
        die()
    assert len(tick(fleet)) == 1


def test_a_row_that_another_beat_holds_is_passed_over(postgres_databases: PostgresDatabases) -> None:
    """SQLite has one writer at a time: the second beat waits for the first."""
    with postgres_databases.new() as url:
        check_passing_over(new_fleet(Database(url)))


def check_passing_over(fleet: Fleet) -> None:
    for _ in range(2):
        fleet.scheduled()
    fleet.clock.advance(timedelta(hours=1))
    with fleet.database.transaction() as session:
        assert len(due.claim(session, fleet.clock.now(), 1)) == 1
        assert len(due.tick(fleet.database, fleet.clock)) == 1
    assert len(tick(fleet)) == 1
    fleet.database.dispose()


def test_a_schedule_that_is_no_longer_valid_runs_a_last_time_and_stops(fleet: Fleet) -> None:
    broken, sound = fleet.scheduled(), fleet.scheduled()
    with fleet.database.transaction() as session:
        session.execute(
            update(Schedule)
            .where(Schedule.subject_uid == broken)
            .values(spec='[{"type":"DAILY","time":"02:00:00","tz":"Atlantis/Capital"}]')
        )
    assert len(tick(fleet, hours=1)) == 2
    rows = fleet.row(broken), fleet.row(sound)
    assert rows[0] is not None
    assert rows[1] is not None
    assert (rows[0].next_run_at, rows[1].next_run_at) == (None, NOON + timedelta(hours=2))


def test_discovery_runs_by_schedule_one_at_a_time(fleet: Fleet) -> None:
    with fleet.database.transaction() as session:
        schedules.keep(
            session,
            fleet.clock,
            kind=JobKind.DISCOVER,
            subject_uid=fleet.configuration_uid,
            spec=schedules.checked(EVERY_HOUR, clock=fleet.clock, minimum_seconds=0).to_json(),
            paused=False,
        )
    assert len(tick(fleet, hours=1)) == 1
    [job] = fleet.jobs()
    assert (job.kind, job.record_uid, job.configuration_uid) == (JobKind.DISCOVER, None, fleet.configuration_uid)
    with fleet.database.transaction() as session:
        session.execute(update(Job).values(state=JobState.RUNNING))
    assert tick(fleet, hours=1) == []
    finish(fleet)
    assert len(tick(fleet, hours=1)) == 1


@pytest.mark.parametrize(
    ("start", "expression", "hours", "expected"),
    [
        # 02:30 does not exist on 29 March: once, right after the gap.
        (datetime(2026, 3, 28, 12, tzinfo=UTC), "30 2 * * *", 48, ["2026-03-29T01:00:00", "2026-03-30T00:30:00"]),
        # 02:30 comes twice on 25 October: once.
        (datetime(2026, 10, 24, 12, tzinfo=UTC), "30 2 * * *", 48, ["2026-10-25T00:30:00", "2026-10-26T01:30:00"]),
    ],
)
def test_the_clock_change_neither_loses_nor_doubles_a_run(
    database: Database, start: datetime, expression: str, hours: int, expected: list[str]
) -> None:
    fleet = new_fleet(database, VirtualClock(start))
    fleet.scheduled(cron(expression, "Europe/Berlin"))
    for _ in range(hours * 4):
        tick(fleet, minutes=15)
        finish(fleet)
    assert [job.due_at.isoformat()[:19] for job in fleet.jobs() if job.due_at] == expected


# verifications


def kinds(fleet: Fleet) -> list[str]:
    return [str(job.kind) for job in fleet.jobs()]


def test_a_verification_comes_due_like_a_rotation_and_is_coalesced(fleet: Fleet) -> None:
    record = fleet.add_record()
    fleet.put(record, verify_schedule=EVERY_HOUR)
    assert len(tick(fleet, hours=1)) == 1
    assert tick(fleet, hours=1) == []
    assert [(job.kind, job.record_uid, job.trigger) for job in fleet.jobs()] == [("verify", record, "scheduled")]
    finish(fleet)
    assert len(tick(fleet, hours=1)) == 1


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.UNKNOWN])
def test_no_verification_starts_while_a_rotation_is_open(fleet: Fleet, state: JobState) -> None:
    record = fleet.scheduled(cron("0 13 2 3 *"))
    assert len(tick(fleet, hours=1)) == 1
    with fleet.database.transaction() as session:
        session.execute(update(Job).values(state=state))
    fleet.put(record, verify_schedule=EVERY_HOUR)
    assert tick(fleet, hours=1) == []
    finish(fleet)
    tick(fleet, hours=1)
    assert kinds(fleet) == ["rotate", "verify"]


def test_what_is_not_rotated_is_still_looked_at(fleet: Fleet) -> None:
    record = fleet.scheduled(verify_schedule=EVERY_HOUR, disabled=True)
    with fleet.database.transaction() as session:
        configurations.change(
            session, fleet.clock, OPERATOR, fleet.configuration_uid, Changes(rotation_enabled=False), minimum_seconds=0
        )
    tick(fleet, hours=1)
    assert [(job.kind, job.record_uid) for job in fleet.jobs()] == [("verify", record)]


def test_a_verification_that_cannot_run_says_so_once(fleet: Fleet) -> None:
    record = fleet.add_record()
    fleet.put(record, verify_schedule=EVERY_HOUR)
    with fleet.database.transaction() as session:
        session.execute(delete(ApplicationShare))
    for _ in range(2):
        assert tick(fleet, hours=1) == []
    [event] = fleet.events("pam_job_failed")
    assert (event.fields["job_kind"], event.fields["record_uid"]) == ("verify", record)
    assert fleet.events("record_rotation_scheduled_fail") == []

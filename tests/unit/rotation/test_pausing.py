from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from pam_jobs.db.tables import Schedule
from pam_jobs.errors import NotFound
from pam_jobs.rotation import pausing
from pam_jobs.rotation.reasons import reasons
from scheduler import due
from tests.support.fleet import EVERY_HOUR, NOON, OPERATOR, Fleet, cron

pytestmark = pytest.mark.unit


def row_of(fleet: Fleet, record: str, kind: str = "rotate") -> Schedule:
    with fleet.database.transaction(read_only=True) as session:
        return session.scalars(select(Schedule).where(Schedule.subject_uid == record, Schedule.kind == kind)).one()


def why(fleet: Fleet, record: str, kind: str = "rotate") -> list[str]:
    with fleet.database.transaction(read_only=True) as session:
        row = row_of(fleet, record, kind)
        return reasons(session, [row])[row.uid]


def pause(fleet: Fleet, uid: str) -> None:
    with fleet.database.transaction() as session:
        pausing.pause(session, fleet.clock, OPERATOR, uid)


def resume(fleet: Fleet, uid: str) -> None:
    with fleet.database.transaction() as session:
        pausing.resume(session, fleet.clock, OPERATOR, uid)


def tick(fleet: Fleet, **later: float) -> list[str]:
    fleet.clock.advance(timedelta(**later))
    return due.tick(fleet.database, fleet.clock)


def test_a_paused_schedule_makes_no_jobs_until_it_is_resumed(fleet: Fleet) -> None:
    record, other = fleet.scheduled(), fleet.scheduled()
    uid = row_of(fleet, record).uid
    pause(fleet, uid)
    assert tick(fleet, hours=3) != []
    assert (fleet.jobs(record), len(fleet.jobs(other))) == ([], 1)
    assert why(fleet, record) == [
        f"it is paused since 2026-03-02 12:00:00 UTC: resume it with `pam schedule resume {uid}`"
    ]

    resume(fleet, uid)
    assert row_of(fleet, record).next_run_at == NOON + timedelta(hours=4)
    assert why(fleet, record) == []
    tick(fleet, hours=1)
    assert len(fleet.jobs(record)) == 1


def test_pausing_twice_is_told_once(fleet: Fleet) -> None:
    uid = row_of(fleet, fleet.scheduled()).uid
    for _ in range(2):
        pause(fleet, uid)
    for _ in range(2):
        resume(fleet, uid)
    [paused], [resumed] = fleet.events("pam_schedule_paused"), fleet.events("pam_schedule_resumed")
    assert paused.fields["schedule_uid"] == resumed.fields["schedule_uid"] == uid
    assert paused.fields["configuration_uid"] == fleet.configuration_uid


def test_a_pause_outlives_a_change_of_the_schedule(fleet: Fleet) -> None:
    record = fleet.scheduled()
    pause(fleet, row_of(fleet, record).uid)
    fleet.put(record, schedule=cron("30 2 * * *"))
    row = row_of(fleet, record)
    assert (row.paused, row.next_run_at) == (True, None)
    resume(fleet, row.uid)
    assert row_of(fleet, record).next_run_at == NOON + timedelta(hours=14, minutes=30)


def test_resuming_leaves_what_is_disabled_alone(fleet: Fleet) -> None:
    record = fleet.scheduled()
    uid = row_of(fleet, record).uid
    pause(fleet, uid)
    fleet.put(record, schedule=EVERY_HOUR, disabled=True)
    resume(fleet, uid)
    row = row_of(fleet, record)
    assert (row.paused, row.next_run_at) == (True, None)
    assert [sentence.split(":")[0] for sentence in why(fleet, record)] == ["rotation of the record is disabled"]


def test_a_paused_configuration_runs_nothing_and_resumes_but_what_was_paused_itself(fleet: Fleet) -> None:
    both, alone = fleet.scheduled(verify_schedule=cron("30 * * * *")), fleet.scheduled()
    pause(fleet, row_of(fleet, alone).uid)
    with fleet.database.transaction() as session:
        pausing.pause_configuration(session, fleet.clock, OPERATOR, fleet.configuration_uid)
    late = fleet.scheduled()  # what is set up meanwhile waits as well
    assert tick(fleet, hours=5) == []
    assert "every schedule of its PAM configuration is paused" in why(fleet, both, "verify")[0]
    assert len(why(fleet, alone)) == 2

    with fleet.database.transaction() as session:
        pausing.resume_configuration(session, fleet.clock, OPERATOR, fleet.configuration_uid)
        pausing.resume_configuration(session, fleet.clock, OPERATOR, fleet.configuration_uid)
    assert row_of(fleet, both).next_run_at == NOON + timedelta(hours=6)
    assert row_of(fleet, both, "verify").next_run_at == NOON + timedelta(hours=5, minutes=30)
    assert row_of(fleet, late).next_run_at == NOON + timedelta(hours=6)
    assert row_of(fleet, alone).next_run_at is None
    assert [len(fleet.events(f"pam_schedules_{word}")) for word in ("paused", "resumed")] == [1, 1]


def test_a_single_run_that_passed_during_a_pause_is_said_to_be_over(fleet: Fleet) -> None:
    once = [{"type": "RUN_ONCE", "time": "2026-03-02T13:00:00", "tz": "Etc/UTC"}]
    record = fleet.scheduled(once)
    uid = row_of(fleet, record).uid
    pause(fleet, uid)
    assert tick(fleet, hours=2) == []
    resume(fleet, uid)
    assert why(fleet, record) == ["its schedule has no run any more"]


def test_a_single_run_happens_once(fleet: Fleet) -> None:
    record = fleet.scheduled([{"type": "RUN_ONCE", "time": "2026-03-02T14:30:00", "tz": "Europe/Paris"}])
    assert row_of(fleet, record).next_run_at == NOON + timedelta(hours=1, minutes=30)
    assert len(tick(fleet, hours=2)) == 1
    assert row_of(fleet, record).next_run_at is None
    assert tick(fleet, days=2) == []


def test_what_is_not_there_is_not_paused(fleet: Fleet) -> None:
    with fleet.database.transaction() as session, pytest.raises(NotFound, match="there is no schedule"):
        pausing.pause(session, fleet.clock, OPERATOR, "AAAAAAAAAAAAAAAAAAAAAA")

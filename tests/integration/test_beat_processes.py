from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, update

from pam_jobs.app import queue_name
from pam_jobs.clock import VirtualClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import Job, JobState, OutboxMessage, Schedule
from tests.support.beat import Beats, beats_on, stopped, wait_until
from tests.support.broker import RedisBroker
from tests.support.database import create_schema
from tests.support.fleet import Fleet, cron, new_fleet

pytestmark = pytest.mark.integration

EVERY_SECOND = cron("* * * * * ?")


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return new_fleet(database, VirtualClock(datetime.now(UTC)))


def count(fleet: Fleet, *conditions: object) -> int:
    with fleet.database.transaction(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(Job).where(*conditions)) or 0  # type: ignore[arg-type]


def finish(fleet: Fleet) -> None:
    with fleet.database.transaction() as session:
        session.execute(update(Job).values(state=JobState.SUCCEEDED))


def outbox(fleet: Fleet) -> int:
    with fleet.database.transaction(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(OutboxMessage)) or 0


def test_two_beats_make_and_publish_each_run_once(fleet: Fleet, beats: Beats, broker: RedisBroker) -> None:
    records = [fleet.scheduled(EVERY_SECOND) for _ in range(12)]
    queue = queue_name(fleet.gateway_uid)
    first, second = beats.start(), beats.start()
    for rounds in (1, 2, 3):
        wait_until(lambda made=len(records) * rounds: count(fleet) >= made, what=f"round {rounds}")
        wait_until(lambda: outbox(fleet) == 0, what="the outbox is empty")
        if rounds < 3:
            finish(fleet)

    assert (stopped(first), stopped(second)) == (0, 0)
    jobs = fleet.jobs()
    assert len({(job.schedule_uid, job.due_at) for job in jobs}) == len(jobs)
    assert {job.state for job in jobs} <= {JobState.QUEUED, JobState.SUCCEEDED}
    assert broker.length(queue) == len(jobs)


def test_a_beat_that_is_killed_is_replaced_by_any_other(fleet: Fleet, beats: Beats) -> None:
    fleet.scheduled(EVERY_SECOND)
    first, _ = beats.start(), beats.start()
    wait_until(lambda: count(fleet) >= 1)
    first.kill()
    finish(fleet)
    wait_until(lambda: count(fleet) >= 2)


def test_a_new_schedule_is_seen_within_a_second_or_so(fleet: Fleet, beats: Beats) -> None:
    beats.start()
    wait_until(lambda: "Starting" in beats.log())
    fleet.scheduled(cron("0 0 1 1 *"))
    record = fleet.scheduled(EVERY_SECOND)
    wait_until(lambda: count(fleet, Job.record_uid == record) == 1, seconds=10)
    assert count(fleet) == 1


def test_jobs_are_made_while_the_broker_is_away(fleet: Fleet, beats: Beats, broker: RedisBroker) -> None:
    fleet.scheduled(EVERY_SECOND)
    process = beats.start()
    wait_until(lambda: count(fleet, Job.state == JobState.QUEUED) == 1)
    broker.stop(kill=True)
    finish(fleet)
    wait_until(lambda: count(fleet) == 2)
    wait_until(lambda: outbox(fleet) == 1)
    assert process.poll() is None

    broker.start()
    finish(fleet)
    wait_until(lambda: count(fleet, Job.state == JobState.QUEUED) == 1, what="a job is published again")
    assert stopped(process) == 0


def test_a_stop_is_clean_and_quick_while_the_database_is_away(
    empty_database_url: str, broker: RedisBroker, tmp_path: Path
) -> None:
    with beats_on(empty_database_url, broker.url, tmp_path) as beats:
        process = beats.start()
        wait_until(lambda: "database unavailable" in beats.log())
        create_schema(empty_database_url)
        wait_until(lambda: "database available again" in beats.log())
        assert stopped(process) == 0
        assert empty_database_url.rpartition("/")[2] not in beats.log()


def test_celery_s_own_command_runs_the_scheduler(fleet: Fleet, beats: Beats) -> None:
    fleet.scheduled(EVERY_SECOND)
    (beats.folder / "beat_app.py").write_text("from tests.support.beat import celery_app\n\napp = celery_app()\n")
    process = beats.start("-m", "celery", "-A", "beat_app:app", "beat", "-S", "scheduler.beat:DueScheduler")
    wait_until(lambda: count(fleet, Job.state == JobState.QUEUED) == 1, what="a job")
    assert stopped(process) == 0
    assert list(beats.folder.glob("celerybeat-schedule*")) == []


@pytest.fixture
def due_record(fleet: Fleet) -> Iterator[str]:
    record = fleet.scheduled(cron("0 0 1 1 *"))
    with fleet.database.transaction() as session:
        session.execute(update(Schedule).values(next_run_at=fleet.clock.now()))
    yield record
    with fleet.database.transaction() as session:
        session.execute(delete(OutboxMessage))


_BEFORE_PUBLISHING = """
import os, signal
from pam_jobs.clock import SystemClock
from pam_jobs.db.engine import Database
from scheduler import due
assert due.tick(Database(os.environ["PAM_DATABASE_URL"]), SystemClock())
os.kill(os.getpid(), signal.SIGKILL)
"""

_BEFORE_COMMITTING = """
import os, signal
from pam_jobs.clock import SystemClock
from pam_jobs.db.engine import Database
from scheduler import due
with Database(os.environ["PAM_DATABASE_URL"]).transaction() as session:
    assert due.claim(session, SystemClock().now(), 10)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_death_between_commit_and_publishing_leaves_job_and_message(
    fleet: Fleet, beats: Beats, due_record: str
) -> None:
    assert beats.start("-c", _BEFORE_PUBLISHING).wait(20) == -signal.SIGKILL, beats.log()
    [job] = fleet.jobs(due_record)
    assert job.state == JobState.CREATED
    assert outbox(fleet) == 1
    beats.start()
    wait_until(lambda: "Starting" in beats.log())
    assert len(fleet.jobs()) == 1


def test_death_before_commit_leaves_the_run_due(fleet: Fleet, beats: Beats, due_record: str) -> None:
    assert beats.start("-c", _BEFORE_COMMITTING).wait(20) == -signal.SIGKILL, beats.log()
    assert fleet.jobs() == []
    beats.start()
    wait_until(lambda: len(fleet.jobs(due_record)) == 1)


def test_missing_settings_are_said_in_one_sentence(tmp_path: Path) -> None:
    with beats_on(f"sqlite:///{tmp_path}/control.db", "memory://", tmp_path) as beats:  # neither is reached
        del beats.environment["PAM_KEYS_DIR"]
        assert beats.start().wait(20) == 1
        assert beats.log().strip() == "beat cannot start with these settings: correct PAM_KEYS_DIR"

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery
from celery.beat import Service

from pam_jobs.app import make_app
from pam_jobs.clock import VirtualClock
from pam_jobs.db.engine import Database
from scheduler import due
from scheduler.beat import DueScheduler
from tests.support.database import create_schema
from tests.support.fleet import NOON, Fleet, new_fleet

pytestmark = pytest.mark.unit


@pytest.fixture
def app() -> Celery:
    return make_app("redis+socket:///nowhere")


@pytest.fixture
def published() -> list[str]:
    return []


@pytest.fixture
def fleet(sqlite_database: Database) -> Fleet:
    return new_fleet(sqlite_database)


@pytest.fixture
def beat(app: Celery, fleet: Fleet, published: list[str]) -> DueScheduler:
    return DueScheduler(app, database=fleet.database, clock=fleet.clock, publish=published.extend)


def test_it_sleeps_a_second_at_most(beat: DueScheduler, fleet: Fleet) -> None:
    assert beat.tick() == 1.0
    fleet.scheduled()
    assert beat.tick() == 1.0


def test_it_wakes_when_the_next_run_is_due(beat: DueScheduler, fleet: Fleet, published: list[str]) -> None:
    fleet.scheduled()
    fleet.clock.advance(timedelta(hours=1, milliseconds=-300))
    assert beat.tick() == pytest.approx(0.3)
    fleet.clock.advance(timedelta(milliseconds=300))
    assert beat.tick() == 0.0
    assert published == [job.uid for job in fleet.jobs()]
    assert beat.tick() == 1.0


def test_it_goes_on_at_once_while_batches_are_full(
    beat: DueScheduler, fleet: Fleet, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due.tick, "__defaults__", (2,))
    for _ in range(5):
        fleet.scheduled()
    fleet.clock.advance(timedelta(hours=1))
    assert [beat.tick() for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]
    assert len(set(published)) == 5


def test_it_backs_off_while_the_database_is_away_and_comes_back(app: Celery, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'later.db'}"
    database = Database(url)
    clock = VirtualClock(NOON)
    beat = DueScheduler(app, database=database, clock=clock, publish=lambda _uids: None)
    waits = []
    for _ in range(6):
        assert 0 < beat.tick() <= 1.0
        waits.append(beat._retry_at - clock.monotonic())
        clock.advance(timedelta(seconds=waits[-1] / 2))
        assert 0 < beat.tick() <= 1.0  # not asked again so soon
        assert beat._failures == len(waits)
        clock.advance(timedelta(seconds=waits[-1] / 2))
    assert waits == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]

    create_schema(url)
    assert beat.tick() == 1.0
    assert beat._failures == 0
    beat.close()


def test_celery_s_service_drives_it(app: Celery, fleet: Fleet, published: list[str]) -> None:
    fleet.scheduled()
    fleet.clock.advance(timedelta(hours=1))

    class Ours(DueScheduler):
        def __init__(self, app: Celery, **options: object) -> None:
            super().__init__(app, database=fleet.database, clock=fleet.clock, publish=self.stop, **options)

        def stop(self, uids: list[str]) -> None:
            published.extend(uids)
            service.stop()

    service = Service(app, scheduler_cls=Ours)
    service.start()
    assert len(published) == 1


def test_the_banner_s_scheduler_reads_no_settings(app: Celery) -> None:
    lazy = DueScheduler(app, lazy=True, schedule_filename="celerybeat-schedule", max_interval=300)
    assert "due table" in lazy.info
    assert lazy.max_interval == 1.0
    lazy.close()
    with pytest.raises(TypeError):
        lazy.tick()

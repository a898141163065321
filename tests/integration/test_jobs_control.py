"""The control process and a gateway's worker as real processes, with brokers that come and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pam_jobs.app import CONTROL_QUEUE, make_app, queue_name
from pam_jobs.clock import VirtualClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import AuditEvent, JobState
from pam_jobs.jobs.control import TICK
from pam_jobs.metrics import totals
from tests.support.attempts import ask, begin, register, reload
from tests.support.broker import RedisBroker
from tests.support.database import new_database_url
from tests.support.fleet import Fleet, new_fleet

pytestmark = pytest.mark.integration


class NowClock(VirtualClock):
    """The machine's time, in the form that a fleet takes."""

    def __init__(self) -> None:
        from pam_jobs.clock import SystemClock

        self._system = SystemClock()
        super().__init__(self._system.now())

    def now(self):
        return self._system.now()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with new_database_url(request, tmp_path, request.param) as made:
        yield made


@pytest.fixture
def fleet(url: str) -> Iterator[Fleet]:
    database = Database(url)
    made = new_fleet(database, NowClock())
    register(made)
    yield made
    database.dispose()


class Control:
    """One ``python -m pam_jobs.jobs``."""

    def __init__(self, url: str, broker_url: str, folder: Path) -> None:
        self.log = folder / "control.log"
        environment = {
            **os.environ, "PAM_DATABASE_URL": url, "PAM_BROKER_URL": broker_url, "PAM_KEYS_DIR": str(folder / "keys"),
            "PAM_RECONCILE_SECONDS": "0.2", "PAM_REPUBLISH_SECONDS": "1",
        }  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "pam_jobs.jobs"], env=environment, stderr=log)

    def stop(self) -> float:
        """Send SIGTERM and return the seconds until the end, which is clean."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.log.read_text()
        return time.monotonic() - started


@pytest.fixture
def control(url: str, fleet: Fleet, broker: RedisBroker, tmp_path: Path) -> Iterator[Control]:
    made = Control(url, broker.url, tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait(10)


def wait(is_done: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def new_job(fleet: Fleet) -> str:
    uid = fleet.add_record()
    fleet.put(uid)
    return ask(fleet, uid).uid


def state(fleet: Fleet, uid: str) -> str:
    return reload(fleet, uid).state


def sealed(fleet: Fleet) -> bool:
    with fleet.database.transaction(read_only=True) as session:
        return not session.query(AuditEvent).filter(AuditEvent.position.is_(None)).count()


def test_the_control_process_does_its_work_through_an_outage_of_the_broker(
    fleet: Fleet, broker: RedisBroker, control: Control
):
    first = new_job(fleet)
    wait(lambda: state(fleet, first) == JobState.QUEUED)
    wait(lambda: broker.length(queue_name(fleet.gateway_uid)) >= 1)
    wait(lambda: sealed(fleet))
    broker.stop(kill=True)
    second = new_job(fleet)
    wait(lambda: sealed(fleet))  # the audit log does not wait for the broker
    time.sleep(3)
    assert control.process.poll() is None
    assert state(fleet, second) == JobState.CREATED
    broker.start()
    wait(lambda: state(fleet, second) == JobState.QUEUED)
    with make_app(broker.url).connection_for_write() as connection:
        make_app(broker.url).send_task(TICK, queue=CONTROL_QUEUE, connection=connection)
    wait(lambda: broker.length(CONTROL_QUEUE) == 0)
    assert control.stop() < 10


def test_a_lease_that_ended_is_queued_again_by_the_process(fleet: Fleet, broker: RedisBroker, control: Control):
    from pam_jobs.db.tables import CredentialEpoch, Job

    uid = new_job(fleet)
    wait(lambda: state(fleet, uid) == JobState.QUEUED)
    begin(fleet, uid)
    with fleet.database.transaction() as session:
        job = session.get_one(Job, uid)
        job.lease_until = fleet.clock.now() - timedelta(seconds=1)
        session.get_one(CredentialEpoch, job.record_uid).lease_until = job.lease_until
    wait(lambda: state(fleet, uid) == JobState.QUEUED)
    assert len(fleet.events("pam_job_lease_lost")) == 1
    wait(lambda: losses(fleet) == [((fleet.gateway_uid,), 1)])
    control.stop()


def losses(fleet: Fleet) -> list[tuple[tuple[str, ...], int]] | None:
    with fleet.database.transaction(read_only=True) as session:
        return totals.read(session).get("pam_lease_losses_total")


def test_it_stops_promptly_also_while_the_broker_is_away(fleet: Fleet, broker: RedisBroker, control: Control):
    wait(lambda: "control process started" in control.log.read_text())
    broker.stop(kill=True)
    time.sleep(1.5)
    assert control.stop() < 12


def test_it_refuses_wrong_settings_with_a_sentence(tmp_path: Path):
    environment = {"PATH": os.environ["PATH"], "PAM_BROKER_URL": "redis://x", "PAM_LEASE_SECONDS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "pam_jobs.jobs"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "PAM_DATABASE_URL" in ended.stderr
    assert "PAM_LEASE_SECONDS" in ended.stderr
    assert "Traceback" not in ended.stderr


WORKER = """
import sys, time, threading
from pam_jobs.app import make_app, node_name
from pam_jobs.jobs import redis_guard
url, gateway, log = sys.argv[1:]
redis_guard.install()
redis_guard.install()
app = make_app(url, gateway_uid=gateway, visibility_seconds=3600)

@app.task(name="pam.rotate")
def rotate(uid):
    with open(log, "a") as out:
        out.write(f"begin {uid}\\n")
    time.sleep(3)
    with open(log, "a") as out:
        out.write(f"end {uid}\\n")

app.Worker(hostname=node_name("gw", "1"), pool="threads", concurrency=4, without_gossip=True, without_mingle=True,
           without_heartbeat=True, loglevel="ERROR", quiet=True).start()
"""


@pytest.mark.parametrize("away", [1.0, 5.0])
def test_a_worker_with_a_task_under_way_survives_the_loss_of_the_broker(
    broker: RedisBroker, tmp_path: Path, away: float
):
    gateway = "A" * 22
    log = tmp_path / "tasks.log"
    log.touch()
    process = subprocess.Popen([sys.executable, "-c", WORKER, broker.url, gateway, str(log)])
    try:
        app = make_app(broker.url, gateway_uid=gateway)
        app.send_task("pam.rotate", ["one"], queue=queue_name(gateway))
        wait(lambda: "begin one" in log.read_text())
        broker.stop(kill=True)
        time.sleep(away)
        broker.start()
        app.send_task("pam.rotate", ["two"], queue=queue_name(gateway))
        wait(lambda: "end two" in log.read_text(), 60)
        assert "end one" in log.read_text()
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(10)

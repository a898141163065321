"""The same way of a job over every broker: outbox, message, a worker without rights to declare, events."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pam_jobs.app import is_amqp
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import JobState
from pam_jobs.jobs import flower_events
from pam_jobs.jobs.flower_events import EventSender
from pam_jobs.jobs.publisher import Publisher
from pam_jobs.jobs.reconciler import reconcile_once
from pam_jobs.settings import ControlSettings
from tests.support.attempts import POLICY, ask, register, reload
from tests.support.broker import RedisBroker
from tests.support.fleet import new_fleet
from tests.support.servers import rabbitmq

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def rabbitmq_url() -> Iterator[str]:
    with rabbitmq() as url:
        yield url


@pytest.fixture(params=["redis", "rabbitmq"])
def any_broker_url(request: pytest.FixtureRequest) -> str:
    """Every kind of broker; the tests have queues of their own."""
    if request.param == "rabbitmq":
        url: str = request.getfixturevalue("rabbitmq_url")
        return url
    broker: RedisBroker = request.getfixturevalue("broker")
    return broker.url


WORKER = """
import sys
from pam_jobs.app import make_app, node_name
from pam_jobs.jobs import redis_guard
url, gateway, log = sys.argv[1:]
redis_guard.install()
app = make_app(url, gateway_uid=gateway)

@app.task(name="pam.rotate")
def rotate(uid):
    with open(log, "a") as out:
        out.write(uid + "\\n")

app.Worker(hostname=node_name("gw", "1"), pool="threads", concurrency=2, without_gossip=True, without_mingle=True,
           without_heartbeat=True, loglevel="ERROR", quiet=True).start()
"""


def wait(is_done: Callable[[], bool], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def test_a_job_reaches_its_gateways_worker(any_broker_url: str, sqlite_database: Database, tmp_path: Path):
    fleet = new_fleet(sqlite_database)
    register(fleet)
    keys = KeyStore(tmp_path / "keys")
    keys.ensure()
    settings = ControlSettings(database_url="sqlite://", broker_url=any_broker_url, keys_dir=keys.folder)
    publisher = Publisher(any_broker_url, keys, fleet.clock, settings)
    log = tmp_path / "tasks.log"
    log.touch()

    def declared() -> bool:
        """A pass of the control process makes the queues exist before there is a job, which gateways may not do."""
        reconcile_once(sqlite_database, fleet.clock, settings, publisher=publisher, policy=POLICY)
        return not is_amqp(any_broker_url) or bool(publisher._declared)

    wait(declared)
    worker = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WORKER, any_broker_url, fleet.gateway_uid, str(log)]
    )
    try:
        uids = []
        for _ in range(5):
            record = fleet.add_record()
            fleet.put(record)
            uids.append(ask(fleet, record).uid)
        assert publisher.publish(sqlite_database, uids) == 5
        assert {reload(fleet, uid).state for uid in uids} == {JobState.QUEUED}
        wait(lambda: sorted(log.read_text().split()) == sorted(uids))
    finally:
        worker.terminate()
        worker.wait(20)
        publisher.close()


def test_events_are_taken(any_broker_url: str):
    sender = EventSender(any_broker_url)
    for _ in range(20):
        sender.notify(*flower_events.worker("worker-heartbeat", "office", "i1"))
    sender.close()
    assert sender.dropped == 0

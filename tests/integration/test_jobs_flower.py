"""Events for Flower through a real broker: read by Celery's own receiver, and by Flower itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pam_jobs.app import make_app
from pam_jobs.db.tables import JobState
from pam_jobs.ids import new_uid
from pam_jobs.jobs import flower_events
from pam_jobs.jobs.flower_events import EventSender
from tests.support.broker import RedisBroker

pytestmark = pytest.mark.integration


@pytest.fixture
def sender(broker: RedisBroker) -> Iterator[EventSender]:
    made = EventSender(broker.url)
    yield made
    made.close()


@contextmanager
def received(broker: RedisBroker) -> Iterator[list[dict[str, Any]]]:
    """Collect what Celery's event receiver reads."""
    app = make_app(broker.url)
    events: list[dict[str, Any]] = []
    stop = threading.Event()
    ready = threading.Event()

    def read() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": events.append})
            with receiver.consumer_context() as (own_connection, _channel, _consumers):
                ready.set()
                while not stop.is_set():
                    try:
                        own_connection.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue

    thread = threading.Thread(target=read)
    thread.start()
    ready.wait(10)
    time.sleep(0.3)  # the subscription is made with the first read
    yield events
    stop.set()
    thread.join(10)


def wait(is_done: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def play(sender: EventSender, uid: str, state: JobState = JobState.SUCCEEDED, gateway: str = "office") -> None:
    """Send what a gateway's life with one job makes."""
    sender.notify(*flower_events.worker("worker-online", gateway, "i1"))
    sender.notify("task-sent", {"uuid": uid, "name": "pam.rotate", "queue": "gateway.x"})
    for event in flower_events.begun(gateway, "i1", uid, "rotate", 1):
        sender.notify(*event)
    sender.notify(*flower_events.ended(gateway, "i1", uid, state, 0.25))


def test_celerys_receiver_reads_a_whole_task(broker: RedisBroker, sender: EventSender):
    uid = new_uid()
    with received(broker) as events:
        play(sender, uid)
        wait(lambda: len(events) >= 5)
    state = make_app(broker.url).events.State()
    for event in events:
        state.event(event)
    task = state.tasks[uid]
    assert (task.name, task.state, task.result, task.runtime) == ("pam.rotate", "SUCCESS", "succeeded", 0.25)
    assert (task.args, task.worker.hostname) == (f"('{uid}',)", "office.i1")
    assert state.workers["office.i1"].alive


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (JobState.FAILED, "FAILURE"), (JobState.UNKNOWN, "RETRY"), (JobState.WAITING_HUMAN, "FAILURE"),
        (JobState.CANCELLED, "REVOKED"), (JobState.QUEUED, "RETRY"),
    ],
)  # fmt: skip
def test_every_end_has_its_event(broker: RedisBroker, sender: EventSender, state: JobState, shown: str):
    uid = new_uid()
    with received(broker) as events:
        play(sender, uid, state)
        wait(lambda: len(events) >= 5)
    seen = make_app(broker.url).events.State()
    for event in events:
        seen.event(event)
    assert seen.tasks[uid].state == shown


def test_events_are_dropped_and_counted_while_the_broker_is_away(broker: RedisBroker, sender: EventSender):
    sender.notify(*flower_events.worker("worker-online", "office", "i1"))
    time.sleep(0.3)
    broker.stop(kill=True)
    started = time.monotonic()
    for _ in range(200):
        sender.notify(*flower_events.worker("worker-heartbeat", "office", "i1"))
    assert time.monotonic() - started < 0.5
    wait(lambda: sender.dropped > 0)
    broker.start()
    time.sleep(1.2)
    with received(broker) as events:

        def sent_again() -> bool:
            sender.notify(*flower_events.worker("worker-heartbeat", "office", "i1"))
            time.sleep(0.2)
            return bool(events)

        wait(sent_again)


@contextmanager
def flower(broker: RedisBroker, folder: Path) -> Iterator[httpx.Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "PAM_BROKER_URL": broker.url, "FLOWER_BASIC_AUTH": "look:only", "FLOWER_PORT": str(port),
    }  # fmt: skip
    with (folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pam_jobs.cli.flower"], env=environment, stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=("look", "only"), trust_env=False) as client:
            wait(lambda: _answers(client), 40)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthcheck").status_code == 200
    except httpx.TransportError:
        return False


def test_flower_shows_gateways_and_their_tasks(broker: RedisBroker, sender: EventSender, tmp_path: Path):
    uid = new_uid()
    with flower(broker, tmp_path) as client:

        def is_shown() -> bool:
            play(sender, uid)
            time.sleep(0.3)
            return uid in client.get("/api/tasks").json()

        wait(is_shown, 30)
        task = client.get("/api/tasks").json()[uid]
        assert (task["name"], task["worker"], task["result"]) == ("pam.rotate", "office.i1", "succeeded")
        assert task["args"] == f"('{uid}',)"
        assert client.post(f"/api/task/revoke/{uid}").status_code == 403
        assert httpx.get(client.base_url.join("/api/tasks"), trust_env=False).status_code == 401

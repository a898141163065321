"""Celery's worker and task events, sent by the control plane on behalf of gateways: what Flower shows.

Gateways have no right to send events, and would tell more than they should. The control plane knows the truth and tells
identifiers and codes only. Events are a view, not a record: when the broker is away they are dropped and counted.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
from celery.events.event import get_exchange
from kombu import messaging

from pam_jobs.app import make_app
from pam_jobs.db.tables import JobState
from pam_jobs.jobs.signing import task_name

__all__ = ["EventSender", "begun", "ended", "node", "worker"]

_log = structlog.get_logger(__name__)
_BACKLOG = 5_000
_GROUP = 500  # events in one message, which is how Celery's own workers send them
_GATHER_SECONDS = 0.1  # a person who looks at Flower does not notice; a message for each event costs a rotation dearly
_PAUSE_SECONDS = 1.0  # between tries while the broker is away
_STOP_SECONDS = 3.0
_HEARTBEAT_SECONDS = 10.0

_ENDS: Final[Mapping[JobState, str]] = {
    JobState.SUCCEEDED: "task-succeeded",
    JobState.FAILED: "task-failed",
    JobState.WAITING_HUMAN: "task-failed",
    JobState.UNKNOWN: "task-retried",
    JobState.QUEUED: "task-retried",
    JobState.CANCELLED: "task-revoked",
    JobState.EXPIRED: "task-revoked",
}

Event = tuple[str, dict[str, object]]


def node(gateway_name: str, instance: str) -> str:
    """Return the worker name that Flower shows for an instance of a gateway."""
    return f"{gateway_name}.{instance}"


def worker(kind: str, gateway_name: str, instance: str) -> Event:
    """Return ``worker-online``, ``worker-heartbeat`` or ``worker-offline`` of an instance."""
    return kind, {
        "hostname": node(gateway_name, instance),
        "freq": _HEARTBEAT_SECONDS,
        "sw_ident": "pam-jobs",
        "sw_ver": "",
        "sw_sys": "",
        "processed": 0,
        "active": 0,
    }


def begun(gateway_name: str, instance: str, job_uid: str, kind: str, attempts: int) -> tuple[Event, Event]:
    """Return that an instance received and started a job."""
    hostname = node(gateway_name, instance)
    received: dict[str, object] = {
        "hostname": hostname,
        "uuid": job_uid,
        "name": task_name(kind),
        "args": repr((job_uid,)),
        "kwargs": "{}",
        "retries": attempts - 1,
        "root_id": job_uid,
        "parent_id": None,
    }
    return ("task-received", received), ("task-started", {"hostname": hostname, "uuid": job_uid})


def ended(gateway_name: str, instance: str, job_uid: str, state: JobState, runtime_seconds: float = 0.0) -> Event:
    """Return how an attempt ended; result and exception are the job's state, never what a target said."""
    event = _ENDS[state]
    fields: dict[str, object] = {"hostname": node(gateway_name, instance), "uuid": job_uid}
    match event:
        case "task-succeeded":
            fields |= {"result": str(state), "runtime": runtime_seconds}
        case "task-failed" | "task-retried":
            fields |= {"exception": str(state), "traceback": ""}
        case _:
            fields |= {"terminated": False, "signum": None, "expired": state == JobState.EXPIRED}
    return event, fields


class EventSender:
    """Sends events from a thread of its own; ``notify`` never waits and never raises."""

    def __init__(self, broker_url: str) -> None:
        """Prepare, without connecting.

        Args:
            broker_url: where Flower listens too.
        """
        self._app = make_app(broker_url, bounded=True)
        self._backlog: queue.Queue[Event | None] = queue.Queue(_BACKLOG)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._producer: Any = None  # kombu's producer; the library is typed in part
        self._exchange: Any = None
        self._clock = 0
        self._closing = threading.Event()
        self._is_over = False
        self.dropped = 0
        """Events that were not sent since the start."""

    def notify(self, kind: str, fields: Mapping[str, object]) -> None:
        """Send an event soon, or drop it where too many wait."""
        self._ensure_thread()
        event = {"hostname": "router", **fields, "timestamp": time.time()}
        try:
            self._backlog.put_nowait((kind, event))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Send what waits, bounded to some seconds, and disconnect."""
        self._closing.set()
        if self._thread is not None and self._thread.is_alive():
            try:
                self._backlog.put(None, timeout=_STOP_SECONDS)
            except queue.Full:
                return
            self._thread.join(_STOP_SECONDS)

    def _ensure_thread(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="events", daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        down_until = 0.0
        while not self._is_over and (events := self._gathered()):
            if time.monotonic() < down_until:
                self.dropped += len(events)
                continue
            try:
                self._send(events)
            except Exception as error:  # noqa: BLE001 # whatever the broker's client raises: events are only a view
                self.dropped += len(events)
                down_until = time.monotonic() + _PAUSE_SECONDS
                _log.debug("an event for Flower was dropped", error=type(error).__name__)
                self._drop()
        self._drop()

    def _gathered(self) -> list[Event]:
        """Return the next events, those of a moment together; none when the sender is to end."""
        first = self._backlog.get()
        if first is None:
            return []
        self._closing.wait(_GATHER_SECONDS)
        events = [first]
        while len(events) < _GROUP:
            try:
                event = self._backlog.get_nowait()
            except queue.Empty:
                break
            if event is None:
                self._is_over = True
                break
            events.append(event)
        return events

    def _send(self, events: list[Event]) -> None:
        if self._producer is None:
            connection = self._app.connection_for_write()
            make: Any = messaging.Producer
            self._exchange = get_exchange(connection)
            self._producer = make(connection.channel(), auto_declare=False)
        group = []
        for kind, fields in events:
            self._clock += 1
            group.append({**fields, "type": kind, "clock": self._clock, "pid": os.getpid(), "utcoffset": 0})
        self._producer.publish(
            group,
            routing_key="task.multi",
            exchange=self._exchange.name,
            declare=[self._exchange],
            serializer="json",
            headers={"hostname": "router"},
            delivery_mode=1,
            retry=False,
        )

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.connection.close()
            except Exception:  # noqa: BLE001 # a broken connection may refuse even to be closed
                _log.debug("the broken connection could not be closed")

"""Sending jobs' messages: from the outbox to the broker, after the commit that wrote them.

The outbox row goes only after the message was sent. So a message may be sent twice, which a claim makes harmless, and is
never forgotten: what a broker that is down does not take stays in the outbox for the reconciler.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, lru_cache
from typing import Any, Final

import structlog
from kombu import messaging
from kombu.exceptions import KombuError
from sqlalchemy import bindparam, delete, select, update

from pam_jobs.app import is_amqp, make_app, queue_for, queue_name
from pam_jobs.clock import Clock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.base import table_of
from pam_jobs.db.engine import Database
from pam_jobs.db.many import among
from pam_jobs.db.tables import Job, JobState, OutboxMessage
from pam_jobs.jobs.signing import HEADER, sign, task_name
from pam_jobs.jobs.sql import run
from pam_jobs.jobs.states import WAITING
from pam_jobs.settings import ControlSettings

__all__ = ["Publisher"]

_log = structlog.get_logger(__name__)
_BATCH = 500
_BACKLOG = 250_000  # uids that wait for the background thread, some 18 MB; beyond it the reconciler finds them
_STOP_SECONDS = 5.0
_DECLARED_AT_ONCE = 50  # queues; RabbitMQ writes each to its disk
_JOBS: Final = table_of(Job)
_OUTBOX: Final = table_of(OutboxMessage)
_OLDEST: Final = (  # these are made once: they run with every message
    select(_OUTBOX.c.id, _OUTBOX.c.queue, _JOBS.c.uid, _JOBS.c.kind, _JOBS.c.state)
    .join(_JOBS, _JOBS.c.uid == _OUTBOX.c.job_uid)
    .order_by(_OUTBOX.c.id)
    .limit(_BATCH * 4)
)
_OF_JOBS: Final = _OLDEST.where(among(_OUTBOX.c.job_uid, "jobs"))
_DELETE: Final = delete(_OUTBOX).where(among(_OUTBOX.c.id, "ids"))
_QUEUED: Final = (
    update(_JOBS)
    .where(among(_JOBS.c.uid, "jobs"), _JOBS.c.state.in_(WAITING))
    .values(state=JobState.QUEUED, queued_at=bindparam("at"))
)

Notify = Callable[[str, dict[str, object]], None]


@dataclass(frozen=True, kw_only=True)
class _Message:
    outbox_ids: tuple[int, ...]
    job_uid: str
    kind: str
    queue: str


class Publisher:
    """Sends messages over one kept connection; safe to share between threads.

    Make one a process: it connects at the first message, not before.
    """

    def __init__(
        self,
        broker_url: str,
        keys: KeyStore,
        clock: Clock,
        settings: ControlSettings,
        *,
        notify: Notify = lambda _kind, _fields: None,
    ) -> None:
        """Prepare, without connecting.

        Args:
            broker_url: where to send.
            keys: signs the messages.
            clock: their expiry is counted from.
            settings: ``message_seconds``.
            notify: told of each message sent, for Flower; never blocks and never raises.
        """
        self._keys = keys
        self._clock = clock
        self._valid_for = timedelta(seconds=settings.message_seconds)
        self._notify = notify
        self._app = make_app(broker_url, bounded=True)
        self._is_amqp = is_amqp(broker_url)
        self._lock = threading.Lock()
        self._producer: Any = None  # kombu's producer; the library is typed in part
        self._declared: set[str] = set()
        self._is_down = False
        self._backlog: queue.Queue[str | None] = queue.Queue(_BACKLOG)
        self._thread: threading.Thread | None = None

    @property
    def is_down(self) -> bool:
        """Say whether the broker took nothing when something was last sent."""
        return self._is_down

    def publish(self, database: Database, job_uids: Sequence[str] | None = None) -> int:
        """Send what the outbox holds for the jobs, and record it.

        Args:
            database: where the outbox is; no transaction of the caller may be open.
            job_uids: whose messages; None sends the oldest of all.

        Returns:
            How many messages were sent: 0 also when the broker is away, and then the outbox keeps them.
        """
        sent = 0
        batches: Iterator[Sequence[str] | None] = iter([None])
        if job_uids is not None:
            batches = (job_uids[start : start + _BATCH] for start in range(0, len(job_uids), _BATCH))
        for uids in batches:
            messages, idle = self._read(database, uids)
            if messages and not self._send(messages):
                return sent
            self._record(database, messages, idle)
            sent += len(messages)
        return sent

    def after_commit(self, database: Database) -> Callable[[list[str]], None]:
        """Return the hook for ``AppContext.after_commit``: it hands the uids to a thread and returns at once."""

        def hand_over(job_uids: list[str]) -> None:
            if not job_uids:
                return
            self._ensure_thread(database)
            try:
                for uid in job_uids:
                    self._backlog.put_nowait(uid)
            except queue.Full:
                _log.warning("more jobs than the sender keeps up with; the reconciler publishes the rest")

        return hand_over

    def declare_queues(self, gateway_uids: Sequence[str]) -> None:
        """Make the gateways' queues exist on RabbitMQ, where gateways have no right to; Redis needs nothing."""
        if not self._is_amqp:
            return
        missing = [name for name in map(queue_name, gateway_uids) if name not in self._declared]
        for start in range(0, len(missing), _DECLARED_AT_ONCE):  # in between, messages are sent
            with self._lock:
                try:
                    self._declare(self._connected(), missing[start : start + _DECLARED_AT_ONCE])
                except self._errors as error:
                    self._lost(error)
                    return

    def close(self) -> None:
        """Send what waits, bounded to some seconds, and disconnect."""
        if self._thread is not None and self._thread.is_alive():
            self._backlog.put(None)
            self._thread.join(_STOP_SECONDS)
        with self._lock:
            self._drop()

    def _read(self, database: Database, uids: Sequence[str] | None) -> tuple[list[_Message], list[int]]:
        """Return one message a job that may still start, and the outbox rows of those that may not."""
        with database.transaction(read_only=True) as session:
            if uids is None:
                rows = session.execute(_OLDEST).all()
            else:
                rows = session.execute(_OF_JOBS, {"jobs": list(uids)}).all()
        wanted: dict[str, _Message] = {}
        idle = []
        for row in rows:
            if row.state not in WAITING:
                idle.append(row.id)
                continue
            known = wanted.get(row.uid)
            ids = (*known.outbox_ids, row.id) if known else (row.id,)
            wanted[row.uid] = _Message(outbox_ids=ids, job_uid=row.uid, kind=row.kind, queue=row.queue)
        return list(wanted.values()), idle

    def _send(self, messages: Sequence[_Message]) -> bool:
        expires = int((self._clock.now() + self._valid_for).timestamp())
        with self._lock:
            try:
                producer = self._connected()
                self._declare(producer, [message.queue for message in messages])
                with producer.batch(_BATCH):
                    for message in messages:
                        self._send_one(producer, message, expires)
            except self._errors as error:
                self._lost(error)
                return False
            if self._is_down:
                _log.info("the broker is back")
                self._is_down = False
        for message in messages:
            self._notify(
                "task-sent", {"uuid": message.job_uid, "name": task_name(message.kind), "queue": message.queue}
            )
        return True

    def _send_one(self, producer: Any, message: _Message, expires: int) -> None:
        name, args = task_name(message.kind), [message.job_uid]
        # A publication's own id: a gateway that remembers ids it has seen must still take a job published again.
        message_id = f"{message.job_uid}.{secrets.token_hex(4)}"
        header = sign(
            self._keys.signing,
            name=name,
            message_id=message_id,
            queue=message.queue,
            args=args,
            kwargs={},
            expires=expires,
        )
        task = self._app.amqp.as_task_v2(
            message_id,
            name,
            args,
            {},
            argsrepr=repr((message.job_uid,)),
            kwargsrepr="{}",
            origin="router",
            ignore_result=True,
        )
        self._app.amqp.send_task_message(
            producer, name, task, queue=_queue_object(message.queue), declare=[], headers={HEADER: header}, retry=False
        )

    def _record(self, database: Database, messages: Sequence[_Message], idle: Sequence[int]) -> None:
        ids = [*idle, *(row for message in messages for row in message.outbox_ids)]
        if not ids:
            return
        with database.transaction() as session:
            run(session, _DELETE, {"ids": ids})
            uids = [message.job_uid for message in messages]
            run(session, _QUEUED, {"jobs": uids, "at": self._clock.now()})

    def _connected(self) -> Any:
        if self._producer is None:
            connection = self._app.connection_for_write()
            make: Any = messaging.Producer
            self._producer = make(connection.channel(), auto_declare=False)
        return self._producer

    def _declare(self, producer: Any, queues: Sequence[str]) -> None:
        """Make RabbitMQ's queues exist: it drops a message to one that does not, without a word."""
        if not self._is_amqp:
            return
        for name in dict.fromkeys(queues):
            if name not in self._declared:
                _queue_object(name).bind(producer.channel).queue_declare()
                self._declared.add(name)

    @cached_property
    def _errors(self) -> tuple[type[Exception], ...]:
        transport: Any = self._app.connection_for_write().transport
        return (OSError, AttributeError, KombuError, *transport.connection_errors, *transport.channel_errors)

    def _lost(self, error: BaseException) -> None:
        if not self._is_down:
            _log.warning("the broker took no message; jobs stay in the outbox", error=type(error).__name__)
            self._is_down = True
        self._drop()

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        self._declared.clear()
        if producer is None:
            return
        try:
            producer.connection.close()
        except self._errors:
            _log.debug("the broken connection could not be closed")

    def _ensure_thread(self, database: Database) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, args=(database,), name="publisher", daemon=True)
                self._thread.start()

    def _serve(self, database: Database) -> None:
        while (first := self._backlog.get()) is not None:
            uids = [first]
            stop = False
            while len(uids) < _BATCH:
                try:
                    uid = self._backlog.get_nowait()
                except queue.Empty:
                    break
                if uid is None:
                    stop = True
                    break
                uids.append(uid)
            try:
                self.publish(database, uids)
            except Exception:  # noqa: BLE001 # a thread of the process's life: the next job must still be sent
                _log.exception("jobs could not be published; the reconciler tries again")
            if stop:
                return


@lru_cache(maxsize=10_000)
def _queue_object(name: str) -> Any:
    return queue_for(name.removeprefix("gateway."))

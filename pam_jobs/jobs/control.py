"""The control process: a Celery worker on the queue ``control``, and the loops that keep jobs and audit log going.

The loops need the database alone. A broker that is away keeps messages in the outbox and the worker reconnecting, and
nothing else waits for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import structlog
from celery import Celery

from pam_jobs.app import CONTROL_QUEUE, make_app, node_name
from pam_jobs.audit.delivery import serve_once
from pam_jobs.audit.sealing import seal_once
from pam_jobs.clock import Clock, SystemClock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database
from pam_jobs.jobs import redis_guard
from pam_jobs.jobs.flower_events import EventSender
from pam_jobs.jobs.loops import Loop
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.publisher import Publisher
from pam_jobs.jobs.reconciler import reconcile_once
from pam_jobs.metrics.totals import count_once
from pam_jobs.settings import ControlSettings

__all__ = ["TICK", "ControlProcess"]

TICK = "pam.control.tick"
"""The one task of the queue: look at everything now instead of at the next pass. It has no arguments."""

_log = structlog.get_logger(__name__)
_SEAL_SECONDS = 0.5
_COUNT_SECONDS = 2.0
_POOL_SIZE = 6
_STOP_SECONDS = 8.0


class ControlProcess:
    """Everything of one control process; any number of them may run."""

    def __init__(self, settings: ControlSettings, clock: Clock | None = None) -> None:
        """Prepare, without connecting.

        Args:
            settings: of the control plane.
            clock: the machine's when absent.
        """
        self._settings = settings
        self._clock = clock or SystemClock()
        self._keys = KeyStore(settings.keys_dir)
        self._database = Database(settings.database_url, pool_size=_POOL_SIZE)
        self._events = EventSender(settings.broker_url) if settings.events else None
        notify = self._events.notify if self._events else (lambda _kind, _fields: None)
        self._notify = notify
        self._publisher = Publisher(settings.broker_url, self._keys, self._clock, settings, notify=notify)
        self._policy = JobPolicy.of(settings)
        self._loops = self._make_loops()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then end what is under way."""
        self._keys.ensure()
        redis_guard.install()
        app = self._make_worker_app()
        for loop in self._loops:
            loop.start()
        _log.info("control process started", loops=len(self._loops))
        try:
            app.Worker(
                hostname=node_name("control", secrets.token_hex(4)),
                pool="threads",
                concurrency=1,
                queues=[CONTROL_QUEUE],
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
                loglevel="WARNING",
                quiet=True,
            ).start()
        finally:
            self._stop()

    def wake(self) -> None:
        """Let every loop begin its next pass at once."""
        for loop in self._loops:
            loop.wake()

    def _make_loops(self) -> Sequence[Loop]:
        database, keys, clock, settings = self._database, self._keys, self._clock, self._settings

        def reconcile() -> bool:
            counts = reconcile_once(
                database, clock, settings, publisher=self._publisher, policy=self._policy, notify=self._notify
            )
            if counts:
                _log.info("jobs reconciled", **{name: value for name, value in vars(counts).items() if value})
            return counts.has_more

        return (
            Loop("reconciler", reconcile, settings.reconcile_seconds),
            Loop("audit sealer", lambda: self._seal(database, clock), _SEAL_SECONDS),
            Loop("event counters", lambda: count_once(database), _COUNT_SECONDS),
            Loop("audit delivery", lambda: serve_once(database, keys, clock), settings.sink_seconds),
        )

    def _seal(self, database: Database, clock: Clock) -> int:
        sealed = seal_once(database, clock)
        if sealed:
            self._loops[-1].wake()  # receivers hear of new events without waiting for their turn
        return 0

    def _make_worker_app(self) -> Celery:
        app = make_app(self._settings.broker_url)

        app.task(self.wake, name=TICK, shared=False)
        app.finalize()
        # Celery's own tasks would let whoever writes to the queue chain registered tasks; nobody here needs them.
        for name in [name for name in app.tasks if name.startswith("celery.")]:
            app.tasks.unregister(name)
        return app

    def _stop(self) -> None:
        for loop in self._loops:
            loop.stop()
        late = [loop for loop in self._loops if not loop.join(_STOP_SECONDS)]
        if late:
            _log.warning("a loop did not end in time; what it did is repeated by the next process", loops=len(late))
        self._publisher.close()
        if self._events:
            self._events.close()
        self._database.dispose()

"""Celery's beat over the due table: ``celery -A APP beat -S scheduler.beat:DueScheduler``.

Any number of beats may run; none leads. Nothing is kept but the table, so there is no schedule file to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog
from celery import beat
from sqlalchemy.exc import SQLAlchemyError

from pam_jobs.clock import Clock, SystemClock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database
from pam_jobs.jobs.publisher import Publisher
from pam_jobs.settings import ControlSettings
from scheduler import due

__all__ = ["DueScheduler"]

_log = structlog.get_logger(__name__)

_LONGEST_PAUSE: Final = 1.0  # seconds; a schedule made meanwhile waits no longer than this
_CONTENDED_PAUSE: Final = 0.1  # another beat holds what is due
_FIRST_BACKOFF: Final = 1.0
_LONGEST_BACKOFF: Final = 15.0
_POOL_SIZE: Final = 2

Publish = Callable[[list[str]], None]


class DueScheduler(beat.Scheduler):  # type: ignore[misc]  # celery has no types
    """A beat scheduler whose entries are the rows of the due table."""

    def __init__(
        self,
        app: Any,
        *,
        lazy: bool = False,
        database: Database | None = None,
        clock: Clock | None = None,
        publish: Publish | None = None,
        **options: Any,
    ) -> None:
        """Prepare, without connecting.

        Args:
            app: the Celery application.
            lazy: celery's banner asks for a scheduler that does nothing.
            database: the control plane's; absent: of ``PAM_DATABASE_URL``.
            clock: absent: the machine's.
            publish: called with the uids of jobs that are committed; must not raise. Absent: to the broker.
            options: what celery's service passes on; a schedule file's name among it is not used.
        """
        self._database = database
        self._clock: Clock = clock or SystemClock()
        self._publish = publish
        self._publisher: Publisher | None = None
        self._failures = 0
        self._retry_at = 0.0  # on the monotonic clock; the pauses until then stay short, so that a stop is quick
        options.pop("schedule_filename", None)
        options["max_interval"] = _LONGEST_PAUSE
        super().__init__(app, lazy=lazy, **options)

    def setup_schedule(self) -> None:
        """Read the settings of what was not given."""
        if self._database is not None and self._publish is not None:
            return
        settings = ControlSettings()
        self._database = self._database or Database(settings.database_url, pool_size=_POOL_SIZE)
        if self._publish is None:
            keys = KeyStore(settings.keys_dir)
            keys.ensure()
            self._publisher = Publisher(settings.broker_url, keys, self._clock, settings)
            self._publish = self._publisher.after_commit(self._database)

    def tick(self, *_args: Any, **_options: Any) -> float:
        """Make the jobs of what is due and publish them.

        Returns:
            Seconds until it should be called again, at most 1.
        """
        if self._database is None:
            raise TypeError("a lazy scheduler does not tick")
        wait = self._retry_at - self._clock.monotonic()
        if wait > 0:
            return min(wait, _LONGEST_PAUSE)
        try:
            return self._turn(self._database)
        except SQLAlchemyError as error:
            return self._back_off(error)

    def close(self) -> None:
        """Send what is on its way and close the connections; nothing needs saving."""
        if self._publisher is not None:
            self._publisher.close()
        if self._database is not None:
            self._database.dispose()

    @property
    def info(self) -> str:
        """What celery's banner shows."""
        return "    . schedule -> the due table of the control plane's database"

    def _turn(self, database: Database) -> float:
        next_due = due.next_due(database)
        self._recovered()
        if next_due is None:
            return _LONGEST_PAUSE
        wait = (next_due - self._clock.now()).total_seconds()
        if wait > 0:
            return min(wait, _LONGEST_PAUSE)
        created = due.tick(database, self._clock)
        if not created:
            return _CONTENDED_PAUSE
        if self._publish is not None:
            self._publish(created)
        return 0.0

    def _back_off(self, error: SQLAlchemyError) -> float:
        wait = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._retry_at = self._clock.monotonic() + wait
        # The driver's own text can hold parameters; its class says enough.
        _log.warning("database unavailable", error=type(error).__name__, failures=self._failures, retry_in_seconds=wait)
        return min(wait, _LONGEST_PAUSE)

    def _recovered(self) -> None:
        if self._failures:
            _log.info("database available again", failures=self._failures)
            self._failures = 0

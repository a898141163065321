"""The router process: ``python -m pam_jobs.api``, configured by ``PAM_*``."""

from __future__ import annotations

import gc
import signal
import sys

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from pam_jobs import logs
from pam_jobs.api.app import create_app
from pam_jobs.api.context import AppContext
from pam_jobs.api.server import make_server
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.crypto.tls import ensure_tls
from pam_jobs.db.engine import Database
from pam_jobs.db.migrate import upgrade
from pam_jobs.errors import PamJobsError
from pam_jobs.jobs.flower_events import EventSender
from pam_jobs.jobs.publisher import Publisher
from pam_jobs.settings import ControlSettings

__all__ = ["main"]


def _serve(settings: ControlSettings) -> None:
    log = structlog.get_logger("router")
    clock = SystemClock()
    keys = KeyStore(settings.keys_dir)
    keys.ensure()
    tls = ensure_tls(settings.keys_dir / "tls", settings.tls_name_list, clock)
    upgrade(settings.database_url)
    database = Database(settings.database_url)
    events = EventSender(settings.broker_url) if settings.events else None
    context = AppContext(settings=settings, database=database, keys=keys, clock=clock)
    if events is not None:
        context.notify = events.notify
    publisher = Publisher(settings.broker_url, keys, clock, settings, notify=context.notify)
    context.after_commit = publisher.after_commit(database)
    context.declare_queues = publisher.declare_queues
    gc.collect()
    gc.freeze()  # what was made up to here stays; looking through it again and again took a share of every request
    log.info("router starts", address=f"{settings.listen_host}:{settings.listen_port}", public=settings.public_host)
    server = make_server(create_app(context), tls, host=settings.listen_host, port=settings.listen_port)

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn raises the signal again when it has stopped; with the default handler that would end us right there.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        server.run()
    finally:
        publisher.close()
        if events is not None:
            events.close()
        database.dispose()
        log.info("router stopped")


def main() -> int:
    """Serve until SIGTERM; return 1 with one sentence where it cannot start."""
    try:
        settings = ControlSettings()
    except ValidationError as error:
        wrong = ", ".join(
            f"PAM_{'.'.join(map(str, entry['loc'])).upper()} ({entry['msg']})" for entry in error.errors()
        )
        sys.stderr.write(f"the settings are not valid: {wrong}\n")
        return 1
    logs.configure(is_json=settings.log_json)
    try:
        _serve(settings)
    except PamJobsError as error:
        sys.stderr.write(f"{error.sentence()}\n")
        return 1
    except OperationalError:
        sys.stderr.write("the database cannot be reached: check PAM_DATABASE_URL and that the server runs\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m scheduler``: one beat process, configured by ``PAM_*``. Start as many as you like."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

import structlog
from celery import beat
from pydantic import ValidationError

from pam_jobs.app import make_app
from pam_jobs.settings import ControlSettings
from scheduler.beat import DueScheduler

__all__ = ["main"]


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    try:
        settings = ControlSettings()
    except ValidationError as error:
        missing = ", ".join("PAM_" + str(entry["loc"][0]).upper() for entry in error.errors() if entry["loc"])
        sys.stderr.write(f"beat cannot start with these settings: correct {missing}\n")
        return 1
    _set_up_logging(is_json=settings.log_json)
    service = beat.Service(make_app(settings.broker_url), max_interval=1, scheduler_cls=DueScheduler)

    def stop(_number: int, _frame: FrameType | None) -> None:
        service.stop()  # the loop sleeps a second at most, and no turn of it is cut short

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    service.start()
    return 0


def _set_up_logging(*, is_json: bool) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if is_json else structlog.dev.ConsoleRenderer(colors=False),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())

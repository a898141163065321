"""Structured logs on standard error: one JSON object a line, or plain text for a person."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

__all__ = ["configure"]


def configure(*, as_json: bool = True, level: int = logging.INFO) -> None:
    """Send our logs and those of libraries to standard error.

    Args:
        as_json: one JSON object a line; otherwise aligned text.
        level: the least severity that is written.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[_without_exception_text, structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in (
        "httpx",
        "httpcore",
        "urllib3",
        "paramiko",
        "kombu",
        "amqp",
        "celery.app.trace",
        "celery.worker.strategy",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _without_exception_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace a traceback by the exception's type: a driver's message may quote what it was given."""
    found = event.pop("exc_info", None)
    record = event.get("_record")
    if found is None and record is not None:
        found = record.exc_info
    if isinstance(found, tuple) and found and found[0] is not None:
        event["error"] = found[0].__name__
    if record is not None:
        record.exc_info = None
        record.exc_text = None
    return event

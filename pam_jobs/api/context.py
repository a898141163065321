"""What every route needs, made once by ``create_app`` and kept on the application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from pam_jobs.clock import Clock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database
from pam_jobs.settings import ControlSettings

__all__ = ["AppContext", "Context", "remote_address"]


@dataclass(kw_only=True)
class AppContext:
    """The services behind the routes."""

    settings: ControlSettings
    database: Database
    keys: KeyStore
    clock: Clock
    after_commit: Callable[[list[str]], None] = field(default=lambda _uids: None)
    """Called with job uids after the commit that created them; publishes at once, and never raises."""
    notify: Callable[[str, dict[str, object]], None] = field(default=lambda _kind, _fields: None)
    """Called after a commit with a worker or task event for Flower; never blocks and never raises."""
    declare_queues: Callable[[list[str]], None] = field(default=lambda _gateway_uids: None)
    """Called before a gateway is told its queue, which on RabbitMQ it may not declare itself; never raises."""


async def _context(request: Request) -> AppContext:  # async: FastAPI sends a plain function through the thread pool
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]


def remote_address(request: Request) -> str | None:
    """Return the peer's address as the audit log shows it."""
    return request.client.host if request.client else None

"""The tasks of a gateway: one for each kind of job, each nothing but a name for the engine's work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from celery import Celery

from pam_jobs.jobs.signing import task_name
from workers.request import MessageGuard, request_class

__all__ = ["KINDS", "register"]

KINDS: Final = ("rotate", "verify", "reconcile", "plan", "discover")


def register(app: Celery, guard: MessageGuard, work: Callable[[str], None]) -> None:
    """Give the application its tasks.

    Args:
        app: the gateway's application.
        guard: admits messages.
        work: does the job of that uid; must not raise but to hand the message back.
    """
    request = request_class(guard)

    def run(self: Any, job_uid: str) -> None:
        guard.began(self.request.id)
        work(str(job_uid))

    for kind in KINDS:
        app.task(run, name=task_name(kind), bind=True, Request=request, ignore_result=True)

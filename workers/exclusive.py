"""Asks the router whether another administrator of the same server is being changed, before one is."""

from __future__ import annotations

from contextlib import suppress

import structlog

from connectors.base import Target
from pam_jobs.errors import InvalidInput, LeaseLost
from pam_jobs.jobs.wire import ADMINISTRATOR_BUSY
from workers.work import Work

__all__ = ["AdministratorBusy", "wait_for_turn"]

_log = structlog.get_logger(__name__)


class AdministratorBusy(LeaseLost):
    """Another administrator of the server is being changed: the router has queued the job again."""

    code = ADMINISTRATOR_BUSY


def wait_for_turn(work: Work) -> None:
    """Return once the job may change its account; only administrators have to ask.

    Called before anything is staged, logged in or changed, also by an attempt that goes on with an earlier one's value.

    Raises:
        AdministratorBusy: it is another job's turn, and this one's lease is over.
        LeaseLost, EpochConflict: another attempt has the job.
        RouterUnavailable: the router did not answer; nothing was begun.
    """
    target = _target(work) if work.claim.administers else None
    if target is None:
        return
    other = work.job.exclusive(work.ports.tags.of(target))
    if other is not None:
        _log.info("administrator_busy", waits_for=other)
        raise AdministratorBusy


def _target(work: Work) -> Target | None:
    """Return where the account is; None where the records do not say: what comes next tells what is wrong with them."""
    with suppress(InvalidInput):
        return work.target
    return None

"""What is looked at before a change."""

from __future__ import annotations

from connectors.base import Preflight, Session
from pam_jobs.errors import Forbidden, Unsupported
from workers.work import Work

__all__ = ["checked_preflight"]


def checked_preflight(session: Session, work: Work) -> Preflight:
    """Return what the target tells before a change.

    Raises:
        Forbidden: the rotator may not change the account.
        Unsupported: there is no such account.
        TargetError: anything else the target said.
    """
    found = session.preflight(work.account)
    if found.account_exists is False:
        raise Unsupported(
            "the account does not exist on the target", remedy="correct the record's login, or create the account"
        )
    if not found.may_change:
        raise Forbidden("the admin may not change this account", remedy="give the admin the right to, or name another")
    return found

"""The lockout budget: how many logins a target may still refuse an account before we stop trying."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.tables import LoginRefusal
from pam_jobs.jobs.policy import JobPolicy

__all__ = ["count", "since"]


def since(now: datetime, policy: JobPolicy, window_seconds: int | None = None) -> datetime:
    """Return where the budget's window begins.

    Args:
        now: where it ends.
        policy: holds the default window.
        window_seconds: a target's own; None: the default.
    """
    return now - timedelta(seconds=window_seconds or policy.refusal_window_seconds)


def count(
    session: Session,
    clock: Clock,
    policy: JobPolicy,
    *,
    record_uid: str | None,
    gateway_uid: str,
    new: int,
    window_seconds: int | None = None,
) -> int:
    """Record refused logins and return how many there were within the window, shared by all gateways.

    Args:
        session: the caller's transaction.
        clock: when they were refused.
        policy: the default window.
        record_uid: the account; None (discovery, a resource without administrator) is not counted.
        gateway_uid: who tried.
        new: how many, 0 to ask only.
        window_seconds: the target's own window.
    """
    if record_uid is None:
        return 0
    now = clock.now()
    session.add_all(LoginRefusal(record_uid=record_uid, gateway_uid=gateway_uid, at=now) for _ in range(new))
    session.flush()
    begin = since(now, policy, window_seconds)
    counted = select(func.count()).where(LoginRefusal.record_uid == record_uid, LoginRefusal.at > begin)
    return session.scalar(counted) or 0

"""The lockout budget: how many logins a target may still refuse an account before we stop trying."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.tables import LoginRefusal
from pam_jobs.jobs.policy import JobPolicy

__all__ = ["add", "left", "since"]


def since(now: datetime, policy: JobPolicy) -> datetime:
    """Return where the budget's window begins."""
    return now - timedelta(seconds=policy.refusal_window_seconds)


def left(session: Session, clock: Clock, policy: JobPolicy, record_uid: str | None) -> int:
    """Return how many logins as the account may still be refused within the window; shared by all gateways."""
    if record_uid is None:
        return policy.refusal_limit
    used = session.scalar(
        select(func.count()).where(LoginRefusal.record_uid == record_uid, LoginRefusal.at > since(clock.now(), policy))
    )
    return max(0, policy.refusal_limit - (used or 0))


def add(
    session: Session, clock: Clock, policy: JobPolicy, *, record_uid: str | None, gateway_uid: str, count: int
) -> int:
    """Record refused logins and return what is left of the budget.

    Args:
        session: the caller's transaction.
        clock: when they were refused.
        policy: the budget.
        record_uid: the account; None (discovery) is not counted.
        gateway_uid: who tried.
        count: how many, at least 1.
    """
    if record_uid is None:
        return policy.refusal_limit
    now = clock.now()
    session.add_all(LoginRefusal(record_uid=record_uid, gateway_uid=gateway_uid, at=now) for _ in range(count))
    session.flush()
    return left(session, clock, policy, record_uid)

"""Giving a gateway its next job, within its limits and windows, and letting the next one begin when a place is free."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import bindparam, case, or_, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import record_event
from pam_jobs.clock import Clock, stamp
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import (
    GatewayTurn,
    Job,
    PamConfiguration,
    Priority,
    RotationSettings,
)
from pam_jobs.errors import StateError
from pam_jobs.jobs import held, lease, turns, wire
from pam_jobs.jobs.lease import Busy, Overtaken
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.sql import changed
from pam_jobs.jobs.states import FINAL, HELD
from pam_jobs.jobs.submission import KEEP_WAITING, enqueue
from pam_jobs.jobs.trail import CONTROL
from pam_jobs.jobs.turns import Desk, Lane, Place
from pam_jobs.rotation.timing import timings

__all__ = [
    "CALENDAR",
    "DRAINED",
    "LIMIT",
    "Again",
    "held_by_calendar",
    "move",
    "refill",
    "refusal",
    "take",
    "unhold",
    "wake",
    "wake_all",
]

CALENDAR: Final = "calendar_closed"
"""Of a job that waits for a window to open, or a blackout to end."""

LIMIT: Final = "job_limit"
"""Of a job that waits until another one ends, because of a limit."""

DRAINED: Final = "gateway_drained"
"""Of a job that waits for a gateway that begins nothing."""

_MOST_REFILLED: Final = 2000
_MOST_TRIES: Final = 25  # jobs that one claim looks at, where the first ones have to wait for something
_LOOK_AGAIN: Final = timedelta(days=1)  # when calendars leave no time at all

_JOBS: Final = table_of(Job)
_TURNS: Final = table_of(GatewayTurn)
_CONFIGURATIONS: Final = table_of(PamConfiguration)
_HINTED: Final = (  # made once: they run with every claim or report
    select(_JOBS.c.state, _JOBS.c.not_before, _JOBS.c.lease_until, _CONFIGURATIONS.c.gateway_uid)
    .outerjoin(_CONFIGURATIONS, _CONFIGURATIONS.c.record_uid == _JOBS.c.configuration_uid)
    .where(_JOBS.c.uid == bindparam("job"), _JOBS.c.gateway_uid == bindparam("gateway"))
)
_SHORT: Final = (
    select(_TURNS.c.gateway_uid)
    .select_from(_JOBS)
    .outerjoin(_CONFIGURATIONS, _CONFIGURATIONS.c.record_uid == _JOBS.c.configuration_uid)
    .join(_TURNS, _TURNS.c.gateway_uid.in_((_JOBS.c.gateway_uid, _CONFIGURATIONS.c.gateway_uid)))
    .where(_JOBS.c.uid == bindparam("job"), _TURNS.c.is_short)
)
_ALL_SHORT: Final = select(_TURNS.c.gateway_uid).where(_TURNS.c.is_short)


class Again(Busy):
    """Jobs of targets at their limits were set apart; the next claim sees what was behind them. Commit, and ask again."""


def take(
    session: Session, clock: Clock, policy: JobPolicy, *, hint: str, place: Place, instance: str
) -> wire.Claim | Busy:
    """Give an instance the job whose turn it is, because a message came.

    Args:
        session: the caller's transaction; it commits also when ``Busy`` is returned.
        clock: what the lease is counted from.
        policy: how long it lasts.
        hint: the job that the message names; mostly it is the one, and when nothing else waits it says why there is none.
        place: the gateway of the device that asks.
        instance: of that gateway, registered by hello.

    Returns:
        The claim, perhaps of another job; or ``Busy``, which is ``Again`` where the same message may ask once more.

    Raises:
        NotFound, AccessDenied: as ``lease.claim``, of the hint.
        Overtaken: something else was done to the job at the same time; ask again.
    """
    desk = turns.lock(session, place, clock.now())
    if place.drained_at is not None:
        _tell_waiting(session, hint, DRAINED)
        return Busy(why=_drained(place), remedy="nothing to do here: the job waits", not_before=clock.now())
    claimed = {"gateway_uid": place.gateway_uid, "instance": instance}
    for _ in range(_MOST_TRIES):
        desk = turns.look(session, desk, clock.now(), policy.patience)
        if _set_apart(session, desk, clock.now()):  # many rows are locked now: no other is waited for
            return Again(
                why="jobs of targets at their limits were in the way", remedy="ask again", not_before=clock.now()
            )
        found = desk.next()
        if found is None:
            return _nothing(session, clock, policy, desk, hint, instance)
        job_uid, lane, priority = found
        if priority != Priority.ON_DEMAND and lane.has_calendars and _hold(session, clock, desk, lane):
            continue
        taken = lease.claim(session, clock, policy, job_uid=job_uid, **claimed)
        if isinstance(taken, wire.Claim):
            turns.note_turn(session, desk, lane, priority)
            return taken
    return Busy(
        why=f"the first {_MOST_TRIES} jobs in line wait for something else",
        remedy="nothing to do here: the next message goes on",
        not_before=clock.now(),
    )


def _set_apart(session: Session, desk: Desk, now: datetime) -> int:
    """Set what floods targets at their limits apart, where it keeps others from being seen; return how many jobs that are.

    A batch of each line; where that is not enough, it is to be looked at again. Lines that may not begin anything are
    left alone.
    """
    if desk.is_full or not desk.saturated:
        return 0
    lines = [(lane, each) for lane in desk.lanes if not lane.is_full for each in Priority if lane.beyond[each]]
    full, uid = list(desk.saturated), desk.place.gateway_uid
    count = sum(held.hold(session, now, uid, lane.configuration_uid, each, full) for lane, each in lines)
    if count:
        turns.mark_short(session, desk, is_short=True)
    return count


def _nothing(
    session: Session, clock: Clock, policy: JobPolicy, desk: Desk, hint: str, instance: str
) -> wire.Claim | Busy:
    """Answer a message when nothing may begin: say what its job waits for, or how it stands."""
    now = clock.now()
    row = session.execute(_HINTED, {"job": hint, "gateway": desk.place.gateway_uid}).one_or_none()
    if row is not None and row.gateway_uid not in (desk.place.gateway_uid, None):
        return Busy(why=f"job {hint} waits for another gateway now", remedy="nothing to do here", not_before=now)
    if row is not None and _might_begin(row, now) and (why := _limited(session, desk, hint)) is not None:
        turns.mark_short(session, desk, is_short=True)
        _tell_waiting(session, hint, LIMIT)
        return Busy(why=why, remedy="nothing to do here: it begins when a place is free", not_before=now)
    if not desk.saturated and not desk.has_held and not any(any(lane.heads) for lane in desk.lanes):
        turns.mark_short(session, desk, is_short=False)
    claimed = {"job_uid": hint, "gateway_uid": desk.place.gateway_uid, "instance": instance}
    try:
        return lease.claim(session, clock, policy, **claimed)
    except Overtaken:
        raise
    except StateError as error:  # nothing was written for it, and what was held back for others is to be committed
        return Busy(why=error.message, remedy=error.remedy or "nothing to do here", not_before=now)


def _might_begin(row: Any, now: datetime) -> bool:
    if row.state in HELD:
        return row.lease_until is not None and row.lease_until <= now
    return row.state not in FINAL and (row.not_before is None or row.not_before <= now)


def _limited(session: Session, desk: Desk, job_uid: str) -> str | None:
    job = session.get(Job, job_uid)
    return None if job is None else refusal(session, desk, job)


def refusal(session: Session, desk: Desk, job: Job) -> str | None:
    """Return which limit keeps a job of the gateway from beginning now, in a sentence; None when none does."""
    if desk.place.drained_at is not None:
        return _drained(desk.place)
    if desk.is_full:
        return (
            f"gateway {desk.place.name!r} works on {_jobs(desk.running)}, and its limit is {desk.place.job_limit}:"
            f" raise it with `pam gateway edit --gateway {shlex.quote(desk.place.name)} --job-limit N`"
        )
    lane = next((each for each in desk.lanes if each.configuration_uid == job.configuration_uid), None)
    if lane is not None and lane.is_full:
        return (
            f"{_jobs(lane.running)} of the PAM configuration {lane.configuration_uid} are at work, and its limit is"
            f" {lane.job_limit}: raise it with `pam config edit {lane.configuration_uid} --job-limit N`"
        )
    resource_uid = session.scalar(
        select(RotationSettings.resource_uid).where(RotationSettings.record_uid == job.record_uid)
    )
    if desk.saturated and resource_uid is not None and resource_uid in desk.saturated:
        limit = desk.saturated[resource_uid]
        return (
            f"{_jobs(limit)} on the resource {resource_uid} are at work, which is its limit: raise it with"
            f" `pam config edit {job.configuration_uid} --resource-limit {resource_uid}=N`"
        )
    return None


def _drained(place: Place) -> str:
    since = stamp(place.drained_at) if place.drained_at is not None else "now"
    return (
        f"gateway {place.name!r} is drained since {since} and begins nothing:"
        f" let it go on with `pam gateway resume --gateway {shlex.quote(place.name)}`"
    )


def _tell_waiting(session: Session, job_uid: str, cause: str) -> None:
    """Show on the job what its message was used up by."""
    statement = update(Job).where(Job.uid == job_uid, turns.IN_LINE, Job.cause.is_distinct_from(cause))
    changed(session, statement.values(cause=cause))


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def wake(session: Session, clock: Clock, policy: JobPolicy, job_uid: str) -> tuple[str, ...]:
    """Send for the job that the place of one that has ended goes to, where limits have left some without a message.

    The place may be that of the job's gateway, of its configuration or of its target; the configuration's other jobs may
    wait for another gateway.

    Returns:
        The job; publish it after the commit.
    """
    return _send_for(session, clock, policy, [uid for (uid,) in prepared.rows(session, _SHORT, {"job": job_uid})])


def wake_all(session: Session, clock: Clock, policy: JobPolicy) -> int:
    """Do so for every gateway where limits have left jobs without a message; return how many jobs were sent for.

    A place that is freed while a claim finds none free is seen by neither of the two.
    """
    return len(_send_for(session, clock, policy, session.scalars(_ALL_SHORT).all()))


def _send_for(session: Session, clock: Clock, policy: JobPolicy, gateway_uids: Sequence[str]) -> tuple[str, ...]:
    published = []
    for uid in gateway_uids:
        desk = turns.find(session, uid)
        if desk is None:
            continue
        desk = turns.look(session, desk, clock.now(), policy.patience)
        found = desk.next()
        job_uid = found[0] if found is not None else _unseen(desk)
        if job_uid is not None:
            enqueue(session, clock, job_uid, uid)
            published.append(job_uid)
    return tuple(published)


def _unseen(desk: Desk) -> str | None:
    """Return a job whose message has the next claim look further, where targets at their limits hide what is behind."""
    if desk.is_full or desk.place.drained_at is not None:
        return None
    return next((uid for lane in desk.lanes if not lane.is_full for uid in lane.beyond if uid), None)


def refill(session: Session, clock: Clock, gateway_uid: str) -> tuple[str, ...]:
    """Send for what limits or a drain have left without a message, because they changed.

    Returns:
        The jobs; publish them after the commit.
    """
    uids = session.scalars(
        select(Job.uid)
        .where(turns.IN_LINE, Job.gateway_uid == gateway_uid, Job.cause.in_((LIMIT, DRAINED)))
        .order_by(Job.priority, Job.created_at)
        .limit(_MOST_REFILLED)
    ).all()
    for uid in uids:
        enqueue(session, clock, uid, gateway_uid)
    return tuple(uids)


def held_by_calendar(session: Session, configuration_uid: str, now: datetime) -> tuple[datetime, str | None] | None:
    """Return until when its calendars keep a configuration's scheduled jobs from beginning, and which; None: they do not.

    Where they leave no time at all it is looked at again after a day.
    """
    timing = timings(session, [configuration_uid]).get(configuration_uid)
    if timing is None:
        return None
    allowed, calendar_uid = timing.first_allowed(now)
    if allowed == now:
        return None
    return allowed or now + _LOOK_AGAIN, calendar_uid


def _hold(session: Session, clock: Clock, desk: Desk, lane: Lane) -> bool:
    """Keep the scheduled jobs of a configuration away until its calendars allow them; say whether there were any.

    What has begun once is brought to its end whenever that is.
    """
    now = clock.now()
    held = held_by_calendar(session, lane.configuration_uid, now)
    if held is None:
        return False
    until = held[0]
    late = until + KEEP_WAITING
    statement = (
        update(Job)
        .where(
            turns.IN_LINE,
            Job.gateway_uid == desk.place.gateway_uid,
            Job.configuration_uid == lane.configuration_uid,
            Job.priority != Priority.ON_DEMAND,
            Job.attempts == 0,
            or_(Job.not_before.is_(None), Job.not_before <= now),
        )
        .values(not_before=until, cause=CALENDAR, expires_at=case((Job.expires_at < late, late), else_=Job.expires_at))
    )
    count = changed(session, statement)
    if count:
        record_event(
            session,
            clock,
            CONTROL,
            "pam_jobs_held",
            configuration_uid=lane.configuration_uid,
            gateway_uid=desk.place.gateway_uid,
            calendar_uid=held[1],
            not_before=until.isoformat(),
            count=count,
        )
    return count > 0


def unhold(session: Session, clock: Clock, configuration_uid: str) -> None:
    """Let what waits for a calendar be looked at again, because calendars changed."""
    _requeue(session, clock, Job.configuration_uid == configuration_uid, Job.cause == CALENDAR, not_before=None)


def move(session: Session, clock: Clock, configuration_uid: str, gateway_uid: str) -> int:
    """Send what waits for a configuration to its new gateway; return how many jobs that are.

    A message that is at the old one's queue already finds nothing to do there. What the old one works on, it ends.
    """
    return _requeue(
        session,
        clock,
        Job.configuration_uid == configuration_uid,
        Job.gateway_uid != gateway_uid,
        gateway_uid=gateway_uid,
        held_for=None,
    )


def _requeue(session: Session, clock: Clock, *which: Any, **values: Any) -> int:
    rows = session.execute(
        update(Job)
        .where(turns.IN_LINE, *which)
        .values(cause=None, **values)
        .returning(Job.uid, Job.gateway_uid)
        .execution_options(synchronize_session=False)
    ).all()
    for uid, gateway_uid in rows:  # of several messages of a job the publisher sends the newest alone
        enqueue(session, clock, uid, gateway_uid)
    return len(rows)

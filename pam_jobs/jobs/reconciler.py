"""Bringing jobs, messages and leases back into agreement, whatever was lost, stopped or restarted.

Any number of control processes may do this at once: every change is an update with its condition, and whoever comes
second changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, exists, func, or_, select, update
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.engine import Database
from pam_jobs.db.many import among
from pam_jobs.db.tables import (
    CredentialEpoch,
    Gateway,
    GatewayInstance,
    GatewayTurn,
    Job,
    JobState,
    OutboxMessage,
    PamConfiguration,
)
from pam_jobs.errors import Effect
from pam_jobs.jobs import dispatch, findings, flower_events, poisoned, presence, set_aside
from pam_jobs.jobs.fence import free, subject_of
from pam_jobs.jobs.outcome import EXHAUSTED, EXPIRED
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.publisher import Notify, Publisher
from pam_jobs.jobs.sql import changed
from pam_jobs.jobs.states import HELD, WAITING
from pam_jobs.jobs.submission import enqueue
from pam_jobs.jobs.trail import CONTROL, ended_event, job_event
from pam_jobs.jobs.wire import Status
from pam_jobs.settings import ControlSettings

__all__ = ["Counts", "reconcile_once"]

_BATCH = 500
_MOST_SENT = 2000  # messages between two looks at the outbox
_AT_ONCE = 2  # lost leases that a job may come back from without a pause
_QUIET = timedelta(seconds=10)  # a gateway that has not asked for a job for so long has no message left
_GRACE = timedelta(seconds=2)  # a message younger than this is its submitter's to send


@dataclass(kw_only=True)
class Counts:
    """What one pass did."""

    published: int = 0  # messages sent
    republished: int = 0  # jobs whose message seems to be lost
    leases_lost: int = 0
    resumed: int = 0  # unknown jobs whose back-off ended
    expired: int = 0
    rerouted: int = 0  # waiting jobs whose configuration has another gateway now
    sent_for: int = 0  # jobs that a limit left without a message, and there is a place now
    instances_offline: int = 0
    has_more: bool = False  # messages are left that can be sent at once

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


def reconcile_once(
    database: Database,
    clock: Clock,
    settings: ControlSettings,
    *,
    publisher: Publisher | None = None,
    policy: JobPolicy | None = None,
    notify: Notify = lambda _kind, _fields: None,
) -> Counts:
    """Look at everything once and repair it.

    Args:
        database: the truth.
        clock: what leases and waits are compared with.
        settings: of the control plane.
        publisher: sends the messages; without it they wait in the outbox.
        policy: further numbers; by default from the settings and the environment.
        notify: told of instances and jobs that ended, for Flower.
    """
    numbers = policy or JobPolicy.of(settings)
    counts = Counts()
    with database.transaction() as session:
        gone = presence.overdue(session, clock, numbers, CONTROL)
    counts.instances_offline = len(gone)
    for _, name, instance in gone:
        notify(*flower_events.worker("worker-offline", name, instance))
    for job_uid in _ended_leases(database, clock):
        with database.transaction() as session:
            counts.leases_lost += _take_back(session, clock, numbers, job_uid)
    with database.transaction() as session:
        counts.expired = _expire(session, clock)
        counts.resumed = _resume(session, clock)
        counts.rerouted = _reroute(session, clock)  # also what was resumed or taken back where it was begun
    with database.transaction() as session:
        counts.sent_for = dispatch.wake_all(session, clock, numbers)
        counts.republished = _republish(session, clock, numbers)
    if publisher is not None:
        _publish(database, clock, publisher, counts, settings.reconcile_seconds)
    return counts


def _ended_leases(database: Database, clock: Clock) -> Sequence[str]:
    with database.transaction(read_only=True) as session:
        return session.scalars(
            select(Job.uid).where(Job.state.in_(HELD), Job.lease_until <= clock.now()).limit(_BATCH)
        ).all()


def _take_back(session: Session, clock: Clock, policy: JobPolicy, job_uid: str) -> bool:
    """Queue a job whose lease ended; one that ends its attempts so again and again waits for an operator."""
    now = clock.now()
    job = session.get(Job, job_uid)
    if job is None:
        return False
    session.execute(
        select(CredentialEpoch.epoch).where(CredentialEpoch.record_uid == subject_of(job)).with_for_update()
    )
    session.refresh(job)
    if job.state not in HELD or job.lease_until is None or job.lease_until > now:
        return False
    state, cause = JobState.QUEUED, None
    crashes = job.crashes + 1
    if job.cancel_requested_at is not None and job.state == JobState.LEASED:
        state = JobState.CANCELLED
    elif crashes >= policy.crash_limit or job.attempts >= policy.attempts_limit:
        state, cause = JobState.WAITING_HUMAN, poisoned.CAUSE if crashes >= policy.crash_limit else EXHAUSTED
    values: dict[str, Any] = {"state": state, "lease_until": None, "not_before": None, "crashes": crashes}
    # The target of what was cut off may be changed, which the state does not tell any more.
    values["effect"] = Effect.UNKNOWN.value if job.state == JobState.RUNNING else job.effect
    if state == JobState.QUEUED and crashes > _AT_ONCE:  # whoever takes gateways down is not to take them all
        values["not_before"] = now + policy.backoff(crashes - _AT_ONCE)
    if state == JobState.CANCELLED:
        values |= {"status": Status.CANCELLED, "finished_at": now, "target_tags": None}
    if state == JobState.WAITING_HUMAN:
        values |= {"status": Status.WAITING_HUMAN, "cause": cause, "effect": "unknown", "finished_at": now}
        values["target_tags"] = None
    done = changed(
        session, update(Job).where(Job.uid == job_uid, Job.state.in_(HELD), Job.lease_until <= now).values(**values)
    )
    if done != 1:
        return False
    free(session, job, job.epoch)
    job_event(
        session, clock, CONTROL, "pam_job_lease_lost", job, epoch=job.epoch, instance=job.lease_instance,
        attempt=job.attempts,
    )  # fmt: skip
    if state == JobState.QUEUED and values["not_before"] is None:
        enqueue(session, clock, job.uid, job.gateway_uid)
    elif state == JobState.CANCELLED:
        job_event(session, clock, CONTROL, "pam_job_cancelled", job, result_code=str(Status.CANCELLED))
    elif state == JobState.WAITING_HUMAN:
        job_event(
            session, clock, CONTROL, ended_event(job, is_ok=False), job,
            result_code=str(Status.WAITING_HUMAN), cause=cause,
        )  # fmt: skip
        if cause == poisoned.CAUSE:
            poisoned.set_aside(session, clock, job, crashes=crashes)
    dispatch.wake(session, clock, policy, job_uid)
    return True


def _expire(session: Session, clock: Clock) -> int:
    """End jobs that were never begun in their time."""
    now = clock.now()
    rows = session.execute(
        update(Job)
        .where(Job.state.in_(WAITING), Job.attempts == 0, Job.expires_at <= now)
        .values(
            state=JobState.EXPIRED,
            finished_at=now,
            target_tags=None,
            cause=case((Job.cause == set_aside.CAUSE, Job.cause), else_=EXPIRED),
        )
        .returning(Job.uid)
        .execution_options(synchronize_session=False)
    ).all()
    for (uid,) in rows:
        job = session.get_one(Job, uid, populate_existing=True)
        job_event(session, clock, CONTROL, "pam_job_expired", job, cause=job.cause)
        findings.not_made(session, clock, CONTROL, job)
    return len(rows)


def _reroute(session: Session, clock: Clock) -> int:
    """Send waiting jobs to the gateway that their configuration has now."""
    rows = session.execute(
        select(Job.configuration_uid, PamConfiguration.gateway_uid)
        .join(PamConfiguration, PamConfiguration.record_uid == Job.configuration_uid)
        .where(Job.state.in_(WAITING), PamConfiguration.gateway_uid != Job.gateway_uid)
        .distinct()
        .limit(_BATCH)
    ).all()
    return sum(dispatch.move(session, clock, configuration_uid, to) for configuration_uid, to in rows)


def _resume(session: Session, clock: Clock) -> int:
    """Queue jobs of unknown outcome whose back-off ended."""
    rows = session.execute(
        update(Job)
        .where(Job.state == JobState.UNKNOWN, Job.not_before.is_(None) | (Job.not_before <= clock.now()))
        .values(state=JobState.QUEUED, not_before=None)
        .returning(Job.uid, Job.gateway_uid)
        .execution_options(synchronize_session=False)
    ).all()
    for uid, gateway_uid in rows:
        enqueue(session, clock, uid, gateway_uid)
    return len(rows)


@dataclass(kw_only=True)
class _Front:
    """Whether a gateway could take more than it does."""

    places: int = 0  # threads of the instances that are online
    busy: int = 0  # jobs it works on
    asked_at: datetime | None = None  # when an instance last came for a job
    is_drained: bool = False

    def is_idle(self, now: datetime) -> bool:
        """Say whether a message would have been taken by now; while some arrive, those behind them wait for their turn."""
        is_quiet = self.asked_at is None or now - self.asked_at > _QUIET
        return self.busy < self.places and is_quiet and not self.is_drained


def _idle(session: Session, clock: Clock, policy: JobPolicy) -> set[str]:
    """Return the gateways that could take more than they do, of those for which something waits."""
    now = clock.now()
    online = session.execute(
        select(GatewayInstance.gateway_uid, GatewayInstance.details).where(
            GatewayInstance.stopped_at.is_(None),
            GatewayInstance.last_seen_at >= now - timedelta(seconds=policy.offline_seconds),
            exists().where(Job.gateway_uid == GatewayInstance.gateway_uid, Job.state == JobState.QUEUED),
        )
    ).all()
    fronts = {row.gateway_uid: _Front() for row in online}
    waiting = {"waiting": sorted(fronts)}
    for uid, details in online:
        told = details.get("concurrency")
        fronts[uid].places += told if isinstance(told, int) and told > 0 else 1
    busy = session.execute(
        select(Job.gateway_uid, func.count())
        .where(among(Job.gateway_uid, "waiting"), Job.state.in_(HELD))
        .group_by(Job.gateway_uid),
        waiting,
    )
    for uid, count in busy:
        fronts[uid].busy = count
    turns = session.execute(
        select(Gateway.uid, Gateway.drained_at, GatewayTurn.asked_at)
        .outerjoin(GatewayTurn, GatewayTurn.gateway_uid == Gateway.uid)
        .where(among(Gateway.uid, "waiting")),
        waiting,
    )
    for uid, drained_at, asked_at in turns:
        fronts[uid].asked_at, fronts[uid].is_drained = asked_at, drained_at is not None
    return {uid for uid, front in fronts.items() if front.is_idle(now)}


def _republish(session: Session, clock: Clock, policy: JobPolicy) -> int:
    """Add a message for each waiting job whose last one seems to be lost.

    Which job a message becomes is decided at the claim, so it is not a single job's message that is lost but one of
    many. Some are lost when a gateway has places, jobs wait, and nobody comes for them. While it is offline or busy, or
    a limit has used them up, hardly anything is sent again, or the queue would grow with every pass; and what waits there,
    however much it is, is not looked at before.
    """
    now = clock.now()
    since = func.coalesce(Job.queued_at, Job.created_at)
    idle = _idle(session, clock, policy)
    not_used_up = Job.cause.is_(None) | Job.cause.not_in((dispatch.LIMIT, dispatch.DRAINED))
    rows = session.execute(
        select(Job.uid, Job.gateway_uid, Job.created_at, Job.queued_at, Job.not_before, Job.cause)
        .outerjoin(OutboxMessage, OutboxMessage.job_uid == Job.uid)
        .where(
            Job.state == JobState.QUEUED,
            OutboxMessage.id.is_(None),
            or_(
                since <= now - timedelta(seconds=policy.offline_republish_seconds),
                (since <= now - timedelta(seconds=policy.republish_seconds))
                & not_used_up
                & among(Job.gateway_uid, "idle"),
                Job.not_before <= now,
            ),
            Job.not_before.is_(None) | (Job.not_before <= now),
        )
        .order_by(since)
        .limit(_BATCH),
        {"idle": sorted(idle)},
    ).all()
    count = 0
    for row in rows:
        sent_at = row.queued_at or row.created_at
        waited_out = row.not_before is not None and row.not_before > sent_at
        is_idle = row.gateway_uid in idle and row.cause not in (dispatch.LIMIT, dispatch.DRAINED)
        if not waited_out and now - sent_at < _interval(policy, row.created_at, sent_at, is_idle=is_idle):
            continue
        # Whoever moves the time of publication is the one who publishes.
        won = changed(
            session,
            update(Job)
            .where(Job.uid == row.uid, Job.state == JobState.QUEUED, since == sent_at)
            .values(queued_at=now, not_before=None),
        )
        if won:
            enqueue(session, clock, row.uid, row.gateway_uid)
            count += 1
    return count


def _interval(policy: JobPolicy, created_at: datetime, sent_at: datetime, *, is_idle: bool) -> timedelta:
    """Return how long a message may be out: doubled with each publication, and long while the gateway cannot take it."""
    if not is_idle:
        return timedelta(seconds=policy.offline_republish_seconds)
    doubled = max((sent_at - created_at).total_seconds(), policy.republish_seconds)
    return timedelta(seconds=min(doubled, max(policy.republish_cap_seconds, policy.republish_seconds)))


def _publish(database: Database, clock: Clock, publisher: Publisher, counts: Counts, seconds: float) -> None:
    """Send what the outbox holds: this pass's own messages, and what submitters could not send.

    After an outage that may be all jobs there are. It goes on until nothing is left, the broker takes no more, or leases
    have to be looked at again; the next pass then follows at once.
    """
    until, last = time.monotonic() + seconds, 0
    while not counts.has_more:
        with database.transaction(read_only=True) as session:
            left = session.execute(
                select(OutboxMessage.id, OutboxMessage.job_uid)
                .join(Job, Job.uid == OutboxMessage.job_uid)
                .where(
                    OutboxMessage.id > last,
                    (OutboxMessage.created_at <= clock.now() - _GRACE) | (Job.state == JobState.QUEUED),
                )
                .order_by(OutboxMessage.id)
                .limit(_MOST_SENT)
            ).all()
        counts.published += publisher.publish(database, list(dict.fromkeys(row.job_uid for row in left)))
        if len(left) < _MOST_SENT or publisher.is_down:
            break
        last = left[-1].id  # not from the start again: PostgreSQL would read over all that was deleted since
        counts.has_more = time.monotonic() >= until
    with database.transaction(read_only=True) as session:
        gateways = session.scalars(select(Gateway.uid).where(Gateway.removed_at.is_(None))).all()
    publisher.declare_queues(gateways)

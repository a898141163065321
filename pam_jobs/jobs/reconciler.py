"""Bringing jobs, messages and leases back into agreement, whatever was lost, stopped or restarted.

Any number of control processes may do this at once: every change is an update with its condition, and whoever comes
second changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import CredentialEpoch, Gateway, GatewayInstance, Job, JobState, OutboxMessage, PamConfiguration
from pam_jobs.jobs import findings, flower_events, presence, set_aside
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
    instances_offline: int = 0

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
        counts.rerouted = _reroute(session, clock)
        counts.resumed = _resume(session, clock)
    with database.transaction() as session:
        counts.republished = _republish(session, clock, numbers)
    if publisher is not None:
        counts.published = _publish(database, clock, publisher)
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
    state = JobState.QUEUED
    if job.cancel_requested_at is not None and job.state == JobState.LEASED:
        state = JobState.CANCELLED
    elif job.attempts >= policy.attempts_limit:
        state = JobState.WAITING_HUMAN
    values: dict[str, Any] = {"state": state, "lease_until": None, "not_before": None}
    if state == JobState.CANCELLED:
        values |= {"status": Status.CANCELLED, "finished_at": now}
    if state == JobState.WAITING_HUMAN:
        values |= {"status": Status.WAITING_HUMAN, "cause": EXHAUSTED, "effect": "unknown", "finished_at": now}
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
    if state == JobState.QUEUED:
        enqueue(session, clock, job.uid, job.gateway_uid)
    elif state == JobState.CANCELLED:
        job_event(session, clock, CONTROL, "pam_job_cancelled", job, result_code=str(Status.CANCELLED))
    else:
        job_event(
            session, clock, CONTROL, ended_event(job, is_ok=False), job,
            result_code=str(Status.WAITING_HUMAN), cause=EXHAUSTED,
        )  # fmt: skip
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
        select(Job.uid, Job.gateway_uid, PamConfiguration.gateway_uid.label("to"))
        .join(PamConfiguration, PamConfiguration.record_uid == Job.configuration_uid)
        .where(Job.state.in_(WAITING), PamConfiguration.gateway_uid != Job.gateway_uid)
        .limit(_BATCH)
    ).all()
    moved = 0
    for uid, gateway_uid, to in rows:
        if changed(
            session,
            update(Job)
            .where(Job.uid == uid, Job.state.in_(WAITING), Job.gateway_uid == gateway_uid)
            .values(gateway_uid=to),
        ):
            enqueue(session, clock, uid, to)
            moved += 1
    return moved


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


@dataclass(frozen=True, kw_only=True)
class _Front:
    """How far a gateway has come with its queue."""

    is_online: bool
    busy: int  # jobs it works on
    reached: datetime | None  # when the latest message that it has begun on was published


def _fronts(session: Session, clock: Clock, policy: JobPolicy, gateway_uids: set[str]) -> dict[str, _Front]:
    since = clock.now() - timedelta(seconds=policy.offline_seconds)
    online = set(
        session.scalars(
            select(GatewayInstance.gateway_uid).where(
                GatewayInstance.gateway_uid.in_(gateway_uids),
                GatewayInstance.stopped_at.is_(None),
                GatewayInstance.last_seen_at >= since,
            )
        )
    )
    held = {
        row.gateway_uid: row
        for row in session.execute(
            select(Job.gateway_uid, func.count().label("busy"), func.max(Job.queued_at).label("reached"))
            .where(Job.gateway_uid.in_(gateway_uids), Job.state.in_(HELD))
            .group_by(Job.gateway_uid)
        )
    }
    return {
        uid: _Front(
            is_online=uid in online,
            busy=held[uid].busy if uid in held else 0,
            reached=held[uid].reached if uid in held else None,
        )
        for uid in gateway_uids
    }


def _republish(session: Session, clock: Clock, policy: JobPolicy) -> int:
    """Add a message for each waiting job whose last one seems to be lost.

    A gateway takes its queue in order. So a message is lost when the gateway has nothing to do, or has begun on later
    ones; while it is offline, or busy with earlier ones, hardly anything is sent again, or the queue would grow with
    every pass.
    """
    now = clock.now()
    since = func.coalesce(Job.queued_at, Job.created_at)
    rows = session.execute(
        select(Job.uid, Job.gateway_uid, Job.created_at, Job.queued_at, Job.not_before)
        .outerjoin(OutboxMessage, OutboxMessage.job_uid == Job.uid)
        .where(
            Job.state == JobState.QUEUED,
            OutboxMessage.id.is_(None),
            (since <= now - timedelta(seconds=policy.republish_seconds)) | (Job.not_before <= now),
            Job.not_before.is_(None) | (Job.not_before <= now),
        )
        .order_by(since)
        .limit(_BATCH)
    ).all()
    fronts = _fronts(session, clock, policy, {row.gateway_uid for row in rows})
    count = 0
    for row in rows:
        front = fronts[row.gateway_uid]
        sent_at = row.queued_at or row.created_at
        waited_out = row.not_before is not None and row.not_before > sent_at
        if not waited_out and now - sent_at < _interval(policy, front, row.created_at, sent_at):
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


def _interval(policy: JobPolicy, front: _Front, created_at: datetime, sent_at: datetime) -> timedelta:
    """Return how long a message may be out: doubled with each publication, and long while the gateway cannot take it."""
    is_overtaken = front.reached is not None and front.reached > sent_at + _GRACE
    if not front.is_online or (front.busy and not is_overtaken):
        return timedelta(seconds=policy.offline_republish_seconds)
    doubled = max((sent_at - created_at).total_seconds(), policy.republish_seconds)
    return timedelta(seconds=min(doubled, max(policy.republish_cap_seconds, policy.republish_seconds)))


def _publish(database: Database, clock: Clock, publisher: Publisher) -> int:
    """Send what the outbox holds: this pass's own messages, and what submitters could not send."""
    with database.transaction(read_only=True) as session:
        gateways = session.scalars(select(Gateway.uid).where(Gateway.removed_at.is_(None))).all()
        left = session.scalars(
            select(OutboxMessage.job_uid)
            .join(Job, Job.uid == OutboxMessage.job_uid)
            .where((OutboxMessage.created_at <= clock.now() - _GRACE) | (Job.state == JobState.QUEUED))
            .order_by(OutboxMessage.id)
            .limit(_BATCH * 4)
        ).all()
    publisher.declare_queues(gateways)
    return publisher.publish(database, list(dict.fromkeys(left)))

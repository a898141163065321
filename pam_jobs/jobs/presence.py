"""Which instances of a gateway live: told by their heartbeats, ended by their goodbye or by silence."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import CredentialEpoch, Gateway, GatewayInstance, Job, JobState
from pam_jobs.errors import InvalidInput, NotFound, StateError
from pam_jobs.jobs import wire
from pam_jobs.jobs.devices import Device
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.sql import changed
from pam_jobs.jobs.states import HELD, WAITING
from pam_jobs.jobs.submission import enqueue

__all__ = ["goodbye", "heartbeat", "hello", "overdue", "waiting_jobs"]

_PUBLISHED_AT_HELLO = 2000
_MOST_REPLACED = 100
_MAX_DETAILS = 16_384  # bytes of JSON


def hello(session: Session, clock: Clock, policy: JobPolicy, device: Device, said: wire.Hello) -> bool:
    """Register the instance; said again, it registers anew.

    ``details["replaces"]`` may name instances on the same machine that are known to have died: their places and their
    leases are given up at once. A process that is not dead after all is stopped by its next fence.

    Returns:
        Whether the gateway came online by this.

    Raises:
        InvalidInput: the details are too large.
        StateError: the gateway has as many live instances as it may.
    """
    now = clock.now()
    _lock(session, device.gateway_uid)
    for replaced in _replaced(said):
        _bury(session, device.gateway_uid, replaced, now)
    others = _live(session, policy, device.gateway_uid, now, but=said.instance)
    if others >= device.max_instances:
        raise StateError(
            f"gateway {device.gateway_name!r} has {others} of {device.max_instances} instances already",
            remedy="raise the number with `pam gateway set-max-instances`, or wait until a dead one counts as offline",
        )
    row = session.get(GatewayInstance, (device.gateway_uid, said.instance))
    was_live = row is not None and _is_live(row, policy, now)
    if row is None:
        row = GatewayInstance(gateway_uid=device.gateway_uid, instance=said.instance, started_at=now, running=0)
        session.add(row)
    row.version = said.version
    _tell_journal(session, clock, device, said, before=(row.details or {}).get("journal"))
    row.details = _checked(said.details)
    row.last_seen_at = now
    row.stopped_at = None
    is_first = others == 0 and not was_live
    if is_first:
        _tell(session, clock, device.actor(), "pam_gateway_online", device.gateway_uid, said.instance)
    return is_first


def heartbeat(session: Session, clock: Clock, policy: JobPolicy, device: Device, said: wire.Heartbeat) -> list[str]:
    """Note that the instance lives, and return the jobs of it that were cancelled before they began to change anything.

    Raises:
        NotFound: it is not registered; it says hello.
    """
    now = clock.now()
    seen = changed(
        session,
        update(GatewayInstance)
        .where(
            GatewayInstance.gateway_uid == device.gateway_uid,
            GatewayInstance.instance == said.instance,
            GatewayInstance.stopped_at.is_(None),
        )
        .values(last_seen_at=now, running=len(said.running)),
    )
    if seen == 0:
        _revive(session, clock, policy, device, said, now)
    if not said.running:
        return []
    cancelled = session.scalars(
        select(Job.uid).where(
            Job.uid.in_(said.running[:1000]),
            Job.gateway_uid == device.gateway_uid,
            Job.cancel_requested_at.is_not(None),
            Job.state.in_((JobState.LEASED, JobState.CANCELLED)),
        )
    )
    return list(cancelled)


def goodbye(session: Session, clock: Clock, policy: JobPolicy, device: Device, instance: str) -> bool:
    """Note that the instance stopped; return whether the gateway went offline by this."""
    now = clock.now()
    _lock(session, device.gateway_uid)
    if not _stop(session, device.gateway_uid, instance, now):
        return False
    if _live(session, policy, device.gateway_uid, now):
        return False
    _tell(session, clock, device.actor(), "pam_gateway_offline", device.gateway_uid, instance)
    return True


def overdue(session: Session, clock: Clock, policy: JobPolicy, actor: Actor) -> list[tuple[str, str, str]]:
    """Mark instances that were not heard of for too long as stopped; tell once of each gateway that went offline by it.

    Returns:
        Gateway's uid, its name and the instance, of each one marked.
    """
    now = clock.now()
    since = now - timedelta(seconds=policy.offline_seconds)
    silent = session.execute(
        select(GatewayInstance.gateway_uid, Gateway.name, GatewayInstance.instance)
        .join(Gateway, Gateway.uid == GatewayInstance.gateway_uid)
        .where(GatewayInstance.stopped_at.is_(None), GatewayInstance.last_seen_at < since)
        .order_by(GatewayInstance.gateway_uid, GatewayInstance.instance)
    ).all()
    marked = []
    for gateway_uid, name, instance in silent:
        _lock(session, gateway_uid)
        if not _stop(session, gateway_uid, instance, now, last_seen_before=since):
            continue  # heard of meanwhile, or another control process was first
        marked.append((gateway_uid, name, instance))
        if not _live(session, policy, gateway_uid, now):
            _tell(session, clock, actor, "pam_gateway_offline", gateway_uid, instance)
    return marked


def waiting_jobs(session: Session, clock: Clock, gateway_uid: str) -> list[str]:
    """Add a message for each job that waits for the gateway, as it comes online; publish the uids after the commit.

    Messages sent while it was away may have expired or been lost with the broker.
    """
    now = clock.now()
    uids = list(
        session.scalars(
            select(Job.uid)
            .where(
                Job.gateway_uid == gateway_uid,
                Job.state.in_(WAITING),
                Job.not_before.is_(None) | (Job.not_before <= now),
            )
            .order_by(Job.created_at)
            .limit(_PUBLISHED_AT_HELLO)
        )
    )
    for uid in uids:
        enqueue(session, clock, uid, gateway_uid)
    return uids


def _lock(session: Session, gateway_uid: str) -> None:
    """Let what changes the number of a gateway's live instances happen one after the other."""
    session.execute(select(Gateway.uid).where(Gateway.uid == gateway_uid).with_for_update())


def _is_live(row: GatewayInstance, policy: JobPolicy, now: datetime) -> bool:
    return row.stopped_at is None and row.last_seen_at >= now - timedelta(seconds=policy.offline_seconds)


def _live(session: Session, policy: JobPolicy, gateway_uid: str, now: datetime, *, but: str = "") -> int:
    since = now - timedelta(seconds=policy.offline_seconds)
    count = session.scalar(
        select(func.count()).where(
            GatewayInstance.gateway_uid == gateway_uid,
            GatewayInstance.instance != but,
            GatewayInstance.stopped_at.is_(None),
            GatewayInstance.last_seen_at >= since,
        )
    )
    return count or 0


def _stop(
    session: Session, gateway_uid: str, instance: str, now: datetime, *, last_seen_before: datetime | None = None
) -> bool:
    statement = update(GatewayInstance).where(
        GatewayInstance.gateway_uid == gateway_uid,
        GatewayInstance.instance == instance,
        GatewayInstance.stopped_at.is_(None),
    )
    if last_seen_before is not None:
        statement = statement.where(GatewayInstance.last_seen_at < last_seen_before)
    return changed(session, statement.values(stopped_at=now, running=0)) == 1


def _revive(
    session: Session, clock: Clock, policy: JobPolicy, device: Device, said: wire.Heartbeat, now: datetime
) -> None:
    """Take an instance back that was silent for too long, unless its place was given away."""
    _lock(session, device.gateway_uid)
    row = session.get(GatewayInstance, (device.gateway_uid, said.instance))
    others = _live(session, policy, device.gateway_uid, now, but=said.instance)
    if row is None or others >= device.max_instances:
        raise NotFound(f"the instance {said.instance!r} is not registered", remedy="say hello")
    row.stopped_at = None
    row.last_seen_at = now
    row.running = len(said.running)
    if others == 0:
        _tell(session, clock, device.actor(), "pam_gateway_online", device.gateway_uid, said.instance)


def _bury(session: Session, gateway_uid: str, instance: str, now: datetime) -> None:
    """Free the place and the leases of an instance that died."""
    if not _stop(session, gateway_uid, instance, now):
        return
    held = (
        (Job.gateway_uid == gateway_uid)
        & (Job.lease_instance == instance)
        & Job.state.in_(HELD)
        & (Job.lease_until > now)
    )
    uids = select(Job.uid).where(held)
    changed(session, update(CredentialEpoch).where(CredentialEpoch.job_uid.in_(uids)).values(lease_until=now))
    changed(session, update(Job).where(held).values(lease_until=now))


def _replaced(said: wire.Hello) -> list[str]:
    """Return the instances that are known to have died; a gateway of before names one."""
    named = said.details.get("replaces")
    names = named if isinstance(named, list) else [named]
    return [name for name in names[:_MOST_REPLACED] if isinstance(name, str) and name != said.instance]


def _tell_journal(session: Session, clock: Clock, device: Device, said: wire.Hello, *, before: Any) -> None:
    """Tell when an instance can no longer write its journal, and when it can again."""
    now = said.details.get("journal")
    if bool(now) == bool(before):
        return
    event, code = ("pam_gateway_journal_failed", str(now)[:256]) if now else ("pam_gateway_journal_restored", None)
    record_event(
        session,
        clock,
        device.actor(),
        event,
        gateway_uid=device.gateway_uid,
        instance=said.instance,
        result_code=code,
    )


def _checked(details: dict[str, Any]) -> dict[str, Any]:
    """Return what an operator is shown of the process."""
    if len(json.dumps(details)) > _MAX_DETAILS:
        raise InvalidInput(f"the instance's details are larger than {_MAX_DETAILS} bytes", remedy="send less")
    return {name: value for name, value in details.items() if name != "replaces"}


def _tell(session: Session, clock: Clock, actor: Actor, event: str, gateway_uid: str, instance: str) -> None:
    record_event(session, clock, actor, event, gateway_uid=gateway_uid, instance=instance)

"""Gateways: their identities, the instances that run them, and what waits for them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Application, Gateway, GatewayInstance, GatewayTurn, Job, JobState, PamConfiguration
from pam_jobs.errors import AlreadyExists, InvalidInput, NotFound, StateError
from pam_jobs.ids import check_uid
from pam_jobs.jobs import dispatch
from pam_jobs.jobs.states import HELD, WAITING
from pam_jobs.rotation.limits import KEEP, Keep, checked_limit
from pam_jobs.vault import clients

__all__ = [
    "MAX_INSTANCES",
    "GatewayView",
    "InstanceView",
    "change",
    "create",
    "drain",
    "drained",
    "overview",
    "remove",
    "require_gateway",
    "resume",
    "statuses",
]

ONLINE = "ONLINE"
OFFLINE = "OFFLINE"
MAX_INSTANCES = 100
_MAX_NAME = 128
_STOP = "to let it begin nothing, use `pam gateway drain`"
_SHOWN_FOR = timedelta(days=1)  # an instance that died stays in the list for so long


@dataclass(frozen=True, kw_only=True)
class InstanceView:
    """One process of a gateway."""

    instance: str
    version: str
    status: str  # ONLINE, OFFLINE
    started_at: datetime
    last_seen_at: datetime
    running: int
    details: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class GatewayView:
    """A gateway as operators see it."""

    uid: str
    name: str
    application_uid: str
    max_instances: int
    status: str  # ONLINE while at least one instance is
    job_limit: int | None
    drained_at: datetime | None
    instances: tuple[InstanceView, ...]
    queued: int  # jobs that wait for it
    running: int  # jobs it works on
    created_at: datetime


def require_gateway(session: Session, uid: str, *, lock: bool = False) -> Gateway:
    """Return the gateway.

    Raises:
        NotFound: there is none, or it was removed.
    """
    gateway = session.get(Gateway, uid, with_for_update=True if lock else None)
    if gateway is None or gateway.removed_at is not None:
        raise NotFound(f"there is no gateway {uid}", remedy="take the UID from `pam gateway list`")
    return gateway


def create(session: Session, clock: Clock, actor: Actor, *, uid: str, name: str, application_uid: str) -> Gateway:
    """Create the identity; the caller adds the client that the gateway binds with.

    Raises:
        InvalidInput: the uid or name is not valid.
        AlreadyExists: the uid or name is taken.
        NotFound: there is no such application.
    """
    check_uid(uid, "gateway UID")
    name = _checked_name(session, name)
    if session.get(Gateway, uid) is not None:
        raise AlreadyExists(f"the gateway {uid} exists already", remedy="create it again with a new UID")
    if session.get(Application, application_uid) is None:
        raise NotFound(f"there is no application {application_uid}", remedy="take the UID from `pam app list`")
    gateway = Gateway(
        uid=uid, name=name, application_uid=application_uid, max_instances=1, created_at=clock.now(), removed_at=None
    )
    session.add(gateway)
    session.flush()
    session.add(GatewayTurn(gateway_uid=uid, served={}))
    record_event(session, clock, actor, "pam_gateway_created", gateway_uid=uid, app_uid=application_uid)
    return gateway


def change(
    session: Session,
    clock: Clock,
    actor: Actor,
    uid: str,
    *,
    name: str | None = None,
    max_instances: int | None = None,
    job_limit: int | Keep | None = KEEP,
) -> Gateway:
    """Rename the gateway, or change how many instances or jobs at a time it may have.

    Args:
        session: the caller's transaction.
        clock: when.
        actor: who.
        uid: of the gateway.
        name: None leaves it.
        max_instances: 1 to ``MAX_INSTANCES``; None leaves it.
        job_limit: jobs at a time over all instances; None: as many as they have threads for.

    Raises:
        NotFound: there is no such gateway.
        InvalidInput: the name, the number of instances or the limit is not valid.
        AlreadyExists: the name is taken.
    """
    gateway = require_gateway(session, uid, lock=True)
    if max_instances is not None and not 1 <= max_instances <= MAX_INSTANCES:
        raise InvalidInput(
            f"a gateway cannot have {max_instances} instances", remedy=f"give a number from 1 to {MAX_INSTANCES}"
        )
    if not isinstance(job_limit, Keep):
        gateway.job_limit = checked_limit(job_limit, "gateway", _STOP)
    if name is not None and name.strip() != gateway.name:
        gateway.name = _checked_name(session, name)
    if max_instances is not None:
        gateway.max_instances = max_instances
    record_event(session, clock, actor, "pam_gateway_updated", gateway_uid=uid)
    return gateway


def drain(session: Session, clock: Clock, actor: Actor, uid: str) -> Gateway:
    """Let the gateway begin no more jobs; what it works on, it ends, and what waits for it waits on.

    Raises:
        NotFound: there is no such gateway.
    """
    gateway = require_gateway(session, uid, lock=True)
    if gateway.drained_at is None:
        gateway.drained_at = clock.now()
        record_event(session, clock, actor, "pam_gateway_drained", gateway_uid=uid)
    return gateway


def resume(session: Session, clock: Clock, actor: Actor, uid: str) -> tuple[str, ...]:
    """Let a drained gateway begin jobs again, and return those that waited; publish them after the commit.

    Raises:
        NotFound: there is no such gateway.
    """
    gateway = require_gateway(session, uid, lock=True)
    if gateway.drained_at is None:
        return ()
    gateway.drained_at = None
    session.flush()
    record_event(session, clock, actor, "pam_gateway_resumed", gateway_uid=uid)
    return dispatch.refill(session, clock, uid)


def remove(session: Session, clock: Clock, actor: Actor, uid: str) -> None:
    """Remove the gateway and its devices' access; the row stays for the jobs that name it.

    Raises:
        NotFound: there is no such gateway.
        StateError: a PAM configuration uses it.
    """
    gateway = require_gateway(session, uid, lock=True)
    configuration = session.scalar(
        select(PamConfiguration.record_uid).where(PamConfiguration.gateway_uid == uid).limit(1)
    )
    if configuration is not None:
        raise StateError(
            f"the PAM configuration {configuration} uses the gateway {gateway.name!r}",
            remedy="give the configuration another gateway, or remove it first",
        )
    gateway.removed_at = clock.now()
    clients.remove_of_gateway(session, clock, actor, uid)
    record_event(session, clock, actor, "pam_gateway_removed", gateway_uid=uid, app_uid=gateway.application_uid)


def overview(session: Session, clock: Clock, *, offline_seconds: int) -> list[GatewayView]:
    """Return every gateway with its instances and the number of its waiting jobs.

    Args:
        session: read only is enough.
        clock: what heartbeats are compared with.
        offline_seconds: an instance not heard of for longer is offline.
    """
    now = clock.now()
    gateways = session.scalars(
        select(Gateway).where(Gateway.removed_at.is_(None)).order_by(Gateway.name, Gateway.uid)
    ).all()
    instances = _instances(session, now, timedelta(seconds=offline_seconds))
    queued, running = (_jobs(session, states) for states in (WAITING, HELD))
    return [
        GatewayView(
            uid=gateway.uid,
            name=gateway.name,
            application_uid=gateway.application_uid,
            max_instances=gateway.max_instances,
            status=_status(instances.get(gateway.uid, ())),
            instances=tuple(instances.get(gateway.uid, ())),
            job_limit=gateway.job_limit,
            drained_at=gateway.drained_at,
            queued=queued.get(gateway.uid, 0),
            running=running.get(gateway.uid, 0),
            created_at=gateway.created_at,
        )
        for gateway in gateways
    ]


def drained(session: Session) -> list[tuple[str, str, datetime, int]]:
    """Return uid and name of every gateway that is drained, since when, and how many jobs it still works on."""
    gateways = session.scalars(
        select(Gateway).where(Gateway.removed_at.is_(None), Gateway.drained_at.is_not(None)).order_by(Gateway.name)
    ).all()
    running = _jobs(session, HELD) if gateways else {}
    return [
        (gateway.uid, gateway.name, gateway.drained_at, running.get(gateway.uid, 0))
        for gateway in gateways
        if gateway.drained_at is not None
    ]


def _jobs(session: Session, states: tuple[JobState, ...]) -> dict[str, int]:
    query = select(Job.gateway_uid, func.count().label("jobs")).where(Job.state.in_(states)).group_by(Job.gateway_uid)
    return {row.gateway_uid: row.jobs for row in session.execute(query)}


def statuses(session: Session, clock: Clock, gateway_uids: Collection[str], *, offline_seconds: int) -> dict[str, str]:
    """Return ONLINE or OFFLINE for each of the gateways."""
    heard_since = clock.now() - timedelta(seconds=offline_seconds)
    online = set(
        session.scalars(
            select(GatewayInstance.gateway_uid)
            .where(
                GatewayInstance.gateway_uid.in_(gateway_uids),
                GatewayInstance.stopped_at.is_(None),
                GatewayInstance.last_seen_at >= heard_since,
            )
            .distinct()
        )
    )
    return {uid: ONLINE if uid in online else OFFLINE for uid in gateway_uids}


def _instances(session: Session, now: datetime, offline: timedelta) -> dict[str, list[InstanceView]]:
    found: dict[str, list[InstanceView]] = {}
    rows = session.scalars(
        select(GatewayInstance)
        .where(GatewayInstance.stopped_at.is_(None), GatewayInstance.last_seen_at >= now - _SHOWN_FOR)
        .order_by(GatewayInstance.started_at, GatewayInstance.instance)
    )
    for row in rows:
        found.setdefault(row.gateway_uid, []).append(
            InstanceView(
                instance=row.instance,
                version=row.version,
                status=ONLINE if now - row.last_seen_at <= offline else OFFLINE,
                started_at=row.started_at,
                last_seen_at=row.last_seen_at,
                running=row.running,
                details=row.details,
            )
        )
    return found


def _status(instances: Collection[InstanceView]) -> str:
    return ONLINE if any(instance.status == ONLINE for instance in instances) else OFFLINE


def _checked_name(session: Session, name: str) -> str:
    name = name.strip()
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise InvalidInput(
            "the gateway's name is empty, too long or has control characters",
            remedy=f"give 1 to {_MAX_NAME} printable characters",
        )
    taken = session.scalar(select(Gateway.uid).where(Gateway.name == name, Gateway.removed_at.is_(None)))
    if taken is not None:
        raise AlreadyExists(f"a gateway named {name!r} exists already", remedy="choose another name")
    return name

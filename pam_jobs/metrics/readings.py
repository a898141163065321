"""What stands in the database right now, by statements whose cost does not grow with what has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, bindparam, func, select, text
from sqlalchemy.orm import Session

from pam_jobs import __version__
from pam_jobs.audit import siem
from pam_jobs.clock import Clock
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import (
    AuditEvent,
    CredentialVersion,
    DriftState,
    Gateway,
    GatewayInstance,
    GatewayTurn,
    Job,
    JobState,
    OutboxMessage,
    RotationSettings,
    Schedule,
    TargetSetAside,
)
from pam_jobs.jobs.states import HELD, OPEN, WAITING
from pam_jobs.metrics import totals

__all__ = ["MOST_UNSEALED", "STATEMENTS", "Samples", "read"]

Samples = Mapping[str, Sequence[tuple[tuple[str, ...], float]]]
"""Name of the metric → values by labels."""

MOST_UNSEALED: Final = 10_000

_JOBS: Final = table_of(Job)
_GATEWAYS: Final = table_of(Gateway)
_INSTANCES: Final = table_of(GatewayInstance)
_SCHEDULES: Final = table_of(Schedule)
_EVENTS: Final = table_of(AuditEvent)
_OUTBOX: Final = table_of(OutboxMessage)
_VERSIONS: Final = table_of(CredentialVersion)
_TARGETS: Final = table_of(TargetSetAside)
_TURNS: Final = table_of(GatewayTurn)
_SETTINGS: Final = table_of(RotationSettings)
_NOW: Final = bindparam("now", type_=_JOBS.c.created_at.type)
_UNSEALED: Final = select(_EVENTS.c.created_at).where(_EVENTS.c.position.is_(None)).limit(MOST_UNSEALED).subquery()

STATEMENTS: Final[Mapping[str, Select[*tuple[Any, ...]]]] = {
    "gateways": select(
        _GATEWAYS.c.uid, _GATEWAYS.c.name, _GATEWAYS.c.job_limit, _GATEWAYS.c.drained_at, _TURNS.c.is_short
    )
    .outerjoin(_TURNS, _TURNS.c.gateway_uid == _GATEWAYS.c.uid)
    .where(_GATEWAYS.c.removed_at.is_(None)),
    "drift": select(_SETTINGS.c.drift, func.count().label("credentials")).group_by(_SETTINGS.c.drift),
    # By states first, which is how few are found among many. Asked for each gateway, PostgreSQL goes by an average of
    # them all, and may read the whole table once for each.
    "open": select(
        _JOBS.c.gateway_uid,
        _JOBS.c.state,
        func.count().label("jobs"),
        func.min(_JOBS.c.created_at).label("oldest"),
        func.min(_JOBS.c.lease_until).label("lease_until"),
    )
    .where(_JOBS.c.state.in_(OPEN))
    .group_by(_JOBS.c.gateway_uid, _JOBS.c.state),
    # counted here: grouping makes SQLite go through every instance that ever was, in the order of gateways
    "instances": select(_INSTANCES.c.gateway_uid).where(
        _INSTANCES.c.last_seen_at >= bindparam("heard_since", type_=_NOW.type), _INSTANCES.c.stopped_at.is_(None)
    ),
    "due": select(func.count(), func.min(_SCHEDULES.c.next_run_at)).where(
        _SCHEDULES.c.next_run_at <= _NOW, _SCHEDULES.c.paused.is_(False)
    ),
    "outbox": select(_OUTBOX.c.created_at).order_by(_OUTBOX.c.id).limit(1),
    # the index's own condition, to the letter: else SQLite would not use it
    "unresolved": select(func.count(), func.min(_VERSIONS.c.staged_at)).where(text("state IN ('staged', 'applying')")),
    "set aside": select(func.count()).select_from(_TARGETS).where(_TARGETS.c.lifted_at.is_(None)),
    "unsealed": select(func.count(), func.min(_UNSEALED.c.created_at)),
}


def read(session: Session, clock: Clock, *, offline_seconds: int) -> Samples:
    """Return every metric's values.

    Args:
        session: of a read-only transaction.
        clock: what ages are counted to.
        offline_seconds: an instance not heard of for longer is offline.
    """
    now = clock.now()
    return {
        "pam_build_info": [((__version__,), 1)],
        **_gateways(session, now, timedelta(seconds=offline_seconds)),
        **_queue(session, now),
        **_audit(session, clock, now),
        **totals.read(session),
    }


def _gateways(session: Session, now: datetime, offline: timedelta) -> Samples:
    online = Counter(session.scalars(STATEMENTS["instances"], {"heard_since": now - offline}))
    found = {(row.gateway_uid, row.state): row for row in session.execute(STATEMENTS["open"])}
    rows = session.execute(STATEMENTS["gateways"]).all()

    def each(value: Callable[[str], float]) -> list[tuple[tuple[str, ...], float]]:
        return [((row.uid, row.name), value(row.uid)) for row in rows]

    def jobs(*states: JobState) -> list[tuple[tuple[str, ...], float]]:
        return each(lambda uid: sum(found[uid, state].jobs for state in states if (uid, state) in found))

    def oldest(uid: str) -> float:
        return _age(now, *(found[uid, state].oldest for state in WAITING if (uid, state) in found))

    return {
        "pam_gateway_instances_online": each(lambda uid: online[uid]),
        "pam_gateway_jobs_waiting": jobs(*WAITING),
        "pam_gateway_oldest_job_seconds": each(oldest),
        "pam_gateway_jobs_running": jobs(*HELD),
        "pam_gateway_jobs_unknown": jobs(JobState.UNKNOWN),
        "pam_gateway_job_limit": [((row.uid, row.name), row.job_limit or 0) for row in rows],
        "pam_gateway_drained": [((row.uid, row.name), row.drained_at is not None) for row in rows],
        "pam_gateway_limited": [((row.uid, row.name), bool(row.is_short)) for row in rows],
        "pam_lease_overdue_seconds": [
            ((), _age(now, *(row.lease_until for (_, state), row in found.items() if state in HELD)))
        ],
    }


def _queue(session: Session, now: datetime) -> Samples:
    due, due_since = session.execute(STATEMENTS["due"], {"now": now}).one()
    drift = {row.drift: row.credentials for row in session.execute(STATEMENTS["drift"])}
    unresolved, staged_at = session.execute(STATEMENTS["unresolved"]).one()
    return {
        "pam_schedules_due": [((), due)],
        "pam_schedule_lag_seconds": [((), _age(now, due_since))],
        "pam_outbox_lag_seconds": [((), _age(now, session.scalar(STATEMENTS["outbox"])))],
        "pam_credentials_unresolved": [((), unresolved)],
        "pam_credentials_unresolved_oldest_seconds": [((), _age(now, staged_at))],
        "pam_credentials_drift": [((str(state),), drift.get(state, 0)) for state in DriftState],
        "pam_targets_set_aside": [((), session.scalar(STATEMENTS["set aside"]) or 0)],
    }


def _audit(session: Session, clock: Clock, now: datetime) -> Samples:
    unsealed, since = session.execute(STATEMENTS["unsealed"]).one()
    sinks = [
        ((sink.uid, sink.name, sink.kind), sink, siem.lag(session, clock, sink)) for sink in siem.list_all(session)
    ]
    return {
        "pam_audit_unsealed": [((), unsealed)],
        "pam_audit_sealing_lag_seconds": [((), _age(now, since))],
        "pam_sink_lag_events": [(labels, behind.events) for labels, _, behind in sinks],
        "pam_sink_lag_seconds": [(labels, behind.seconds) for labels, _, behind in sinks],
        "pam_sink_failures": [(labels, sink.failures) for labels, sink, _ in sinks],
        "pam_sink_paused": [(labels, int(sink.paused)) for labels, sink, _ in sinks],
    }


def _age(now: datetime, *since: datetime | None) -> float:
    """Return the seconds since the earliest of the times, 0 when there is none or it is yet to come."""
    known = [moment for moment in since if moment is not None]
    return max(0.0, (now - min(known)).total_seconds()) if known else 0.0

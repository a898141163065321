"""Claiming what is due and turning it into jobs, each run once however many beats there are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from sqlalchemy import Executable, select, text
from sqlalchemy.orm import Session

from pam_jobs.audit.log import record_event
from pam_jobs.clock import Clock
from pam_jobs.db.base import table_of
from pam_jobs.db.engine import Database
from pam_jobs.db.many import ManyUpdate, among
from pam_jobs.db.tables import Gateway, Job, JobKind, JobState, PamConfiguration, Schedule
from pam_jobs.jobs.lease import OPEN_ROTATION
from pam_jobs.jobs.sql import DISCOVERY
from pam_jobs.jobs.states import OPEN, WAITING
from pam_jobs.jobs.trail import BEAT
from pam_jobs.rotation.readiness import assess, blocked_by
from pam_jobs.rotation.schedules import MISSED, NO_ALLOWED_TIME, columns_of
from pam_jobs.rotation.timing import ALWAYS, Decision, Outcome, Planned, decide, timings
from scheduler.emission import DueRun, create_jobs

__all__ = ["BATCH", "claim", "next_due", "tick"]

BATCH = 500
_log = structlog.get_logger(__name__)
_MOVE: Final = ManyUpdate(
    table_of(Schedule), "uid", ("next_run_at", "planned_at", "moved_by", "last_due_at", "blocked")
)

_ABOUT_TO_RUN = (*WAITING, JobState.UNKNOWN)
"""A job in one of these will rotate the credential soon, so that a second one would only repeat it."""
_COVERED: Final[dict[str, Executable]] = {
    "sqlite": select(Job.record_uid, Job.kind).where(among(Job.record_uid, "uids"), Job.state.in_(_ABOUT_TO_RUN)),
    # While tens of thousands of jobs are made at once, PostgreSQL's statistics still say that there are few, and it would
    # read all of them for each batch. OFFSET 0 keeps it to one look into the index for each record.
    "postgresql": text(
        "SELECT job.record_uid, job.kind FROM unnest(CAST(:uids AS varchar[])) AS wanted(uid) CROSS JOIN LATERAL"
        " (SELECT record_uid, kind, state FROM jobs WHERE record_uid = wanted.uid OFFSET 0) AS job"
        " WHERE job.state = ANY(:states)"
    ).bindparams(states=[state.value for state in _ABOUT_TO_RUN]),
}
_ROTATING: Final = select(Job.record_uid).where(among(Job.record_uid, "uids"), OPEN_ROTATION)


@dataclass(frozen=True, kw_only=True)
class _Route:
    """Where a due row's job goes, or why it has none."""

    configuration_uid: str | None = None
    gateway_uid: str | None = None
    blocked: str | None = None  # code of what keeps the run from starting
    is_covered: bool = False  # a job that is about to run does the same


def tick(database: Database, clock: Clock, limit: int = BATCH) -> list[str]:
    """Make the jobs of what is due and move each schedule on, all in one transaction.

    A row is claimed by its lock for as long as the transaction lasts: another beat passes over it, and a beat that dies
    leaves it as it was. A schedule that missed several runs gets one, and is moved on from now.

    Args:
        database: of the control plane.
        clock: a row is due when its next run is not after this clock's now.
        limit: most rows to claim at once; call again while it returns as many.

    Returns:
        The uids of the jobs created, to be published now that they are durable. Whoever fails to publish loses
        nothing: the outbox holds a message for each.
    """
    with database.transaction() as session:
        now = clock.now()
        rows = claim(session, now, limit)
        if not rows:
            return []
        routes = _routes(session, rows)
        decisions = _decisions(session, now, rows, routes)
        begun = [row for row in rows if decisions[row.uid].outcome is Outcome.RUN]
        runs = [_run(row, routes[row.uid]) for row in begun if _starts(routes[row.uid])]
        created = create_jobs(session, clock, runs)
        _tell_blocked(session, clock, begun, routes)
        _tell_skipped(session, clock, rows, routes, decisions)
        _move_on(session, rows, routes, decisions)
    _log.info("due", claimed=len(rows), created=len(created), blocked=sum(1 for r in routes.values() if r.blocked))
    return created


def claim(session: Session, now: datetime, limit: int) -> Sequence[Any]:
    """Lock and return up to ``limit`` due rows, longest due first; those that another beat has locked are left out."""
    return session.execute(
        select(
            Schedule.uid,
            Schedule.kind,
            Schedule.subject_uid,
            Schedule.spec,
            Schedule.anchor_at,
            Schedule.next_run_at,
            Schedule.planned_at,
            Schedule.moved_by,
            Schedule.last_due_at,
            Schedule.blocked,
        )
        .where(Schedule.next_run_at <= now, Schedule.paused.is_(False))
        .order_by(Schedule.next_run_at, Schedule.uid)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()


def next_due(database: Database) -> datetime | None:
    """Return when the next row is due, or None when none ever is. One look at the end of an index."""
    with database.transaction(read_only=True) as session:
        return session.scalar(
            select(Schedule.next_run_at)
            .where(Schedule.next_run_at.is_not(None), Schedule.paused.is_(False))
            .order_by(Schedule.next_run_at)
            .limit(1)
        )


def _starts(route: _Route) -> bool:
    return route.blocked is None and not route.is_covered


def _run(row: Any, route: _Route) -> DueRun:
    kind = JobKind(row.kind)
    if route.configuration_uid is None or route.gateway_uid is None:
        raise TypeError("a run that starts has a configuration and a gateway")
    return DueRun(
        schedule_uid=row.uid,
        due_at=row.next_run_at,
        planned_at=None if row.planned_at == row.next_run_at else row.planned_at,
        moved_by=row.moved_by,
        kind=kind,
        record_uid=None if kind is JobKind.DISCOVER else row.subject_uid,
        configuration_uid=route.configuration_uid,
        gateway_uid=route.gateway_uid,
    )


def _routes(session: Session, rows: Sequence[Any]) -> dict[str, _Route]:
    discoveries = [row for row in rows if row.kind == JobKind.DISCOVER.value]
    credentials = [row for row in rows if row.kind != JobKind.DISCOVER.value]
    found: dict[str, _Route] = {}
    if credentials:
        found |= _credential_routes(session, credentials)
    if discoveries:
        found |= _discovery_routes(session, discoveries)
    return found


def _credential_routes(session: Session, rows: Sequence[Any]) -> dict[str, _Route]:
    subjects = [row.subject_uid for row in rows]
    verdicts = assess(session, subjects)
    about_to_run = _COVERED[session.get_bind().dialect.name]
    covered = {(job.record_uid, str(job.kind)) for job in session.execute(about_to_run, {"uids": subjects})}
    # The end of a rotation tells what a verification would find out, and before that end nothing is certain.
    if looked_at := [row.subject_uid for row in rows if row.kind == JobKind.VERIFY.value]:
        rotating = session.scalars(_ROTATING, {"uids": looked_at})
        covered |= {(uid, JobKind.VERIFY.value) for uid in rotating}
    found: dict[str, _Route] = {}
    for row in rows:
        verdict = verdicts[row.subject_uid]
        found[row.uid] = _Route(
            configuration_uid=verdict.setup.configuration_uid if verdict.setup else None,
            gateway_uid=verdict.gateway_uid,
            blocked=blocked_by(verdict, row.kind),
            is_covered=(row.subject_uid, row.kind) in covered,
        )
    return found


def _discovery_routes(session: Session, rows: Sequence[Any]) -> dict[str, _Route]:
    subjects = [row.subject_uid for row in rows]
    served = {
        row.record_uid: row
        for row in session.execute(
            select(PamConfiguration.record_uid, Gateway.uid.label("gateway_uid"), Gateway.removed_at)
            .join(Gateway, Gateway.uid == PamConfiguration.gateway_uid)
            .where(PamConfiguration.record_uid.in_(subjects))
        )
    }
    running = set(
        session.scalars(
            select(Job.configuration_uid).where(Job.configuration_uid.in_(subjects), DISCOVERY, Job.state.in_(OPEN))
        )
    )
    return {row.uid: _discovery_route(row.subject_uid, served.get(row.subject_uid), running) for row in rows}


def _discovery_route(configuration_uid: str, served: Any, running: Collection[str]) -> _Route:
    if served is None:
        return _Route(blocked="configuration_missing")
    return _Route(
        configuration_uid=configuration_uid,
        gateway_uid=served.gateway_uid,
        blocked="gateway_removed" if served.removed_at is not None else None,
        is_covered=configuration_uid in running,
    )


def _tell_blocked(session: Session, clock: Clock, rows: Sequence[Any], routes: dict[str, _Route]) -> None:
    """Tell of a run that could not start when the reason is new; a schedule of minutes would fill the log otherwise."""
    for row in rows:
        route = routes[row.uid]
        if route.blocked is None or route.blocked == row.blocked:
            continue
        is_discovery = row.kind == JobKind.DISCOVER.value
        is_verification = row.kind == JobKind.VERIFY.value
        other = "pam_job_failed" if is_verification else "record_rotation_scheduled_fail"
        record_event(
            session,
            clock,
            BEAT,
            "discovery_job_completed" if is_discovery else other,
            job_kind=row.kind,
            record_uid=None if is_discovery else row.subject_uid,
            configuration_uid=route.configuration_uid,
            gateway_uid=route.gateway_uid,
            schedule_uid=row.uid,
            result_code=route.blocked,
            post_rotation_code="not_run",
        )


def _tell_skipped(
    session: Session, clock: Clock, rows: Sequence[Any], routes: dict[str, _Route], decisions: dict[str, Decision]
) -> None:
    for row in rows:
        if decisions[row.uid].outcome is Outcome.SKIPPED:
            record_event(
                session,
                clock,
                BEAT,
                "pam_run_skipped",
                job_kind=row.kind,
                record_uid=None if row.kind == JobKind.DISCOVER.value else row.subject_uid,
                configuration_uid=routes[row.uid].configuration_uid,
                gateway_uid=routes[row.uid].gateway_uid,
                schedule_uid=row.uid,
                due_at=row.next_run_at.isoformat(),
            )


def _decisions(session: Session, now: datetime, rows: Sequence[Any], routes: dict[str, _Route]) -> dict[str, Decision]:
    """Return what becomes of each due row, by the timing that its configuration has now."""
    known = timings(session, {uid for route in routes.values() if (uid := route.configuration_uid) is not None})
    found: dict[str, Decision] = {}
    for row in rows:
        timing = known.get(routes[row.uid].configuration_uid or "", ALWAYS)
        due = Planned(planned_at=row.planned_at or row.next_run_at, run_at=row.next_run_at, moved_by=row.moved_by)
        found[row.uid] = decision = decide(row.spec, row.anchor_at, due, row.uid, now=now, timing=timing)
        if decision.error is not None:
            _log.error("schedule stopped", schedule_uid=row.uid, reason=decision.error)
    return found


def _move_on(session: Session, rows: Sequence[Any], routes: dict[str, _Route], decisions: dict[str, Decision]) -> None:
    _MOVE.run(session, [_moved(row, routes[row.uid], decisions[row.uid]) for row in rows])


def _moved(row: Any, route: _Route, decision: Decision) -> dict[str, Any]:
    following = decision.next
    blocked = row.blocked if decision.outcome is Outcome.HELD else route.blocked
    if decision.outcome is Outcome.SKIPPED:
        blocked = MISSED
    if following is not None and following.run_at is None:
        blocked = NO_ALLOWED_TIME
    return {
        "uid": row.uid,
        **columns_of(following),
        "last_due_at": row.last_due_at if decision.outcome is Outcome.HELD else row.next_run_at,
        "blocked": blocked,
    }

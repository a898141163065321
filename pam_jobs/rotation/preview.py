"""What the due table will run in the coming days, by the rules that beat goes by. Reads only."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.db.tables import JobKind, PamConfiguration, RotationSettings, Schedule
from pam_jobs.rotation.readiness import assess, blocked_by
from pam_jobs.rotation.timing import ALWAYS, Outcome, Planned, Timing, decide, timings

__all__ = ["Preview", "Run", "blocked_rows", "preview", "routes", "runs", "runs_of"]

_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run to come."""

    due_at: datetime
    planned_at: datetime  # by the schedule alone
    moved_by: str | None  # the calendar that moved it
    schedule_uid: str
    kind: str
    subject_uid: str  # the user record; the configuration for discovery
    configuration_uid: str | None
    gateway_uid: str | None


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The runs of a span of time, in order."""

    runs: tuple[Run, ...]
    is_complete: bool  # False: the cap was reached, later runs are missing


def preview(
    session: Session, start: datetime, until: datetime, *, limit: int, subjects: Sequence[str] | None = None
) -> Preview:
    """Return the runs from an instant to another, at most ``limit`` of them.

    A run that is overdue at the start is shown at the start: it is made up for once.

    Args:
        session: read only is enough.
        start: aware; best now.
        until: aware, exclusive.
        limit: how many runs to return at most, at least 1.
        subjects: only these records and configurations; None for all.
    """
    found: list[Run] = []
    for run in runs(session, start, until, subjects=subjects):
        if len(found) == limit:
            return Preview(runs=tuple(found), is_complete=False)
        found.append(run)
    return Preview(runs=tuple(found), is_complete=True)


def runs(session: Session, start: datetime, until: datetime, *, subjects: Sequence[str] | None = None) -> Iterator[Run]:
    """Yield the runs from an instant to another, in order; what is blocked as it is set up makes none."""
    query = select(Schedule).where(Schedule.next_run_at.is_not(None), Schedule.paused.is_(False))
    if subjects is not None:
        query = query.where(Schedule.subject_uid.in_(subjects))
    rows = session.scalars(query).all()
    blocked = blocked_rows(session, rows)
    rows = [row for row in rows if row.uid not in blocked]
    found = routes(session, rows)
    known = timings(session, {configuration_uid for configuration_uid, _ in found.values()})
    for due_at, _, planned, row in heapq.merge(*(_keyed(row, start, until, found, known) for row in rows), key=_order):
        configuration_uid, gateway_uid = found.get(row.uid, (None, None))
        yield Run(
            due_at=due_at,
            planned_at=planned.planned_at,
            moved_by=planned.moved_by,
            schedule_uid=row.uid,
            kind=row.kind,
            subject_uid=row.subject_uid,
            configuration_uid=configuration_uid,
            gateway_uid=gateway_uid,
        )


def blocked_rows(session: Session, rows: Sequence[Schedule]) -> dict[str, str]:
    """Return the due rows whose runs would make no job as they are set up, each with the code of why."""
    credentials = [row for row in rows if row.kind != JobKind.DISCOVER.value]
    found: dict[str, str] = {}
    for first in range(0, len(credentials), _CHUNK):
        chunk = credentials[first : first + _CHUNK]
        verdicts = assess(session, [row.subject_uid for row in chunk])
        for row in chunk:
            if (code := blocked_by(verdicts[row.subject_uid], row.kind)) is not None:
                found[row.uid] = code
    return found


def runs_of(row: Schedule, start: datetime, until: datetime, timing: Timing) -> Iterator[tuple[datetime, Planned]]:
    """Yield when beat will run the row and what was planned, from the start on: what is overdue first.

    Each run is decided by the function that beat decides by, on a clock that stands at the run's time.
    """
    planned: Planned | None = Planned(
        planned_at=row.planned_at or row.next_run_at or start, run_at=row.next_run_at, moved_by=row.moved_by
    )
    while planned is not None and planned.run_at is not None:
        now = max(planned.run_at, start)
        if now >= until:
            return
        decision = decide(row.spec, row.anchor_at, planned, row.uid, now=now, timing=timing)
        if decision.outcome is Outcome.RUN:
            yield now, planned
        planned = decision.next


_Routes = Mapping[str, tuple[str, str]]


def _keyed(
    row: Schedule, start: datetime, until: datetime, found: _Routes, known: Mapping[str, Timing]
) -> Iterator[tuple[datetime, str, Planned, Schedule]]:
    timing = known.get(found[row.uid][0], ALWAYS) if row.uid in found else ALWAYS
    return ((due_at, row.uid, planned, row) for due_at, planned in runs_of(row, start, until, timing))


def _order(entry: tuple[datetime, str, Planned, Schedule]) -> tuple[datetime, str]:
    return entry[:2]


def routes(session: Session, rows: Sequence[Schedule]) -> dict[str, tuple[str, str]]:
    """Return configuration and gateway of each schedule."""
    gateways = {
        row.record_uid: row.gateway_uid
        for row in session.execute(select(PamConfiguration.record_uid, PamConfiguration.gateway_uid))
    }
    configurations = {
        row.record_uid: row.configuration_uid
        for row in session.execute(select(RotationSettings.record_uid, RotationSettings.configuration_uid))
    }
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        is_discovery = row.kind == JobKind.DISCOVER.value
        configuration_uid = row.subject_uid if is_discovery else configurations.get(row.subject_uid)
        if configuration_uid is not None and configuration_uid in gateways:
            found[row.uid] = (configuration_uid, gateways[configuration_uid])
    return found

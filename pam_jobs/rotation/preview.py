"""What the due table will run in the coming days, by the rules that beat goes by. Reads only."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.db.tables import JobKind, PamConfiguration, RotationSettings, Schedule
from pam_jobs.errors import InvalidInput
from pam_jobs.rotation.schedules import next_run

__all__ = ["Preview", "Run", "preview", "routes", "runs_of"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run to come."""

    due_at: datetime
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
    query = select(Schedule).where(Schedule.next_run_at.is_not(None), Schedule.paused.is_(False))
    if subjects is not None:
        query = query.where(Schedule.subject_uid.in_(subjects))
    rows = session.scalars(query).all()
    found = routes(session, rows)
    merged = heapq.merge(*(_keyed(row, start, until) for row in rows))
    runs: list[Run] = []
    for due_at, _, row in merged:
        if len(runs) == limit:
            return Preview(runs=tuple(runs), is_complete=False)
        configuration_uid, gateway_uid = found.get(row.uid, (None, None))
        runs.append(
            Run(
                due_at=due_at,
                schedule_uid=row.uid,
                kind=row.kind,
                subject_uid=row.subject_uid,
                configuration_uid=configuration_uid,
                gateway_uid=gateway_uid,
            )
        )
    return Preview(runs=tuple(runs), is_complete=True)


def runs_of(row: Schedule, start: datetime, until: datetime) -> Iterator[datetime]:
    """Yield when beat will run the row, from the start on: what is overdue at once, then each run in its time."""
    due_at = row.next_run_at
    while due_at is not None:
        due_at = max(due_at, start)
        if due_at >= until:
            return
        yield due_at
        try:
            due_at = next_run(row.spec, row.anchor_at, due_at)
        except InvalidInput:  # its zone is gone; beat stops it at its next run
            return


def _keyed(row: Schedule, start: datetime, until: datetime) -> Iterator[tuple[datetime, str, Schedule]]:
    return ((due_at, row.uid, row) for due_at in runs_of(row, start, until))


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

"""The real scheduler on a virtual clock, over a copy of the due table: what would run, and when.

Slower than ``pam_jobs.rotation.preview``, which computes the same from the same rules without running anything, and is
checked against this.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import LargeBinary, Table, event, insert, literal, select, update
from sqlalchemy.orm import Session

from pam_jobs.clock import VirtualClock
from pam_jobs.db.base import Base
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import Job, JobKind, JobState
from pam_jobs.rotation.preview import Run
from scheduler import due

__all__ = ["simulate"]

_COPIED: Final = (
    "users",
    "folders",
    "applications",
    "application_shares",
    "records",
    "gateways",
    "pam_configurations",
    "calendars",
    "configuration_calendars",
    "resource_links",
    "rotation_settings",
    "schedules",
)
"""What decides whether and when something runs, each after what it refers to."""


def simulate(database: Database, start: datetime, until: datetime, *, limit: int) -> list[Run]:
    """Return what beat would start from one instant to another, if every job ended before the next was due.

    Args:
        database: the control plane's; it is read, never written.
        start: aware; where the virtual clock begins.
        until: aware, exclusive.
        limit: most runs to return.
    """
    with tempfile.TemporaryDirectory(prefix="pam-simulation-") as folder:
        copy = Database(f"sqlite:///{Path(folder) / 'copy.db'}")
        event.listen(copy.engine, "connect", _forgo_durability)
        try:
            _copy(database, copy)
            runs: list[Run] = []
            for run in _drive(copy, VirtualClock(start), until):
                if len(runs) == limit:
                    break
                runs.append(run)
            return runs
        finally:
            copy.dispose()


def _forgo_durability(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=OFF")  # the copy lives no longer than the simulation


def _copy(source: Database, target: Database) -> None:
    Base.metadata.create_all(target.engine)
    with source.transaction(read_only=True) as reading, target.transaction() as writing:
        for name in _COPIED:
            _copy_table(reading, writing, Base.metadata.tables[name])


def _copy_table(reading: Session, writing: Session, table: Table) -> None:
    """Copy identifiers and times; ciphertext decides nothing and stays where it is."""
    columns: list[Any] = [
        literal(b"").label(column.name) if isinstance(column.type, LargeBinary) else column for column in table.columns
    ]
    rows = [dict(row) for row in reading.execute(select(*columns).select_from(table)).mappings()]
    if rows:
        writing.execute(insert(table), rows)


def _drive(database: Database, clock: VirtualClock, until: datetime) -> Iterator[Run]:
    while (next_due := due.next_due(database)) is not None:
        if next_due > clock.now():
            clock.advance(next_due - clock.now())
        if clock.now() >= until:
            return
        yield from _ended(database, clock, due.tick(database, clock))


def _ended(database: Database, clock: VirtualClock, job_uids: list[str]) -> list[Run]:
    """End the jobs, so that none covers the next run, and return what they were, in the order of the preview."""
    with database.transaction() as session:
        jobs = session.scalars(select(Job).where(Job.uid.in_(job_uids)).order_by(Job.schedule_uid)).all()
        session.execute(update(Job).where(Job.uid.in_(job_uids)).values(state=JobState.SUCCEEDED))
    return [
        Run(
            due_at=clock.now(),
            planned_at=job.planned_at or job.due_at or clock.now(),
            moved_by=job.moved_by,
            schedule_uid=job.schedule_uid or "",
            kind=str(job.kind),
            subject_uid=job.configuration_uid if job.kind == JobKind.DISCOVER else job.record_uid or "",
            configuration_uid=job.configuration_uid,
            gateway_uid=job.gateway_uid,
        )
        for job in jobs
    ]

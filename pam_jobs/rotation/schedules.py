"""The due table: one row for each thing that runs by itself, kept in step with the settings it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.tables import JobKind, PamConfiguration, RotationSettings, Schedule
from pam_jobs.errors import InvalidInput
from pam_jobs.ids import deterministic_uid
from pam_jobs.records import schedule as recurrence
from pam_jobs.rotation.timing import ALWAYS, Planned, Timing, parsed, timings

__all__ = [
    "MANUAL",
    "MISSED",
    "NO_ALLOWED_TIME",
    "checked",
    "columns_of",
    "effective_spec",
    "effective_verify_spec",
    "follow_configuration",
    "follow_settings",
    "forget",
    "keep",
    "replan",
    "schedule_uid",
]

MANUAL = "[]"
MISSED = "missed"
"""Code of a run that was left out because it came later than its configuration's grace."""
NO_ALLOWED_TIME = "no_allowed_time"
"""Code of what keeps a run from starting when its configuration's calendars leave no time for it."""
_MAX_ENTRIES = 20
_MAX_CHARACTERS = 8000


def checked(
    source: Sequence[Mapping[str, Any]] | str | None, *, clock: Clock, minimum_seconds: int
) -> recurrence.Schedule:
    """Return the schedule that a client sent.

    Args:
        source: the JSON list; empty is manual.
        clock: a schedule must have a run after its now.
        minimum_seconds: least interval that policy allows; 0 allows any.

    Raises:
        InvalidInput: malformed, never firing, of an unknown zone, too frequent, or too long.
    """
    minimum = timedelta(seconds=minimum_seconds) if minimum_seconds > 0 else None
    schedule = recurrence.parse_schedule(source, now=clock.now(), minimum=minimum)
    if len(schedule.entries) > _MAX_ENTRIES or len(schedule.to_json()) > _MAX_CHARACTERS:
        raise InvalidInput(
            f"the schedule has more than {_MAX_ENTRIES} entries or {_MAX_CHARACTERS} characters",
            remedy="combine its entries into fewer ones",
        )
    return schedule


def schedule_uid(kind: JobKind, subject_uid: str) -> str:
    """Return the uid of the one due row of a kind and subject."""
    return deterministic_uid("schedule", kind.value, subject_uid)


def effective_spec(settings: RotationSettings, configuration: PamConfiguration) -> str:
    """Return the schedule list that applies: the record's own, or the configuration's default."""
    return configuration.default_schedule if settings.inherits_schedule else settings.schedule


def effective_verify_spec(settings: RotationSettings, configuration: PamConfiguration) -> str:
    """Return by which schedule list the credential is verified; a record without a resource has nowhere to log in."""
    if settings.resource_uid is None and settings.saas_uid is None:
        return MANUAL
    return configuration.default_verify_schedule if settings.verify_schedule is None else settings.verify_schedule


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What a due row should be."""

    uid: str
    kind: JobKind
    subject_uid: str
    spec: str
    paused: bool  # by the settings that it comes from


def _wanted(settings: RotationSettings, configuration: PamConfiguration) -> Iterator[_Wanted]:
    """Yield what each due row of the record should be; what is switched off is still looked at."""

    def wanted(kind: JobKind, spec: str, *, paused: bool) -> _Wanted:
        uid = schedule_uid(kind, settings.record_uid)
        return _Wanted(uid=uid, kind=kind, subject_uid=settings.record_uid, spec=spec, paused=paused)

    is_paused = configuration.schedules_paused_at is not None
    is_off = settings.disabled or not configuration.rotation_enabled
    yield wanted(JobKind.ROTATE, effective_spec(settings, configuration), paused=is_off or is_paused)
    yield wanted(JobKind.VERIFY, effective_verify_spec(settings, configuration), paused=is_paused)


def keep(session: Session, clock: Clock, *, kind: JobKind, subject_uid: str, spec: str, paused: bool) -> None:
    """Make the due row of a configuration what it should be; an unchanged one is not touched, so that no run shifts.

    Args:
        session: of the change that calls for it.
        clock: runs are counted from its now.
        kind: what runs.
        subject_uid: the configuration, for discovery.
        spec: the JSON list; a manual one removes the row.
        paused: the row stays, without a next run.
    """
    uid = schedule_uid(kind, subject_uid)
    row = session.get(Schedule, uid, with_for_update=True)
    timing = timings(session, [subject_uid]).get(subject_uid, ALWAYS)
    wanted = _Wanted(uid=uid, kind=kind, subject_uid=subject_uid, spec=spec, paused=paused)
    _keep(session, row, clock.now(), wanted, timing)


def forget(session: Session, *, kind: JobKind, subject_uid: str) -> None:
    """Remove the due row, if there is one."""
    row = session.get(Schedule, schedule_uid(kind, subject_uid), with_for_update=True)
    if row is not None:
        session.delete(row)


def follow_settings(
    session: Session, clock: Clock, settings: RotationSettings, configuration: PamConfiguration
) -> None:
    """Bring the due rows of one record in step with its settings and its configuration."""
    timing = timings(session, [configuration.record_uid]).get(configuration.record_uid, ALWAYS)
    for wanted in _wanted(settings, configuration):
        row = session.get(Schedule, wanted.uid, with_for_update=True)
        _keep(session, row, clock.now(), wanted, timing)


def follow_configuration(session: Session, clock: Clock, configuration: PamConfiguration) -> None:
    """Bring the due rows of all records of a configuration in step, after a default, a switch or a pause changed."""
    of_configuration = RotationSettings.configuration_uid == configuration.record_uid
    found = session.scalars(
        select(RotationSettings).where(of_configuration).order_by(RotationSettings.record_uid)
    ).all()
    rows = {row.uid: row for row in _rows_of(session, configuration.record_uid)}
    timing = timings(session, [configuration.record_uid]).get(configuration.record_uid, ALWAYS)
    now = clock.now()
    for settings in found:
        for wanted in _wanted(settings, configuration):
            _keep(session, rows.get(wanted.uid), now, wanted, timing)


def replan(session: Session, clock: Clock, configuration_uid: str) -> None:
    """Bring the next runs of a configuration in step with its calendars and jitter, after those changed.

    What is planned stays; when it begins follows. A run that was held and is allowed now begins at once.
    """
    session.flush()
    timing = timings(session, [configuration_uid]).get(configuration_uid, ALWAYS)
    now = clock.now()
    for row in _rows_of(session, configuration_uid):
        if not row.paused and (row.next_run_at is not None or row.blocked == NO_ALLOWED_TIME):
            _set(row, _again(row, now, timing))


def _rows_of(session: Session, configuration_uid: str) -> Sequence[Schedule]:
    """Return the due rows of a configuration and of its records, locked: no beat moves one on meanwhile."""
    records = select(RotationSettings.record_uid).where(RotationSettings.configuration_uid == configuration_uid)
    return session.scalars(
        select(Schedule)
        .where(or_(Schedule.subject_uid.in_(records), Schedule.subject_uid == configuration_uid))
        .order_by(Schedule.uid)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()


def _again(row: Schedule, now: datetime, timing: Timing) -> Planned | None:
    planned_at = row.planned_at or row.next_run_at
    if planned_at is None:
        return timing.after(row.spec, row.anchor_at, now, row.uid)
    planned = timing.placed(row.spec, row.anchor_at, planned_at, row.uid)
    if planned.run_at is not None and planned.run_at < now:
        planned = timing.placed(row.spec, row.anchor_at, planned_at, row.uid, since=now)
    return planned


def _keep(session: Session, row: Schedule | None, now: datetime, wanted: _Wanted, timing: Timing) -> None:
    if parsed(wanted.spec).is_manual:
        if row is not None:
            session.delete(row)
        return
    paused = wanted.paused or (row is not None and row.paused_at is not None)
    if row is None:
        row = Schedule(
            uid=wanted.uid,
            kind=wanted.kind.value,
            subject_uid=wanted.subject_uid,
            spec="",
            anchor_at=now,
            paused=paused,
        )
        session.add(row)
    elif row.spec == wanted.spec and row.paused == paused:
        return
    if row.spec != wanted.spec:
        row.spec = wanted.spec
        row.anchor_at = now
    row.paused = paused
    row.blocked = None
    _set(row, None if paused else timing.after(row.spec, row.anchor_at, now, row.uid))


def _set(row: Schedule, planned: Planned | None) -> None:
    for name, value in columns_of(planned).items():
        setattr(row, name, value)
    if planned is not None and planned.run_at is None:
        row.blocked = NO_ALLOWED_TIME
    elif row.blocked == NO_ALLOWED_TIME:
        row.blocked = None


def columns_of(planned: Planned | None) -> dict[str, datetime | str | None]:
    """Return what a due row holds of its next run."""
    if planned is None:
        return {"next_run_at": None, "planned_at": None, "moved_by": None}
    return {"next_run_at": planned.run_at, "planned_at": planned.planned_at, "moved_by": planned.moved_by}

"""The due table: one row for each thing that runs by itself, kept in step with the settings it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.tables import JobKind, PamConfiguration, RotationSettings, Schedule
from pam_jobs.errors import InvalidInput
from pam_jobs.ids import deterministic_uid
from pam_jobs.records import schedule as recurrence

__all__ = [
    "MANUAL",
    "checked",
    "effective_spec",
    "effective_verify_spec",
    "follow_configuration",
    "follow_settings",
    "forget",
    "keep",
    "next_run",
    "parsed",
    "schedule_uid",
]

MANUAL = "[]"
_MAX_ENTRIES = 20
_MAX_CHARACTERS = 8000
_KEPT_SPECS = 8192  # parsed forms held in memory; fleets share a few dozen distinct ones


@lru_cache(maxsize=_KEPT_SPECS)
def parsed(spec: str) -> recurrence.Schedule:
    """Return the parsed form of a stored schedule list.

    Raises:
        InvalidInput: the text is no schedule, or names a zone that the installed data no longer has.
    """
    return recurrence.parse_schedule(spec)


def next_run(spec: str, anchor: datetime, after: datetime) -> datetime | None:
    """Return the first run strictly after an instant: what beat and preview both go by.

    Args:
        spec: the JSON schedule list.
        anchor: where ``intervalCount`` counts from.
        after: aware.

    Returns:
        The instant in UTC, or None when it never runs again.
    """
    return parsed(spec).next_after(after, anchor=anchor)


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
    if settings.resource_uid is None:
        return MANUAL
    return configuration.default_verify_schedule if settings.verify_schedule is None else settings.verify_schedule


def _wanted(settings: RotationSettings, configuration: PamConfiguration) -> Iterator[tuple[JobKind, str, bool]]:
    """Yield kind, schedule list and pause of each due row of the record; what is switched off is still looked at."""
    is_off = settings.disabled or not configuration.rotation_enabled
    yield JobKind.ROTATE, effective_spec(settings, configuration), is_off
    yield JobKind.VERIFY, effective_verify_spec(settings, configuration), False


def keep(session: Session, clock: Clock, *, kind: JobKind, subject_uid: str, spec: str, paused: bool) -> None:
    """Make the due row what it should be; an unchanged one is not touched, so that no run shifts.

    Args:
        session: of the change that calls for it.
        clock: runs are counted from its now.
        kind: what runs.
        subject_uid: the user record; the configuration for discovery.
        spec: the JSON list; a manual one removes the row.
        paused: the row stays, without a next run.
    """
    uid = schedule_uid(kind, subject_uid)
    row = session.get(Schedule, uid, with_for_update=True)
    _keep(session, row, clock.now(), uid=uid, kind=kind, subject_uid=subject_uid, spec=spec, paused=paused)


def forget(session: Session, *, kind: JobKind, subject_uid: str) -> None:
    """Remove the due row, if there is one."""
    row = session.get(Schedule, schedule_uid(kind, subject_uid), with_for_update=True)
    if row is not None:
        session.delete(row)


def follow_settings(
    session: Session, clock: Clock, settings: RotationSettings, configuration: PamConfiguration
) -> None:
    """Bring the due rows of one record in step with its settings and its configuration."""
    for kind, spec, paused in _wanted(settings, configuration):
        keep(session, clock, kind=kind, subject_uid=settings.record_uid, spec=spec, paused=paused)


def follow_configuration(session: Session, clock: Clock, configuration: PamConfiguration) -> None:
    """Bring the due rows of all records of a configuration in step, after a default or the switch changed."""
    of_configuration = RotationSettings.configuration_uid == configuration.record_uid
    found = session.scalars(
        select(RotationSettings).where(of_configuration).order_by(RotationSettings.record_uid)
    ).all()
    rows = {
        row.uid: row
        for row in session.scalars(
            select(Schedule)
            .join(RotationSettings, RotationSettings.record_uid == Schedule.subject_uid)
            .where(of_configuration)
        )
    }
    now = clock.now()
    for settings in found:
        for kind, spec, paused in _wanted(settings, configuration):
            uid = schedule_uid(kind, settings.record_uid)
            _keep(
                session,
                rows.get(uid),
                now,
                uid=uid,
                kind=kind,
                subject_uid=settings.record_uid,
                spec=spec,
                paused=paused,
            )


def _keep(
    session: Session,
    row: Schedule | None,
    now: datetime,
    *,
    uid: str,
    kind: JobKind,
    subject_uid: str,
    spec: str,
    paused: bool,
) -> None:
    if parsed(spec).is_manual:
        if row is not None:
            session.delete(row)
        return
    if row is None:
        row = Schedule(uid=uid, kind=kind.value, subject_uid=subject_uid, spec="", anchor_at=now, paused=paused)
        session.add(row)
    elif row.spec == spec and row.paused == paused:
        return
    if row.spec != spec:
        row.spec = spec
        row.anchor_at = now
    row.paused = paused
    row.blocked = None
    row.next_run_at = None if paused else next_run(spec, row.anchor_at, now)

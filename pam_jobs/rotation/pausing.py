"""Pausing what runs by itself: one schedule, or all of a configuration. What runs on demand is not held."""

from __future__ import annotations

from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import JobKind, PamConfiguration, RotationSettings, Schedule
from pam_jobs.errors import NotFound
from pam_jobs.rotation import schedules
from pam_jobs.rotation.configurations import require_configuration

__all__ = [
    "configuration_gateway",
    "configuration_of",
    "pause",
    "pause_configuration",
    "require_schedule",
    "resume",
    "resume_configuration",
]


def require_schedule(session: Session, uid: str) -> Schedule:
    """Return the due row, locked.

    Raises:
        NotFound: there is none.
    """
    row = session.get(Schedule, uid, with_for_update=True)
    if row is None:
        raise NotFound(f"there is no schedule {uid}", remedy="take the UID from `pam schedule list --format json`")
    return row


def pause(session: Session, clock: Clock, actor: Actor, uid: str) -> Schedule:
    """Keep a schedule from making jobs until it is resumed; jobs that wait already are not touched.

    Raises:
        NotFound: no such schedule.
    """
    row = require_schedule(session, uid)
    if row.paused_at is None:
        row.paused_at = clock.now()
        _follow(session, clock, row)
        _tell(session, clock, actor, "pam_schedule_paused", row)
    return row


def resume(session: Session, clock: Clock, actor: Actor, uid: str) -> Schedule:
    """Let a schedule make jobs again, from its next run after now; what it missed is not made up for.

    Raises:
        NotFound: no such schedule.
    """
    row = require_schedule(session, uid)
    if row.paused_at is not None:
        row.paused_at = None
        _follow(session, clock, row)
        _tell(session, clock, actor, "pam_schedule_resumed", row)
    return row


def pause_configuration(session: Session, clock: Clock, actor: Actor, uid: str) -> PamConfiguration:
    """Keep everything of a configuration from running by itself until it is resumed.

    Raises:
        NotFound: no such configuration.
    """
    configuration = require_configuration(session, uid, lock=True)
    if configuration.schedules_paused_at is None:
        configuration.schedules_paused_at = clock.now()
        _follow_all(session, clock, actor, configuration, "pam_schedules_paused")
    return configuration


def resume_configuration(session: Session, clock: Clock, actor: Actor, uid: str) -> PamConfiguration:
    """Let a configuration's schedules run again; one that was paused by itself stays so.

    Raises:
        NotFound: no such configuration.
    """
    configuration = require_configuration(session, uid, lock=True)
    if configuration.schedules_paused_at is not None:
        configuration.schedules_paused_at = None
        _follow_all(session, clock, actor, configuration, "pam_schedules_resumed")
    return configuration


def configuration_of(session: Session, row: Schedule) -> PamConfiguration | None:
    """Return the configuration that a schedule belongs to, if there is one."""
    if row.kind == JobKind.DISCOVER.value:
        return session.get(PamConfiguration, row.subject_uid)
    settings = session.get(RotationSettings, row.subject_uid)
    return session.get(PamConfiguration, settings.configuration_uid) if settings is not None else None


def configuration_gateway(session: Session, configuration_uid: str) -> str | None:
    """Return the gateway that serves a configuration, if there is one."""
    configuration = session.get(PamConfiguration, configuration_uid)
    return configuration.gateway_uid if configuration is not None else None


def _follow(session: Session, clock: Clock, row: Schedule) -> None:
    configuration = configuration_of(session, row)
    settings = session.get(RotationSettings, row.subject_uid)
    if configuration is None:
        return
    if settings is not None and row.kind != JobKind.DISCOVER.value:
        schedules.follow_settings(session, clock, settings, configuration)
    else:
        _follow_discovery(session, clock, row, configuration)


def _follow_discovery(session: Session, clock: Clock, row: Schedule, configuration: PamConfiguration) -> None:
    is_paused = configuration.schedules_paused_at is not None
    schedules.keep(session, clock, kind=JobKind.DISCOVER, subject_uid=row.subject_uid, spec=row.spec, paused=is_paused)


def _follow_all(session: Session, clock: Clock, actor: Actor, configuration: PamConfiguration, event: str) -> None:
    schedules.follow_configuration(session, clock, configuration)
    discovery = session.get(
        Schedule, schedules.schedule_uid(JobKind.DISCOVER, configuration.record_uid), with_for_update=True
    )
    if discovery is not None:
        _follow_discovery(session, clock, discovery, configuration)
    record_event(
        session,
        clock,
        actor,
        event,
        configuration_uid=configuration.record_uid,
        gateway_uid=configuration.gateway_uid,
    )


def _tell(session: Session, clock: Clock, actor: Actor, event: str, row: Schedule) -> None:
    configuration = configuration_of(session, row)
    record_event(
        session,
        clock,
        actor,
        event,
        schedule_uid=row.uid,
        job_kind=row.kind,
        record_uid=None if row.kind == JobKind.DISCOVER.value else row.subject_uid,
        configuration_uid=configuration.record_uid if configuration is not None else None,
        gateway_uid=configuration.gateway_uid if configuration is not None else None,
    )

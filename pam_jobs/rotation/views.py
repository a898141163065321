"""Rotation settings as operators see them: beside each its gateway, its next run and what keeps it from running."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, aliased

from pam_jobs.clock import Clock
from pam_jobs.db.tables import (
    Gateway,
    JobKind,
    PamConfiguration,
    ResourceLink,
    RotationSettings,
    Schedule,
)
from pam_jobs.rotation import gateways
from pam_jobs.rotation.readiness import assess
from pam_jobs.rotation.schedules import effective_spec, effective_verify_spec
from pam_jobs.rotation.settings import require_settings

__all__ = ["Drift", "RotationView", "all_rotations", "rotation"]

_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Whether the target takes the credential, as far as was seen last."""

    state: str
    since: datetime | None
    checked_at: datetime | None  # when the target was last asked
    cause: str | None


@dataclass(frozen=True, kw_only=True)
class RotationView:
    """All about the rotation of one user record."""

    record_uid: str
    configuration_uid: str
    resource_uid: str | None
    admin_uid: str | None
    saas_uid: str | None
    profile: str
    schedule: list[Any]
    inherits_schedule: bool
    effective_schedule: list[Any]  # its own, or the configuration's default
    verify_schedule: list[Any] | None  # None: the configuration's default
    effective_verify_schedule: list[Any]
    complexity: bytes | None
    disabled: bool
    revision: int
    updated_at: datetime
    last_rotated_at: datetime | None
    last_probe: dict[str, Any] | None
    drift: Drift
    next_run_at: datetime | None
    next_verify_at: datetime | None
    gateway_uid: str
    gateway_name: str
    gateway_status: str
    ready: bool
    blockers: list[str]


def rotation(session: Session, clock: Clock, record_uid: str, *, offline_seconds: int) -> RotationView:
    """Return the view of one record.

    Raises:
        NotFound: rotation is not set up for it.
    """
    require_settings(session, record_uid)
    [view] = _views(session, clock, [record_uid], offline_seconds)
    return view


def all_rotations(session: Session, clock: Clock, *, offline_seconds: int) -> list[RotationView]:
    """Return the views of all records for which rotation is set up, by UID."""
    uids = session.scalars(select(RotationSettings.record_uid).order_by(RotationSettings.record_uid)).all()
    return [
        view
        for start in range(0, len(uids), _CHUNK)
        for view in _views(session, clock, uids[start : start + _CHUNK], offline_seconds)
    ]


def _views(session: Session, clock: Clock, record_uids: Sequence[str], offline_seconds: int) -> Iterator[RotationView]:
    rotation, verification = aliased(Schedule), aliased(Schedule)
    rows = session.execute(
        select(
            RotationSettings,
            PamConfiguration,
            Gateway,
            ResourceLink.admin_uid,
            rotation.next_run_at,
            verification.next_run_at,
        )
        .join(PamConfiguration, PamConfiguration.record_uid == RotationSettings.configuration_uid)
        .join(Gateway, Gateway.uid == PamConfiguration.gateway_uid)
        .outerjoin(ResourceLink, ResourceLink.resource_uid == RotationSettings.resource_uid)
        .outerjoin(rotation, _of(rotation, JobKind.ROTATE))
        .outerjoin(verification, _of(verification, JobKind.VERIFY))
        .where(RotationSettings.record_uid.in_(record_uids))
        .order_by(RotationSettings.record_uid)
    ).all()
    verdicts = assess(session, record_uids)
    statuses = gateways.statuses(session, clock, {row.Gateway.uid for row in rows}, offline_seconds=offline_seconds)
    for settings, configuration, gateway, admin_uid, next_run_at, next_verify_at in rows:
        blockers = [blocker.sentence() for blocker in verdicts[settings.record_uid].blockers]
        yield RotationView(
            record_uid=settings.record_uid,
            configuration_uid=configuration.record_uid,
            resource_uid=settings.resource_uid,
            admin_uid=admin_uid,
            saas_uid=settings.saas_uid,
            profile=settings.profile,
            schedule=json.loads(settings.schedule),
            inherits_schedule=settings.inherits_schedule,
            effective_schedule=json.loads(effective_spec(settings, configuration)),
            verify_schedule=None if settings.verify_schedule is None else json.loads(settings.verify_schedule),
            effective_verify_schedule=json.loads(effective_verify_spec(settings, configuration)),
            complexity=settings.complexity,
            disabled=settings.disabled,
            revision=settings.revision,
            updated_at=settings.updated_at,
            last_rotated_at=settings.last_rotated_at,
            last_probe=settings.last_probe,
            drift=Drift(
                state=settings.drift,
                since=settings.drift_since,
                checked_at=settings.drift_checked_at,
                cause=settings.drift_cause,
            ),
            next_run_at=next_run_at,
            next_verify_at=next_verify_at,
            gateway_uid=gateway.uid,
            gateway_name=gateway.name,
            gateway_status=statuses[gateway.uid],
            ready=not blockers,
            blockers=blockers,
        )


def _of(schedule: type[Schedule], kind: JobKind) -> ColumnElement[bool]:
    return (schedule.subject_uid == RotationSettings.record_uid) & (schedule.kind == kind.value)

"""Gateways, PAM configurations, resources and rotation settings.

Reading needs the permission ``jobs_read``: these rows hold identifiers and times. Changing asks for its own permission
and for the caller's own right to the records in question.
"""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Path, status
from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.api.auth import Principal, require
from pam_jobs.api.context import AppContext, Context
from pam_jobs.db.tables import CalendarUse, PamConfiguration, ResourceLink, TargetSetAside
from pam_jobs.jobs import dispatch, set_aside
from pam_jobs.rotation import calendars, configurations, gateways, models, pausing, resources, settings, views
from pam_jobs.rotation.configurations import Changes, NewConfiguration
from pam_jobs.rotation.limits import KEEP
from pam_jobs.vault import clients, records

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["pam"])

_Reader = Annotated[Principal, Depends(require("jobs_read"))]
_GatewayAdmin = Annotated[Principal, Depends(require("gateways"))]
_Configurer = Annotated[Principal, Depends(require("configure_rotation"))]
_Uid = Annotated[str, Path(max_length=64)]


# gateways


@router.get("/gateways")
def list_gateways(_principal: _Reader, context: Context) -> models.GatewayList:
    """Return every gateway with its instances and the number of jobs that wait for it."""
    with context.database.transaction(read_only=True) as session:
        rows = gateways.overview(session, context.clock, offline_seconds=context.settings.offline_seconds)
    return models.GatewayList(gateways=[models.GatewayOut.model_validate(row) for row in rows])


@router.post("/gateways", status_code=status.HTTP_201_CREATED)
def create_gateway(body: models.NewGateway, principal: _GatewayAdmin, context: Context) -> models.GatewayOut:
    """Create a gateway and the device that it binds as."""
    actor = principal.actor()
    with context.database.transaction() as session:
        gateway = gateways.create(
            session, context.clock, actor, uid=body.uid, name=body.name, application_uid=body.application_uid
        )
        clients.add(
            session,
            context.clock,
            actor,
            principal.user_uid,
            body.application_uid,
            body.client,
            gateway_uid=gateway.uid,
        )
        return _gateway(session, context, gateway.uid)


@router.patch("/gateways/{uid}")
def change_gateway(
    uid: _Uid, body: models.GatewayChange, principal: _GatewayAdmin, context: Context
) -> models.GatewayOut:
    """Rename a gateway, or change how many instances and jobs at a time it may have."""
    with context.database.transaction() as session:
        gateways.change(
            session,
            context.clock,
            principal.actor(),
            uid,
            name=body.name,
            max_instances=body.max_instances,
            job_limit=body.job_limit if "job_limit" in body.model_fields_set else KEEP,
        )
        published = dispatch.refill(session, context.clock, uid)
        shown = _gateway(session, context, uid)
    context.after_commit(list(published))
    return shown


@router.post("/gateways/{uid}/drain")
def drain_gateway(uid: _Uid, principal: _GatewayAdmin, context: Context) -> models.GatewayOut:
    """Let a gateway begin no more jobs; what it works on, it ends."""
    with context.database.transaction() as session:
        gateways.drain(session, context.clock, principal.actor(), uid)
        return _gateway(session, context, uid)


@router.post("/gateways/{uid}/resume")
def resume_gateway(uid: _Uid, principal: _GatewayAdmin, context: Context) -> models.GatewayOut:
    """Let a drained gateway begin jobs again."""
    with context.database.transaction() as session:
        published = gateways.resume(session, context.clock, principal.actor(), uid)
        shown = _gateway(session, context, uid)
    context.after_commit(list(published))
    return shown


@router.delete("/gateways/{uid}", status_code=status.HTTP_204_NO_CONTENT)
def remove_gateway(uid: _Uid, principal: _GatewayAdmin, context: Context) -> None:
    """Remove a gateway that no configuration uses."""
    with context.database.transaction() as session:
        gateways.remove(session, context.clock, principal.actor(), uid)


def _gateway(session: Session, context: AppContext, uid: str) -> models.GatewayOut:
    rows = gateways.overview(session, context.clock, offline_seconds=context.settings.offline_seconds)
    return next(models.GatewayOut.model_validate(row) for row in rows if row.uid == uid)


# configurations


@router.get("/configurations")
def list_configurations(_principal: _Reader, context: Context) -> models.ConfigurationList:
    """Return every PAM configuration with its resources."""
    with context.database.transaction(read_only=True) as session:
        query = select(PamConfiguration).order_by(PamConfiguration.created_at, PamConfiguration.record_uid)
        return models.ConfigurationList(configurations=_configurations(session, list(session.scalars(query))))


@router.post("/configurations", status_code=status.HTTP_201_CREATED)
def create_configuration(
    body: models.Configuration, principal: _Configurer, context: Context
) -> models.ConfigurationOut:
    """Create a configuration's record and the configuration, both or neither."""
    actor = principal.actor()
    with context.database.transaction() as session:
        record = records.create(session, context.clock, actor, principal.user_uid, body.record)
        row = configurations.create(
            session,
            context.clock,
            actor,
            NewConfiguration(
                record_uid=record.uid,
                gateway_uid=body.gateway_uid,
                environment=body.environment,
                default_schedule=body.default_schedule,
                default_verify_schedule=body.default_verify_schedule,
                rotation_enabled=body.rotation_enabled,
            ),
            minimum_seconds=context.settings.minimum_interval_seconds,
        )
        return _configurations(session, [row])[0]


@router.patch("/configurations/{uid}")
def change_configuration(
    uid: _Uid, body: models.ConfigurationChange, principal: _Configurer, context: Context
) -> models.ConfigurationOut:
    """Change a configuration; the schedules of the records that inherit from it follow."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, uid, can_edit=True)
        row = configurations.change(
            session,
            context.clock,
            principal.actor(),
            uid,
            Changes(**body.model_dump(exclude_unset=True)),
            minimum_seconds=context.settings.minimum_interval_seconds,
        )
        return _configurations(session, [row])[0]


@router.delete("/configurations/{uid}", status_code=status.HTTP_204_NO_CONTENT)
def remove_configuration(uid: _Uid, principal: _Configurer, context: Context) -> None:
    """Remove a configuration that nothing uses, and its record."""
    actor = principal.actor()
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, uid, can_edit=True)
        configurations.remove(session, context.clock, actor, uid)
        records.delete(session, context.clock, actor, principal.user_uid, uid)


@router.post("/configurations/{uid}/pause")
def pause_configuration(uid: _Uid, principal: _Configurer, context: Context) -> models.ConfigurationOut:
    """Keep everything of a configuration from running by itself; what waits already and what runs on demand goes on."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, uid, can_edit=True)
        row = pausing.pause_configuration(session, context.clock, principal.actor(), uid)
        return _configurations(session, [row])[0]


@router.post("/configurations/{uid}/resume")
def resume_configuration(uid: _Uid, principal: _Configurer, context: Context) -> models.ConfigurationOut:
    """Let a configuration's schedules run again from their next runs; a schedule that was paused by itself stays so."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, uid, can_edit=True)
        row = pausing.resume_configuration(session, context.clock, principal.actor(), uid)
        return _configurations(session, [row])[0]


def _configurations(session: Session, rows: list[PamConfiguration]) -> list[models.ConfigurationOut]:
    uids = [row.record_uid for row in rows]
    linked = configurations.resources_of(session, uids)
    used = calendars.attached(session, uids)
    return [
        models.ConfigurationOut(
            record_uid=row.record_uid,
            gateway_uid=row.gateway_uid,
            environment=row.environment,
            default_schedule=json.loads(row.default_schedule),
            default_verify_schedule=json.loads(row.default_verify_schedule),
            rotation_enabled=row.rotation_enabled,
            schedules_paused_at=row.schedules_paused_at,
            windows=used[row.record_uid][CalendarUse.WINDOW],
            blackouts=used[row.record_uid][CalendarUse.BLACKOUT],
            jitter_seconds=row.jitter_seconds,
            missed_runs=row.missed_runs,
            missed_grace_seconds=row.missed_grace_seconds,
            job_limit=row.job_limit,
            target_limit=row.target_limit,
            resources=[
                models.LinkOut(record_uid=link.resource_uid, admin_uid=link.admin_uid, job_limit=link.job_limit)
                for link in linked[row.record_uid]
            ],
            created_at=row.created_at,
        )
        for row in rows
    ]


# resources


@router.get("/resources")
def list_resources(_principal: _Reader, context: Context) -> models.ResourceList:
    """Return every resource with its configuration and its admin."""
    with context.database.transaction(read_only=True) as session:
        rows = session.execute(
            select(ResourceLink, TargetSetAside)
            .outerjoin(TargetSetAside, set_aside.on_resource())
            .order_by(ResourceLink.resource_uid)
        ).all()
    return models.ResourceList(resources=[_resource(link, aside) for link, aside in rows])


@router.put("/resources/{record_uid}")
def put_resource(
    record_uid: _Uid, body: models.ResourceChange, principal: _Configurer, context: Context
) -> models.ResourceOut:
    """Link a resource to a configuration and name its admin."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, record_uid, can_edit=True)
        _require_readable(session, principal, body.configuration_uid, body.admin_uid)
        row = resources.put(
            session,
            context.clock,
            principal.actor(),
            record_uid,
            configuration_uid=body.configuration_uid,
            admin_uid=body.admin_uid,
        )
        return _resource(row)


@router.patch("/resources/{record_uid}")
def limit_resource(
    record_uid: _Uid, body: models.ResourceLimit, principal: _Configurer, context: Context
) -> models.ResourceOut:
    """Set how many jobs may be at work on a resource at a time."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, record_uid, can_edit=True)
        return _resource(resources.limit(session, context.clock, principal.actor(), record_uid, body.job_limit))


@router.delete("/resources/{record_uid}", status_code=status.HTTP_204_NO_CONTENT)
def remove_resource(record_uid: _Uid, principal: _Configurer, context: Context) -> None:
    """Unlink a resource that nobody is rotated on."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, record_uid, can_edit=True)
        resources.remove(session, context.clock, principal.actor(), record_uid)


@router.post("/resources/{record_uid}/resume", status_code=status.HTTP_204_NO_CONTENT)
def resume_resource(record_uid: _Uid, principal: _Configurer, context: Context) -> None:
    """Let a target be tried again that was set aside because its administrator was refused."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, record_uid, can_edit=True)
        published = resources.resume(session, context.clock, principal.actor(), record_uid)
    context.after_commit(list(published))


def _resource(row: ResourceLink, aside: TargetSetAside | None = None) -> models.ResourceOut:
    return models.ResourceOut(
        record_uid=row.resource_uid,
        configuration_uid=row.configuration_uid,
        admin_uid=row.admin_uid,
        job_limit=row.job_limit,
        set_aside=models.SetAsideOut.model_validate(aside) if aside is not None else None,
    )


def _require_readable(session: Session, principal: Principal, *uids: str | None) -> None:
    """Refuse to name records that are not the caller's: a gateway would work with them on the caller's behalf."""
    for uid in uids:
        if uid is not None:
            records.require(session, principal.user_uid, uid)


# rotation


@router.get("/rotation")
def list_rotation(_principal: _Reader, context: Context) -> models.RotationList:
    """Return how every user record is rotated."""
    with context.database.transaction(read_only=True) as session:
        rows = views.all_rotations(session, context.clock, offline_seconds=context.settings.offline_seconds)
    return models.RotationList(rotation=[models.RotationOut.model_validate(row) for row in rows])


@router.get("/rotation/{record_uid}")
def read_rotation(record_uid: _Uid, _principal: _Reader, context: Context) -> models.RotationOut:
    """Return how one user record is rotated, and what keeps it from being."""
    with context.database.transaction(read_only=True) as session:
        return _rotation(session, context, record_uid)


@router.put("/rotation/{record_uid}")
def put_rotation(
    record_uid: _Uid, body: models.RotationChange, principal: _Configurer, context: Context
) -> models.RotationOut:
    """Set how a user record is rotated; earlier settings are replaced."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, record_uid, can_edit=True)
        _require_readable(session, principal, body.configuration_uid, body.resource_uid, body.admin_uid)
        if body.admin_uid is not None and body.resource_uid is not None:  # it becomes the resource's admin
            records.require(session, principal.user_uid, body.resource_uid, can_edit=True)
        settings.put(
            session,
            context.clock,
            principal.actor(),
            record_uid,
            settings.Wanted(**{name: getattr(body, name) for name in models.RotationChange.model_fields}),
            minimum_seconds=context.settings.minimum_interval_seconds,
        )
        return _rotation(session, context, record_uid)


@router.delete("/rotation/{record_uid}", status_code=status.HTTP_204_NO_CONTENT)
def remove_rotation(record_uid: _Uid, principal: _Configurer, context: Context) -> None:
    """Take a user record out of rotation."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, record_uid, can_edit=True)
        settings.remove(session, context.clock, principal.actor(), record_uid)


def _rotation(session: Session, context: AppContext, record_uid: str) -> models.RotationOut:
    view = views.rotation(session, context.clock, record_uid, offline_seconds=context.settings.offline_seconds)
    return models.RotationOut.model_validate(view)

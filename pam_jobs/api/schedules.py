"""What runs by itself: the due table, its preview, and pausing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.api.auth import Principal, require
from pam_jobs.api.context import Context
from pam_jobs.db.tables import JobKind, Schedule
from pam_jobs.errors import InvalidInput
from pam_jobs.rotation import models, pausing
from pam_jobs.rotation.forecast import Forecast, forecast
from pam_jobs.rotation.preview import Run, preview, routes
from pam_jobs.rotation.reasons import reasons
from pam_jobs.rotation.timing import parsed
from pam_jobs.vault import records

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["pam"])

_Reader = Annotated[Principal, Depends(require("jobs_read"))]
_Configurer = Annotated[Principal, Depends(require("configure_rotation"))]
_Uid = Annotated[str, Path(max_length=64)]


@router.get("/schedules")
def list_schedules(_principal: _Reader, context: Context) -> models.ScheduleList:
    """Return the due table, soonest first."""
    with context.database.transaction(read_only=True) as session:
        rows = session.scalars(
            select(Schedule).order_by(Schedule.next_run_at.is_(None), Schedule.next_run_at, Schedule.uid)
        ).all()
        return models.ScheduleList(schedules=_schedules(session, rows))


@router.get("/schedules/preview")
def preview_schedules(
    _principal: _Reader,
    context: Context,
    *,
    days: Annotated[float, Query(gt=0, le=400)] = 7.0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    record_uid: Annotated[str | None, Query(max_length=22)] = None,
    report: Annotated[bool, Query(description="with load, collisions, moved runs and misses of all schedules")] = False,
    max_age_days: Annotated[float | None, Query(gt=0, le=3650, description="the policy that misses go by")] = None,
) -> models.PreviewOut:
    """Return what will run in the coming days, by the rules that beat goes by."""
    start = context.clock.now()
    until = start + timedelta(days=days)
    with context.database.transaction(read_only=True) as session:
        found = preview(session, start, until, limit=limit, subjects=None if record_uid is None else [record_uid])
        age = None if max_age_days is None else timedelta(days=max_age_days)
        told = forecast(session, start, until, max_age=age) if report else None
    return models.PreviewOut(
        runs=[_run(run) for run in found.runs],
        complete=found.is_complete,
        report=None if told is None else _report(told),
    )


def _report(told: Forecast) -> models.ForecastOut:
    return models.ForecastOut(
        runs=told.runs,
        complete=told.is_complete,
        load=[models.LoadOut.model_validate(row) for row in told.load],
        collisions=[
            models.CollisionOut(at=row.at, resource_uid=row.resource_uid, schedule_uids=list(row.schedule_uids))
            for row in told.collisions
        ],
        collision_count=told.collision_count,
        moved=[_run(run) for run in told.moved],
        moved_count=told.moved_count,
        misses=[models.MissOut.model_validate(row) for row in told.misses],
    )


@router.post("/schedules/{uid}/pause")
def pause_schedule(uid: _Uid, principal: _Configurer, context: Context) -> models.ScheduleOut:
    """Keep a schedule from making jobs until it is resumed; what waits already and what runs on demand goes on."""
    with context.database.transaction() as session:
        _require_subject(session, principal, uid)
        row = pausing.pause(session, context.clock, principal.actor(), uid)
        return _schedules(session, [row])[0]


@router.post("/schedules/{uid}/resume")
def resume_schedule(uid: _Uid, principal: _Configurer, context: Context) -> models.ScheduleOut:
    """Let a schedule make jobs again, from its next run after now; what it missed is not made up for."""
    with context.database.transaction() as session:
        _require_subject(session, principal, uid)
        row = pausing.resume(session, context.clock, principal.actor(), uid)
        return _schedules(session, [row])[0]


def _require_subject(session: Session, principal: Principal, uid: str) -> None:
    row = pausing.require_schedule(session, uid)
    records.require(session, principal.user_uid, row.subject_uid, can_edit=True)


def _schedules(session: Session, rows: Sequence[Schedule]) -> list[models.ScheduleOut]:
    found = routes(session, rows)
    why = reasons(session, rows)
    return [_schedule(row, found.get(row.uid, (None, None)), why[row.uid]) for row in rows]


def _schedule(row: Schedule, route: tuple[str | None, str | None], why: list[str]) -> models.ScheduleOut:
    try:
        description = parsed(row.spec).describe()
    except InvalidInput as error:
        description = error.message
    return models.ScheduleOut(
        uid=row.uid,
        kind=row.kind,
        record_uid=None if row.kind == JobKind.DISCOVER.value else row.subject_uid,
        configuration_uid=route[0],
        gateway_uid=route[1],
        schedule=json.loads(row.spec),
        description=description,
        next_run_at=row.next_run_at,
        last_due_at=row.last_due_at,
        planned_at=row.planned_at,
        moved_by=row.moved_by,
        paused=row.paused,
        paused_at=row.paused_at,
        blocked=row.blocked,
        reasons=why,
    )


def _run(run: Run) -> models.RunOut:
    return models.RunOut(
        due_at=run.due_at,
        planned_at=run.planned_at,
        moved_by=run.moved_by,
        schedule_uid=run.schedule_uid,
        kind=run.kind,
        record_uid=None if run.kind == JobKind.DISCOVER.value else run.subject_uid,
        configuration_uid=run.configuration_uid,
        gateway_uid=run.gateway_uid,
    )

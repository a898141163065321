"""Named calendars, which configurations use as windows and blackouts of what runs by itself."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Path, status
from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.api.auth import Principal, require
from pam_jobs.api.context import Context
from pam_jobs.db.tables import Calendar
from pam_jobs.rotation import calendars, models
from pam_jobs.vault import records

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/calendars", tags=["pam"])

_Reader = Annotated[Principal, Depends(require("jobs_read"))]
_Configurer = Annotated[Principal, Depends(require("configure_rotation"))]
_Uid = Annotated[str, Path(max_length=64)]


@router.get("")
def list_calendars(_principal: _Reader, context: Context) -> models.CalendarList:
    """Return every calendar and who uses it."""
    with context.database.transaction(read_only=True) as session:
        rows = session.scalars(select(Calendar).order_by(Calendar.name)).all()
        return models.CalendarList(calendars=[_calendar(session, row) for row in rows])


@router.post("", status_code=status.HTTP_201_CREATED)
def create_calendar(body: models.NewCalendar, principal: _Configurer, context: Context) -> models.CalendarOut:
    """Make a calendar; nothing goes by it until a configuration uses it."""
    with context.database.transaction() as session:
        row = calendars.create(
            session, context.clock, principal.actor(), name=body.name, tz=body.tz, periods=body.periods
        )
        return _calendar(session, row)


@router.patch("/{uid}")
def change_calendar(
    uid: _Uid, body: models.CalendarChange, principal: _Configurer, context: Context
) -> models.CalendarOut:
    """Change a calendar; the next runs of the configurations that use it follow."""
    with context.database.transaction() as session:
        calendars.require_calendar(session, uid)
        for configuration_uid in calendars.users_of(session, uid):
            records.require(session, principal.user_uid, configuration_uid, can_edit=True)
        row = calendars.change(
            session, context.clock, principal.actor(), uid, name=body.name, tz=body.tz, periods=body.periods
        )
        return _calendar(session, row)


@router.delete("/{uid}", status_code=status.HTTP_204_NO_CONTENT)
def remove_calendar(uid: _Uid, principal: _Configurer, context: Context) -> None:
    """Remove a calendar that no configuration uses."""
    with context.database.transaction() as session:
        calendars.remove(session, context.clock, principal.actor(), uid)


def _calendar(session: Session, row: Calendar) -> models.CalendarOut:
    return models.CalendarOut(
        uid=row.uid,
        name=row.name,
        tz=row.tz,
        periods=json.loads(row.periods),
        configurations=list(calendars.users_of(session, row.uid)),
        updated_at=row.updated_at,
    )

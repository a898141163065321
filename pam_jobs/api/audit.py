"""The audit log, in its order."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from pam_jobs.api.auth import Principal, require
from pam_jobs.api.context import Context
from pam_jobs.audit.aram import enterprise_id, event_json
from pam_jobs.audit.query import MAX_PAGE, EventFilter, read_page
from pam_jobs.audit.sealing import seal_once

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/audit", tags=["audit"])

Reader = Annotated[Principal, Depends(require("audit_read"))]


class EventPage(BaseModel):
    """Some events in order."""

    events: list[dict[str, Any]]
    next_position: int | None  # give it as after_position for the next page; None: there is none


class EventQuery(BaseModel):
    """Which events are wanted."""

    event: str | None = None
    record_uid: str | None = None
    username: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    after_position: int = Query(0, ge=0)
    limit: int = Query(100, ge=1, le=MAX_PAGE)
    newest: bool = False


@router.get("/events")
def list_events(_principal: Reader, context: Context, query: Annotated[EventQuery, Query()]) -> EventPage:
    """Return events in ascending order of their position.

    What was committed before the request is in the answer; the newest page ends with it.
    """
    wanted = EventFilter(
        event=query.event,
        record_uid=query.record_uid,
        username=query.username,
        created_from=query.created_from,
        created_to=query.created_to,
    )
    seal_once(context.database, context.clock)
    with context.database.transaction(read_only=True) as session:
        page = read_page(session, wanted, after_position=query.after_position, limit=query.limit, newest=query.newest)
    enterprise = enterprise_id(context.keys.server_public)
    return EventPage(events=[event_json(row, enterprise) for row in page.events], next_position=page.next_position)

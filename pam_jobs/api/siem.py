"""Receivers of the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, status
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.api.auth import Principal, require
from pam_jobs.api.context import AppContext, Context
from pam_jobs.audit import siem
from pam_jobs.audit.sealing import seal_once
from pam_jobs.db.tables import AuditEvent, SiemSink
from pam_jobs.secret import SecretValue

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/siem/sinks", tags=["siem"])

Manager = Annotated[Principal, Depends(require("siem"))]


class NewSinkBody(BaseModel):
    """A sink to add."""

    name: str = Field(min_length=1, max_length=128)
    kind: str
    settings: dict[str, Any]
    secret: SecretStr | None = None
    from_now: bool = False  # leave out what the log holds already


class SinkView(BaseModel):
    """A sink and how far it has come; its token is never told."""

    uid: str
    name: str
    kind: str
    settings: dict[str, Any]
    has_secret: bool
    state: str  # delivering, failing or paused
    cursor: int  # last position delivered
    lag_events: int
    lag_seconds: float
    failures: int
    next_try_at: datetime | None
    last_error: str | None
    last_delivered_at: datetime | None
    created_at: datetime


class SinkList(BaseModel):
    """Every sink."""

    sinks: list[SinkView]


class TestEvent(BaseModel):
    """A test event on its way: it has arrived when the sink's cursor has reached its position."""

    position: int


def _view(session: Session, context: AppContext, sink: SiemSink) -> SinkView:
    behind = siem.lag(session, context.clock, sink)
    return SinkView(
        uid=sink.uid,
        name=sink.name,
        kind=sink.kind,
        settings=sink.settings,
        has_secret=sink.secret is not None,
        state="paused" if sink.paused else "failing" if sink.failures else "delivering",
        cursor=sink.cursor,
        lag_events=behind.events,
        lag_seconds=round(behind.seconds, 3),
        failures=sink.failures,
        next_try_at=sink.next_try_at if sink.failures else None,
        last_error=sink.last_error,
        last_delivered_at=sink.last_delivered_at,
        created_at=sink.created_at,
    )


@router.get("")
def list_sinks(_principal: Manager, context: Context) -> SinkList:
    """Return every sink with its lag."""
    with context.database.transaction(read_only=True) as session:
        return SinkList(sinks=[_view(session, context, sink) for sink in siem.list_all(session)])


@router.get("/{uid}")
def get_sink(uid: str, _principal: Manager, context: Context) -> SinkView:
    """Return one sink with its lag."""
    with context.database.transaction(read_only=True) as session:
        return _view(session, context, siem.find(session, uid))


@router.post("", status_code=status.HTTP_201_CREATED)
def add_sink(body: NewSinkBody, principal: Manager, context: Context) -> SinkView:
    """Add a sink; delivery begins by itself."""
    secret = SecretValue(body.secret.get_secret_value()) if body.secret is not None else None
    wanted = siem.NewSink(name=body.name, kind=body.kind, settings=body.settings, secret=secret, from_now=body.from_now)
    with context.database.transaction() as session:
        sink = siem.add(session, context.clock, context.keys, principal.actor(), wanted)
        session.flush()
        return _view(session, context, sink)


@router.delete("/{uid}", status_code=status.HTTP_204_NO_CONTENT)
def remove_sink(uid: str, principal: Manager, context: Context) -> None:
    """Remove a sink and its token."""
    with context.database.transaction() as session:
        siem.remove(session, context.clock, principal.actor(), uid)


@router.post("/{uid}/pause")
def pause_sink(uid: str, principal: Manager, context: Context) -> SinkView:
    """Stop delivering; nothing is lost meanwhile."""
    with context.database.transaction() as session:
        sink = siem.pause(session, context.clock, principal.actor(), uid)
        session.flush()
        return _view(session, context, sink)


@router.post("/{uid}/resume")
def resume_sink(uid: str, principal: Manager, context: Context) -> SinkView:
    """Deliver again from where the sink stopped, and try at once after failures."""
    with context.database.transaction() as session:
        sink = siem.resume(session, context.clock, principal.actor(), uid)
        session.flush()
        return _view(session, context, sink)


@router.post("/{uid}/test", status_code=status.HTTP_202_ACCEPTED)
def test_sink(uid: str, principal: Manager, context: Context) -> TestEvent:
    """Send a test event the way every event goes."""
    with context.database.transaction() as session:
        event = siem.request_test(session, context.clock, principal.actor(), uid)
    seal_once(context.database, context.clock)
    with context.database.transaction(read_only=True) as session:
        return TestEvent(position=session.scalar(select(AuditEvent.position).where(AuditEvent.uid == event)) or 0)

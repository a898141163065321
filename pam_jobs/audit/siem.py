"""Setting up, pausing and watching the receivers of the audit log."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.audit.query import head, unsealed
from pam_jobs.audit.sinks import sink_type
from pam_jobs.clock import Clock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.tables import AuditEvent, SiemSink
from pam_jobs.errors import AlreadyExists, InvalidInput, NotFound
from pam_jobs.ids import new_uid
from pam_jobs.secret import SecretValue

__all__ = ["Lag", "NewSink", "add", "find", "lag", "list_all", "pause", "remove", "request_test", "resume"]

_NAME = re.compile(r"^[^\x00-\x1f\x7f]{1,128}$")


@dataclass(frozen=True, kw_only=True)
class Lag:
    """How far a sink is behind the log."""

    events: int
    seconds: float  # age of the oldest event that it does not have; 0 when it has all


@dataclass(frozen=True, kw_only=True)
class NewSink:
    """A receiver to add."""

    name: str  # shown to people, unique
    kind: str  # json, syslog or splunk
    settings: Mapping[str, Any]  # as the kind takes them
    secret: SecretValue | None = None  # the receiver's token, where the kind takes one
    from_now: bool = False  # leave out what the log holds already


def list_all(session: Session) -> Sequence[SiemSink]:
    """Return every sink by name."""
    return session.scalars(select(SiemSink).order_by(SiemSink.name)).all()


def find(session: Session, uid: str) -> SiemSink:
    """Return one sink.

    Raises:
        NotFound: there is none with this UID.
    """
    sink = session.get(SiemSink, uid)
    if sink is None:
        raise NotFound(f"there is no audit sink {uid}", remedy="see `pam siem list`")
    return sink


def lag(session: Session, clock: Clock, sink: SiemSink) -> Lag:
    """Return how far the sink is behind; events that are committed and not yet ordered count too."""
    behind = max(0, head(session) - sink.cursor) + unsealed(session)
    if not behind:
        return Lag(events=0, seconds=0.0)
    oldest = session.scalar(select(AuditEvent.created_at).where(AuditEvent.position == sink.cursor + 1))
    if oldest is None:
        oldest = session.scalar(
            select(AuditEvent.created_at).where(AuditEvent.position.is_(None)).order_by(AuditEvent.id).limit(1)
        )
    age = (clock.now() - (oldest or clock.now())).total_seconds()
    return Lag(events=behind, seconds=max(0.0, age))


def add(session: Session, clock: Clock, keys: KeyStore, actor: Actor, wanted: NewSink) -> SiemSink:
    """Add a sink; it begins with the next call of the delivery.

    Args:
        session: open transaction.
        clock: gives the time.
        keys: seals the secret.
        actor: who adds it.
        wanted: what is added.

    Raises:
        InvalidInput: something is missing or wrong; nothing was written.
        AlreadyExists: the name is taken.
    """
    if not _NAME.match(wanted.name) or wanted.name != wanted.name.strip():
        raise InvalidInput("a sink's name has 1 to 128 characters", remedy="choose another name")
    complete = sink_type(wanted.kind).check(wanted.settings, wanted.secret)
    sink = SiemSink(
        uid=new_uid(),
        name=wanted.name,
        kind=wanted.kind,
        settings=complete,
        secret=keys.seal(wanted.secret.reveal().encode()) if wanted.secret else None,
        cursor=head(session) if wanted.from_now else 0,
        created_at=clock.now(),
    )
    session.add(sink)
    try:
        session.flush()
    except IntegrityError:
        raise AlreadyExists(
            f"there is an audit sink named {wanted.name!r} already", remedy="choose another name"
        ) from None
    _record(session, clock, actor, "audit_sync_setup", sink)
    return sink


def remove(session: Session, clock: Clock, actor: Actor, uid: str) -> None:
    """Remove a sink with its token; what it has received stays with its receiver."""
    sink = find(session, uid)
    _record(session, clock, actor, "audit_sync_removed", sink)
    session.delete(sink)


def pause(session: Session, clock: Clock, actor: Actor, uid: str) -> SiemSink:
    """Stop delivering; the cursor stays. Pausing twice is pausing once."""
    sink = find(session, uid)
    if not sink.paused:
        sink.paused = True
        _record(session, clock, actor, "audit_sync_paused", sink)
    return sink


def resume(session: Session, clock: Clock, actor: Actor, uid: str) -> SiemSink:
    """Deliver again, at once, from where the sink stopped; also ends the wait after a failure."""
    sink = find(session, uid)
    if sink.paused:
        sink.paused = False
        _record(session, clock, actor, "audit_sync_resumed", sink)
    _try_now(sink)
    return sink


def request_test(session: Session, clock: Clock, actor: Actor, uid: str) -> str:
    """Write a test event to the log, make the sink due and return the event's uid.

    It has arrived when the cursor has passed it.

    Raises:
        InvalidInput: the sink is paused.
    """
    sink = find(session, uid)
    if sink.paused:
        raise InvalidInput(f"audit sink {sink.name!r} is paused", remedy=f"resume it first: pam siem resume {uid}")
    _try_now(sink)
    return _record(session, clock, actor, "audit_sync_test", sink)


def _try_now(sink: SiemSink) -> None:
    if sink.failures:  # else the time may be the claim of a delivery that goes on right now
        sink.next_try_at = None


def _record(session: Session, clock: Clock, actor: Actor, event: str, sink: SiemSink) -> str:
    return record_event(session, clock, actor, event, sink_uid=sink.uid, sink_name=sink.name, sink_kind=sink.kind)

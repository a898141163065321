"""Carrying the log to its receivers: every sink in the log's order, at least once, resumed after an outage."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import CursorResult, Update, or_, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.aram import enterprise_id, event_json, event_sentence
from pam_jobs.audit.log import Actor, record_event
from pam_jobs.audit.query import EventFilter, head, read_page
from pam_jobs.audit.sinks import DeliveryRefused, Sink, SinkEvent, sink_type
from pam_jobs.clock import Clock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.db.engine import Database, assert_no_transaction
from pam_jobs.db.tables import SiemSink
from pam_jobs.errors import DeliveryFailed, PamJobsError
from pam_jobs.secret import SecretValue

__all__ = ["BATCH", "backoff_seconds", "serve_once"]

BATCH = 500
_CLAIM = timedelta(seconds=120)  # longer than any delivery may take (Sink.deliver)
_BUDGET_SECONDS = 20.0
_MAX_BACKOFF_SECONDS = 300.0
_CONTROL = Actor(username="control")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """One sink and the batch it gets now. While the claim lasts, no other process serves the sink."""

    sink: SiemSink  # as it was when claimed
    rows: Sequence[SinkEvent]


def serve_once(database: Database, keys: KeyStore, clock: Clock) -> int:
    """Deliver what is due to every sink and return how many events were taken, all sinks together.

    The cursor moves after the receiver has the batch; a crash in between delivers the batch again. No transaction is
    open during a delivery. A sink that fails waits longer each time, five minutes at most, and delays no other.

    Args:
        database: of the log and the sinks.
        keys: opens the receivers' tokens and names this installation.
        clock: says what is due; after some seconds a sink with more to send waits for the next call.
    """
    enterprise = enterprise_id(keys.server_public)
    taken = 0
    for uid in _due(database, clock):
        started = clock.monotonic()
        while True:
            count = _serve_batch(database, keys, clock, uid, enterprise)
            taken += count
            if count < BATCH or clock.monotonic() - started > _BUDGET_SECONDS:
                break
    return taken


def backoff_seconds(failures: int) -> float:
    """Return how long to wait after so many failures in a row (1 or more): doubling, jittered by half, 300 at most."""
    whole = min(_MAX_BACKOFF_SECONDS, 2.0 ** min(failures - 1, 16))
    return whole * (0.5 + secrets.randbelow(501) / 1000)


def _due(database: Database, clock: Clock) -> Sequence[str]:
    with database.transaction(read_only=True) as session:
        return session.scalars(
            select(SiemSink.uid)
            .where(
                SiemSink.paused.is_(False),
                SiemSink.cursor < head(session),
                or_(SiemSink.next_try_at.is_(None), SiemSink.next_try_at <= clock.now()),
            )
            .order_by(SiemSink.name)
        ).all()


def _serve_batch(database: Database, keys: KeyStore, clock: Clock, uid: str, enterprise: int) -> int:
    claim = _claim(database, clock, uid, enterprise)
    if claim is None:
        return 0
    try:
        sink = _open(claim.sink, keys)
        assert_no_transaction()
        sink.deliver(claim.rows)
    except DeliveryFailed as error:
        _failed(database, clock, claim, error)
        return 0
    except Exception as error:  # noqa: BLE001 - one sink's defect must not stop the others
        text = error.sentence() if isinstance(error, PamJobsError) else f"internal error: {type(error).__name__}"
        _failed(database, clock, claim, DeliveryRefused(text))
        return 0
    return _delivered(database, clock, claim)


def _open(row: SiemSink, keys: KeyStore) -> Sink:
    secret = SecretValue(keys.open(row.secret).decode()) if row.secret is not None else None
    return sink_type(row.kind).build(row.settings, secret)


def _claim(database: Database, clock: Clock, uid: str, enterprise: int) -> _Claim | None:
    """Take the sink for this process by moving its next try into the future; None when another was faster."""
    now = clock.now()
    with database.transaction() as session:
        taken = _changed(
            session,
            update(SiemSink)
            .where(
                SiemSink.uid == uid,
                SiemSink.paused.is_(False),
                or_(SiemSink.next_try_at.is_(None), SiemSink.next_try_at <= now),
            )
            .values(next_try_at=now + _CLAIM),
        )
        if not taken:
            return None
        row = session.get_one(SiemSink, uid)
        page = read_page(session, EventFilter(), after_position=row.cursor, limit=BATCH)
        if not page.events:
            row.next_try_at = None
            return None
        events = [
            SinkEvent(
                position=event.position or 0,
                name=event.event,
                created_at=event.created_at,
                body=event_json(event, enterprise),
                sentence=event_sentence(event),
            )
            for event in page.events
        ]
        return _Claim(sink=row, rows=events)


def _held(claim: _Claim, values: dict[str, Any]) -> Update:
    """Return the change of a sink that happens only while the claim still stands."""
    return (
        update(SiemSink)
        .where(
            SiemSink.uid == claim.sink.uid,
            SiemSink.cursor == claim.sink.cursor,
            SiemSink.next_try_at == claim.sink.next_try_at,
        )
        .values(**values)
    )


def _delivered(database: Database, clock: Clock, claim: _Claim) -> int:
    values = {
        "cursor": claim.rows[-1].position,
        "next_try_at": None,
        "failures": 0,
        "last_error": None,
        "last_delivered_at": clock.now(),
    }
    with database.transaction() as session:
        if not _changed(session, _held(claim, values)):
            return 0  # removed, or resumed by an operator meanwhile: whoever holds it now delivers again
        if claim.sink.failures:
            record_event(session, clock, _CONTROL, "audit_sync_restored", **_names(claim.sink))
    return len(claim.rows)


def _failed(database: Database, clock: Clock, claim: _Claim, error: DeliveryFailed) -> None:
    failures = claim.sink.failures + 1
    wait = _MAX_BACKOFF_SECONDS if isinstance(error, DeliveryRefused) else backoff_seconds(failures)
    values = {
        "failures": failures,
        "next_try_at": clock.now() + timedelta(seconds=wait),
        "last_error": error.sentence()[:1000],
    }
    _log.warning("audit sink failed", sink=claim.sink.uid, failures=failures, code=error.code, wait_seconds=round(wait))
    with database.transaction() as session:
        if _changed(session, _held(claim, values)) and failures == 1:  # one event an outage, not one a try
            record_event(session, clock, _CONTROL, "audit_sync_failed", **_names(claim.sink), result_code=error.code)


def _names(sink: SiemSink) -> dict[str, str]:
    return {"sink_uid": sink.uid, "sink_name": sink.name, "sink_kind": sink.kind}


def _changed(session: Session, statement: Update) -> int:
    result = session.execute(statement.execution_options(synchronize_session=False))
    return result.rowcount if isinstance(result, CursorResult) else 0

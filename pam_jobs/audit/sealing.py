"""Order in the log: committed events get consecutive positions."""

from __future__ import annotations

from sqlalchemy import exists, func, select, text, update
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import AuditEvent

__all__ = ["seal_once"]

_BATCH = 1000
_BUDGET_SECONDS = 5.0
_LOCK = 0x70616D_61  # the advisory lock that every sealer of one database takes


def seal_once(database: Database, clock: Clock) -> int:
    """Give every committed event without a position the next ones, without gaps, and return how many there were.

    Transactions commit in another order than their rows were numbered. Reading by row number would therefore skip an
    event that commits late; the position is given after the commit, so whoever reads by it misses nothing.

    Args:
        database: of the log; any number of sealers may work on it, one at a time gets the lock.
        clock: ends a long run after some seconds; the next call goes on.
    """
    started = clock.monotonic()
    sealed = 0
    while _has_unsealed(database):
        with database.transaction() as session:
            count = _seal_batch(session, is_sqlite=database.is_sqlite)
        sealed += count
        if count < _BATCH or clock.monotonic() - started > _BUDGET_SECONDS:
            break
    return sealed


def _has_unsealed(database: Database) -> bool:
    # asked first without any lock: most of the time there is nothing to do
    with database.transaction(read_only=True) as session:
        return bool(session.scalar(select(exists().where(AuditEvent.position.is_(None)))))


def _seal_batch(session: Session, *, is_sqlite: bool) -> int:
    if not is_sqlite:  # on SQLite the transaction itself is the lock: it began as a writer
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    last = session.scalar(select(func.max(AuditEvent.position))) or 0
    numbered = (
        select(AuditEvent.id.label("id"), func.row_number().over(order_by=AuditEvent.id).label("number"))
        .where(AuditEvent.position.is_(None))
        .order_by(AuditEvent.id)
        .limit(_BATCH)
        .subquery()
    )
    done = session.execute(
        update(AuditEvent)
        .where(AuditEvent.id == numbered.c.id)
        .values(position=last + numbered.c.number)
        .execution_options(synchronize_session=False)
        .returning(AuditEvent.id)
    )
    return len(done.all())

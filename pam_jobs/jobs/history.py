"""Whether this database is still the one that gateways have spoken to, or an older copy of it.

A restored backup looks like any other database: it believes in credentials that were replaced since. Three things tell:

- the operator, by `pam restored`;
- the *position* that each gateway remembers: the newest audit event it was told of, and that of which generation. An
  event that is no longer there, or is another one, shows that the database was set back, also when it has grown beyond
  that place since;
- a gateway's journal, record by record (``pam_jobs.jobs.recovered``).

The first two begin a new *generation*: every credential has to be seen to log in before it is rotated again, and no
attempt from before can write any more. A gateway that comes later with a position of an older generation tells nothing
new; so each restore is dealt with once, however many gateways notice it.

Why the audit log: everything that matters leaves an event, in the same transaction. Why not a counter: after a restore it
passes the same numbers again.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, insert, literal, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import AuditEvent, CredentialEpoch, DatabaseGeneration, DriftState, RotationSettings
from pam_jobs.ids import new_uid
from pam_jobs.jobs import wire
from pam_jobs.jobs.sql import IgnoringInsert, changed
from pam_jobs.vault import drift

__all__ = ["LIFT", "begin_anew", "check"]

LIFT: Final = 1_000_000
"""How much every epoch grows with a new generation: more than any attempt of the lost time can have reached."""

_ADD: Final = IgnoringInsert(DatabaseGeneration, DatabaseGeneration.number)


def check(session: Session, clock: Clock, actor: Actor, said: wire.Position | None, gateway_uid: str) -> wire.Position:
    """Return what a gateway should remember from now on; where what it remembers does not fit, begin a new generation.

    Args:
        session: the caller's transaction.
        clock: gives the time of what is written.
        actor: the gateway, for the audit log.
        said: what it remembers; None: nothing yet.
        gateway_uid: of the gateway.
    """
    generation = _newest(session, clock)
    if said is not None and _was_set_back(session, generation, said):
        begin_anew(session, clock, actor, cause="gateway", gateway_uid=gateway_uid)
        session.flush()
        generation = _newest(session, clock)
    event = session.execute(select(AuditEvent.id, AuditEvent.uid).order_by(AuditEvent.id.desc()).limit(1)).one_or_none()
    return wire.Position(
        generation=generation.uid, event_id=event.id if event else 0, event_uid=event.uid if event else ""
    )


def begin_anew(session: Session, clock: Clock, actor: Actor, *, cause: str, gateway_uid: str | None = None) -> int:
    """Begin a new generation: mark every rotated credential as to be proven first, and overtake every attempt.

    Args:
        session: the caller's transaction.
        clock: gives the time of the mark.
        actor: who tells of the restore.
        cause: ``command`` or ``gateway``.
        gateway_uid: of the gateway that noticed it.

    Returns:
        How many credentials were marked; 0 also when another process has done it at this moment.
    """
    now = clock.now()
    row = {"number": _newest(session, clock).number + 1, "uid": new_uid(), "began_at": now, "cause": cause}
    added = _ADD.run(session, row).scalar_one_or_none()
    if added is None:
        return 0
    unchecked = drift.moved(DriftState.UNCHECKED, now, "restored")
    count = changed(session, update(RotationSettings).values(prove_since=now, drift_checked_at=None, **unchecked))
    _lift_epochs(session)
    record_event(
        session,
        clock,
        actor,
        "pam_database_restored",
        cause=cause,
        count=count,
        gateway_uid=gateway_uid,
        generation=added,
    )
    return count


def _lift_epochs(session: Session) -> None:
    """Put every epoch beyond what the lost time can have reached, also of credentials that were never rotated here."""
    changed(session, update(CredentialEpoch).values(epoch=CredentialEpoch.epoch + LIFT))
    known = select(CredentialEpoch.record_uid)
    unknown = select(RotationSettings.record_uid, literal(LIFT)).where(RotationSettings.record_uid.not_in(known))
    session.execute(insert(CredentialEpoch).from_select(["record_uid", "epoch"], unknown))


def _newest(session: Session, clock: Clock) -> DatabaseGeneration:
    query = select(DatabaseGeneration).order_by(DatabaseGeneration.number.desc()).limit(1)
    found = session.scalar(query)
    if found is None:
        first = {"number": 1, "uid": new_uid(), "began_at": clock.now(), "cause": "first"}
        _ADD.run(session, first)
        found = session.scalars(query).one()
    return found


def _was_set_back(session: Session, generation: DatabaseGeneration, said: wire.Position) -> bool:
    if said.generation != generation.uid:
        known = select(DatabaseGeneration.number).where(DatabaseGeneration.uid == said.generation)
        return session.scalar(known) is None  # a known older one ended with a restore that was dealt with
    uid = session.scalar(select(AuditEvent.uid).where(AuditEvent.id == said.event_id))
    if uid is not None:
        return uid != said.event_uid
    oldest = session.scalar(select(func.min(AuditEvent.id)))
    return oldest is None or oldest <= said.event_id  # events before the oldest one were removed as too old

"""Administrators one after the other: nobody is changed while needed to change somebody else, nor by who is being changed.

Where two administrators of a target change each other, both rotations at once could leave neither of them able to log in
for the other. So a job waits while its administrator's own credential is being changed, and the change of an
administrator waits for the attempts that log in as it. A rotation of an administrator that waits so has the next turn:
otherwise a target with many accounts would never let go of it.

This goes by the records. Administrators of one server that stand on two resource records are kept apart by ``exclusive``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, exists, func, literal_column, or_, select
from sqlalchemy.orm import Session, aliased

from pam_jobs.db.tables import CredentialEpoch, Job, JobKind, ResourceLink, RotationSettings
from pam_jobs.jobs import wire
from pam_jobs.jobs.set_aside import HELD_UP
from pam_jobs.jobs.states import WAITING

__all__ = ["CAUSE", "COLUMNS", "lock", "parameters", "rival", "sentences"]

CAUSE: Final = wire.ADMINISTRATOR_BUSY
"""Of a job that waits for its turn."""

_CHANGES: Final = (JobKind.ROTATE, JobKind.RECONCILE)
_TURN: Final = timedelta(seconds=30)  # how long the next turn is kept for a job that does not come
_LOCK: Final = 0x70616D61646D696E  # "pamadmin": PostgreSQL's advisory lock on claims of administrators

_Other = aliased(Job)
_Link = aliased(ResourceLink)
_Settings = aliased(RotationSettings)
_NOW: Final = bindparam("now", type_=CredentialEpoch.lease_until.type)


def _among(column: Any, values: Iterable[StrEnum]) -> ColumnElement[bool]:
    """Return the condition written out; ``in_`` would expand a list of parameters with every claim."""
    return or_(*(column == literal_column(f"'{value.value}'") for value in values))


_IS_ITS_ADMIN: Final = (_among(Job.kind, HELD_UP), ResourceLink.admin_uid != Job.record_uid)


def _subquery(query: Any) -> ColumnElement[Any]:
    found: ColumnElement[Any] = query.limit(1).correlate(Job, ResourceLink).scalar_subquery()
    return found


_CHANGING = _subquery(
    select(_Other.uid)
    .join(CredentialEpoch, CredentialEpoch.job_uid == _Other.uid)
    .where(
        CredentialEpoch.record_uid == ResourceLink.admin_uid,
        CredentialEpoch.lease_until > _NOW,
        _among(_Other.kind, _CHANGES),
        *_IS_ITS_ADMIN,
    )
)
_NEXT = _subquery(
    select(_Other.uid).where(
        _Other.record_uid == ResourceLink.admin_uid,
        _Other.cause == literal_column(f"'{CAUSE}'"),
        # in this form no index of all that waits: PostgreSQL might read it whole rather than look up the one record
        _among(func.lower(_Other.state), WAITING),
        _Other.waits_for.is_(None),  # it waits for another administrator, and not for those who log in as it
        _Other.not_before > bindparam("turn", type_=CredentialEpoch.lease_until.type),
        *_IS_ITS_ADMIN,
    )
)
_USING = _subquery(
    select(_Other.uid)
    .select_from(_Link)
    .join(_Settings, _Settings.resource_uid == _Link.resource_uid)
    .join(CredentialEpoch, CredentialEpoch.record_uid == _Settings.record_uid)
    .join(_Other, _Other.uid == CredentialEpoch.job_uid)
    .where(
        _Link.admin_uid == Job.record_uid,
        _Settings.record_uid != Job.record_uid,
        CredentialEpoch.lease_until > _NOW,
        _among(_Other.kind, HELD_UP),
        _among(Job.kind, _CHANGES),
    )
)
_ADMINISTERS = exists().where(_Link.admin_uid == Job.record_uid).correlate(Job)

COLUMNS: Final = (
    _CHANGING.label("changing"),  # a job that changes this job's administrator
    _USING.label("using"),  # a job that logs in as this job's account
    _NEXT.label("next"),  # a job on this job's administrator that has the next turn
    _ADMINISTERS.label("administers"),
)
"""What a claim reads of its rivals, in a query on ``Job`` and its ``ResourceLink``."""

_RIVALS: Final = (
    select(*COLUMNS)
    .select_from(Job)
    .outerjoin(RotationSettings, RotationSettings.record_uid == Job.record_uid)
    .outerjoin(ResourceLink, ResourceLink.resource_uid == RotationSettings.resource_uid)
    .where(Job.uid == bindparam("job_uid"))
)


def parameters(now: datetime) -> dict[str, datetime]:
    """Return the values of ``COLUMNS``."""
    return {"now": now, "turn": now - _TURN}


def rival(session: Session, job: Job, now: datetime, found: Any) -> str | None:
    """Return why the job must wait its turn, in a sentence; None when it may go on.

    Two administrators that change each other may be claimed at the same instant, and neither transaction sees the
    other's. So claims of administrators follow each other, and look again when it is their turn.

    Args:
        session: the transaction of the claim.
        job: what is claimed.
        now: the time of the claim.
        found: a row with ``COLUMNS``.
    """
    if found.administers and job.kind in _CHANGES and lock(session):
        found = session.execute(_RIVALS, {"job_uid": job.uid, **parameters(now)}).one()
    return _told(found)


def lock(session: Session) -> bool:
    """Make whoever else claims an administrator wait until the transaction ends; False where it is the only writer anyway.

    Taken before the row of any credential.
    """
    if session.get_bind().dialect.name == "sqlite":
        return False
    session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    return True


def sentences(session: Session, job: Job, now: datetime) -> Iterator[str]:
    """Yield what the job waits for, when it waits for an administrator."""
    if job.cause == CAUSE:
        found = session.execute(_RIVALS, {"job_uid": job.uid, **parameters(now)}).one()
        if (why := _told(found)) is not None:
            yield f"it waits its turn: {why}"


def _told(found: Any) -> str | None:
    if found.changing is not None:
        return f"job {found.changing} changes the credential of the target's administrator"
    if found.using is not None:
        return f"job {found.using} logs in as this administrator"
    if found.next is not None and not found.administers:  # administrators do not wait for each other's turns
        return f"job {found.next} is about to change the credential of the target's administrator"
    return None

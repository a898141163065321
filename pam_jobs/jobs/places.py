"""Places in the lockout budget of an account as whom several attempts log in at once: an administrator.

A refusal is counted after the login, and that is too late where others log in beside it: all of them may be refused
before the first is counted. So each such login has its place before it is made. What is refused and what may yet be
refused on a target is together never more than the limit.

Refusals count for the account on all of its targets, places for each target by itself: a target that takes connections
and never answers holds up only itself, and not all the others that the same administrator administers.

A gateway that dies between the two leaves a place behind. Nobody knows whether that login was refused, so it counts
like one, until the window has passed or the account was seen to log in, with which the target counts anew as well.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, delete, func, insert, literal, select
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import CredentialEpoch, Job, LoginRefusal, LoginReservation
from pam_jobs.jobs import refusals, wire
from pam_jobs.jobs.fence import subject_of
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.sql import run
from pam_jobs.jobs.wire import LoginState

__all__ = ["forget", "reserve", "settle"]

_SEED: Final = 0x706C6163  # "plac": of the advisory locks on accounts, so that they are not somebody else's

_PLACES: Final = table_of(LoginReservation)
_EPOCHS: Final = table_of(CredentialEpoch).c
_REFUSED: Final = table_of(LoginRefusal).c
_RECORD: Final = bindparam("record", type_=_PLACES.c.record_uid.type)
_RESOURCE: Final = bindparam("resource", type_=_PLACES.c.resource_uid.type)
_UID: Final = bindparam("place", type_=_PLACES.c.uid.type)
_IS_LIVE: Final = (  # the attempt has its lease still, and may yet tell
    select(literal(1))
    .where(
        _EPOCHS.record_uid == _PLACES.c.subject_uid,
        _EPOCHS.epoch == _PLACES.c.epoch,
        _EPOCHS.job_uid == _PLACES.c.job_uid,
        _EPOCHS.lease_until > bindparam("now", type_=_EPOCHS.lease_until.type),
    )
    .correlate(_PLACES)
    .exists()
)
_SINCE: Final = bindparam("since", type_=_PLACES.c.at.type)
_TAKEN: Final = select(  # one statement: a login that is settled meanwhile is seen on one side or on the other
    select(func.count())
    .select_from(_REFUSED.id.table)
    .where(_REFUSED.record_uid == _RECORD, _REFUSED.at > _SINCE)
    .scalar_subquery()
    .label("refused"),
    select(func.count())
    .select_from(_PLACES)
    .where(
        _PLACES.c.record_uid == _RECORD,
        _PLACES.c.resource_uid == _RESOURCE,
        _PLACES.c.uid != _UID,
        (_PLACES.c.at > _SINCE) | _IS_LIVE,
    )
    .scalar_subquery()
    .label("open"),
    select(literal(1)).where(_PLACES.c.uid == _UID).exists().label("is_there"),
)
_LOCK: Final = select(func.pg_advisory_xact_lock(func.hashtextextended(_RECORD, literal(_SEED))))
_END: Final = delete(_PLACES).where(_PLACES.c.uid == _UID, _PLACES.c.record_uid == _RECORD)
_LEFT_BEHIND: Final = delete(_PLACES).where(_PLACES.c.record_uid == _RECORD, ~_IS_LIVE)
_LEFT_BEHIND_THERE: Final = _LEFT_BEHIND.where(_PLACES.c.resource_uid == _RESOURCE)


def reserve(
    session: Session, clock: Clock, policy: JobPolicy, job: Job, account: tuple[str, str], asked: wire.Login
) -> wire.LoginAnswer:
    """Give a login its place, if the budget has one left; asked again, the answer is the same.

    Args:
        session: the caller's transaction, in which the job is held.
        clock: when.
        policy: the default limit and window.
        job: the attempt's.
        account: that is to log in: its record, and the resource on which; "" where there is none.
        asked: the place's uid, and the target's own rule.
    """
    record_uid, resource_uid = account
    _alone(session, record_uid)
    now = clock.now()
    begin = refusals.since(now, policy, asked.window_seconds)
    about = {"record": record_uid, "resource": resource_uid, "place": asked.uid, "since": begin, "now": now}
    taken = session.execute(_TAKEN, about).one()
    limit = asked.limit or policy.refusal_limit
    is_granted = taken.is_there or taken.refused + taken.open < limit
    if is_granted and not taken.is_there:
        values = {
            "uid": asked.uid, "record_uid": record_uid, "resource_uid": resource_uid,
            "subject_uid": subject_of(job), "job_uid": job.uid,
            "epoch": asked.epoch, "gateway_uid": job.gateway_uid, "at": now,
        }  # fmt: skip
        session.execute(insert(_PLACES), values)
    return wire.LoginAnswer(is_granted=is_granted, is_used_up=not is_granted and taken.refused >= limit)


def settle(session: Session, clock: Clock, job: Job, account: tuple[str, str], told: wire.Login) -> None:
    """Take down what became of a login and give its place back; told again, nothing happens.

    A refused one is counted in the same transaction. One that was accepted also ends what attempts without a lease left
    on that target, which counts anew as well.

    Args:
        session: the caller's transaction, in which the job is held.
        clock: when.
        job: the attempt's.
        account: that logged in: its record, and the resource on which, as when the place was reserved.
        told: the place's uid, and how the login ended.
    """
    record_uid, resource_uid = account
    now = clock.now()
    was_there = run(session, _END, {"place": told.uid, "record": record_uid}) == 1
    if told.state is LoginState.REFUSED and was_there:
        session.add(LoginRefusal(record_uid=record_uid, gateway_uid=job.gateway_uid, at=now))
    if told.state is LoginState.ACCEPTED:
        _alone(session, record_uid)
        run(session, _LEFT_BEHIND_THERE, {"record": record_uid, "resource": resource_uid, "now": now})


def forget(session: Session, clock: Clock, record_uid: str) -> None:
    """End the places of attempts that hold no lease any more, on all targets; those of the others are not touched.

    Args:
        session: the caller's transaction.
        clock: tells which leases last.
        record_uid: the account.
    """
    _alone(session, record_uid)
    run(session, _LEFT_BEHIND, {"record": record_uid, "now": clock.now()})


def _alone(session: Session, record_uid: str) -> None:
    """Let those that ask for the same account follow each other; SQLite's writers do in any case."""
    if session.get_bind().dialect.name != "sqlite":
        session.execute(_LOCK, {"record": record_uid})

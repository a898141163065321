"""One administrator of a server at a time, also where its administrators stand on different resource records.

Were two of them changed at once and both cut off, nobody would be left who can certainly log in. Whether two records are
one server the control plane cannot see: their hosts are ciphertext to it. So before it changes an administrator, a gateway
tells tags of the server, made by a key that the router lacks, and goes on only when no other job has one of them: a job
whose attempt was let go on, or that was cut off and has not been brought to its end. A job that waits for an operator
keeps nobody away, although it may have been cut off as well: else one broken account would stop all the others for days.

Of jobs that were cut off with the same tags, as after an operator let one go on, the oldest goes first; were each to wait
for the others, all would wait for ever.

Not seen as one server are those that two gateways with different applications reach, for these have no key in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import and_, bindparam, exists, false, func, or_, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import CredentialVersion, Job, JobState, VersionState
from pam_jobs.errors import StateError
from pam_jobs.jobs import lease, rivals, set_aside
from pam_jobs.jobs.fence import Holder, hold
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.sql import changed
from pam_jobs.jobs.states import CHANGING, HELD, OPEN
from pam_jobs.jobs.submission import enqueue
from pam_jobs.jobs.wire import MOST_TAGS

__all__ = ["TakenBack", "sentences", "take", "wake"]

_JOBS: Final = table_of(Job)
_IS_OPEN: Final = func.lower(Job.state).in_(OPEN)  # in this form no index of all that waits, but the few that have tags
_IS_CUT_OFF: Final = and_(
    Job.cause.is_distinct_from(set_aside.CAUSE),  # an operator is waited for
    or_(
        Job.effect == "unknown",
        exists().where(
            CredentialVersion.record_uid == Job.record_uid, CredentialVersion.state == VersionState.APPLYING
        ),
    ),
)
_WAKE: Final = (
    update(_JOBS)
    .where(_JOBS.c.waits_for == bindparam("ended"), _JOBS.c.state == JobState.QUEUED)
    .values(not_before=None)
    .returning(_JOBS.c.uid, _JOBS.c.gateway_uid)
)


@dataclass(frozen=True, kw_only=True)
class TakenBack:
    """The job was queued again, or cancelled where that was asked for."""

    waits_for: str  # the job that changes another administrator
    state: JobState


def take(
    session: Session, clock: Clock, policy: JobPolicy, actor: Actor, holder: Holder, tags: Sequence[str]
) -> TakenBack | None:
    """Let the attempt change its administrator, or queue the job again because another one of the server is changed.

    An attempt that was let go on stays so: said again, it gets the same answer.

    Args:
        session: the caller's transaction; it commits also when the job was queued again.
        clock: what leases are compared with.
        policy: how long the job waits.
        actor: the gateway, for the audit log.
        holder: of the lease.
        tags: of the server, 1 to ``MOST_TAGS``.

    Returns:
        None when it may go on; else the lease is over.

    Raises:
        StateError: the job changes no credential.
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    rivals.lock(session)  # of two that ask at once the second one sees what the first one was told
    job = hold(session, clock, holder)
    if job.kind not in CHANGING:
        raise StateError(f"job {job.uid} changes no credential", remedy="nothing to do: it keeps nobody away")
    other = _in_the_way(session, job, tags)
    if other is None:
        _let_go_on(session, job, tags)
        return None
    state, _ = lease.release(session, clock, policy, actor, holder, rivals.CAUSE)
    mine = update(Job).where(Job.uid == job.uid, Job.state == JobState.QUEUED)
    changed(session, mine.values(cause=rivals.CAUSE, waits_for=other))
    return TakenBack(waits_for=other, state=state)


def _in_the_way(session: Session, job: Job, tags: Sequence[str]) -> str | None:
    # Whether its lease has ended does not count. It may be prolonged at this very instant, or by a router whose clock is
    # behind; only when the job was taken back, or claimed anew, is there no way left to go on.
    is_at_work = and_(Job.state.in_(HELD), Job.tags_epoch == Job.epoch)
    columns = Job.uid, Job.created_at, is_at_work.label("is_at_work"), _IS_CUT_OFF.label("is_cut_off")
    shared = or_(false(), *(Job.target_tags.contains(tag, autoescape=True) for tag in tags))
    query = (
        select(*columns)
        .where(Job.target_tags.is_not(None), _IS_OPEN, Job.uid != job.uid, shared)
        .order_by(Job.created_at, Job.uid)
    )
    others = session.execute(query).all()
    for other in others:
        if other.is_at_work:
            return str(other.uid)
    first = next((other for other in others if other.is_cut_off), None)
    if first is None:
        return None
    is_older = (job.created_at, job.uid) < (first.created_at, first.uid)
    return None if is_older and _is_cut_off(session, job) else str(first.uid)


def _is_cut_off(session: Session, job: Job) -> bool:
    return bool(session.scalar(select(_IS_CUT_OFF).where(Job.uid == job.uid)))


def _let_go_on(session: Session, job: Job, tags: Sequence[str]) -> None:
    """Keep the tags with the attempt; those of earlier ones stay, for a name may lead to other addresses by now."""
    kept = dict.fromkeys([*tags, *(job.target_tags or "").split()])
    mine = update(Job).where(Job.uid == job.uid, Job.epoch == job.epoch)
    changed(session, mine.values(target_tags=" ".join(list(kept)[:MOST_TAGS]), tags_epoch=job.epoch))


def wake(session: Session, clock: Clock, job: Job) -> tuple[str, ...]:
    """Let jobs that waited for this one go on, and return their uids; publish them after the commit."""
    if job.target_tags is None:
        return ()
    waited = prepared.rows(session, _WAKE, {"ended": job.uid})
    for uid, gateway_uid in waited:
        enqueue(session, clock, uid, gateway_uid)
    return tuple(uid for uid, _ in waited)


def sentences(session: Session, job: Job, now: datetime) -> Iterator[str]:
    """Yield which job this one waits for, when it waits for another administrator of its server."""
    if job.cause != rivals.CAUSE or job.waits_for is None:
        return
    other = session.get(Job, job.waits_for)
    if other is None or other.state not in OPEN:
        return
    if other.state in HELD and other.lease_until is not None and other.lease_until > now:
        yield f"it waits its turn: job {other.uid} changes another administrator of the same server"
    else:
        yield (
            f"it waits its turn: job {other.uid} was cut off while it changed another administrator of the same server,"
            " and is brought to its end first"
        )

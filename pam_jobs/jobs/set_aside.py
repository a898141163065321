"""Targets set aside: where the administrator was refused nothing is tried until somebody or something vouches for it.

Every job of such a target logs in as the same administrator. Each would be refused as well, and soon the account would
be locked. So the first refusal sets the target aside, in the transaction of its job's report; the target's other jobs
wait and say so. It is lifted when the administrator's credential was edited, was seen to log in, or was replaced by
another administrator's, and by `pam action resume-target`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import (
    Job,
    JobKind,
    LoginRefusal,
    ResourceLink,
    RotationSettings,
    ServiceMap,
    TargetSetAside,
)
from pam_jobs.jobs import places, wire
from pam_jobs.jobs.sql import IgnoringInsert, changed
from pam_jobs.jobs.states import WAITING
from pam_jobs.jobs.submission import enqueue
from pam_jobs.jobs.trail import job_event

__all__ = [
    "CAUSE",
    "HELD_UP",
    "REFUSED",
    "admin_to_try",
    "administrator_of",
    "concerns",
    "lift_for_admin",
    "lift_for_resource",
    "on_resource",
    "record_finding",
    "resource_of",
    "sentences",
]

REFUSED: Final = "admin_refused"
"""Why a target is set aside: none of the administrator's values logs in. The other reason is ``admin_locked``."""

CAUSE: Final = "target_set_aside"
"""Of a job that waits because its target is set aside."""

HELD_UP: Final = (JobKind.ROTATE, JobKind.RECONCILE, JobKind.PLAN)
"""Kinds of jobs that log in as the administrator."""

_TRIED_ONCE: Final = timedelta(days=1)
"""So long after a target was set aside its administrator's older values are not tried again: they were refused."""

_ADD: Final = IgnoringInsert(TargetSetAside, TargetSetAside.resource_uid)


def on_resource() -> ColumnElement[bool]:
    """Return the condition that joins a link with its target's row while that target is set aside."""
    return and_(
        TargetSetAside.resource_uid == ResourceLink.resource_uid,
        TargetSetAside.admin_uid == ResourceLink.admin_uid,
        TargetSetAside.lifted_at.is_(None),
    )


def concerns(job: Job, admin_uid: str | None) -> bool:
    """Say whether the job would log in as the administrator; what the administrator's own record asks for does not."""
    return job.kind in HELD_UP and admin_uid is not None and admin_uid != job.record_uid


def administrator_of(session: Session, job: Job, machine_uid: str | None = None) -> tuple[str, str] | None:
    """Return the job's resource and that resource's administrator, where there are both.

    Args:
        session: the open transaction.
        job: whose.
        machine_uid: a machine on which services run as the job's user, in place of the resource.
    """
    if machine_uid is not None:
        if session.get(ServiceMap, (job.record_uid or "", machine_uid)) is None:
            return None
        link = session.get(ResourceLink, machine_uid)
        return (link.resource_uid, link.admin_uid) if link is not None and link.admin_uid is not None else None
    resource_uid = resource_of(session, job)
    link = session.get(ResourceLink, resource_uid) if resource_uid else None
    return (link.resource_uid, link.admin_uid) if link is not None and link.admin_uid is not None else None


def resource_of(session: Session, job: Job) -> str | None:
    """Return the resource on which the job works; None where it names none."""
    settings = select(RotationSettings.resource_uid).where(RotationSettings.record_uid == job.record_uid)
    found: str | None = session.scalar(settings) or job.parameters.get("resource_uid")
    return found


def admin_to_try(session: Session, clock: Clock, job: Job, machine_uid: str | None = None) -> str | None:
    """Return the administrator whose kept values the job may try; None when they were all refused lately."""
    found = administrator_of(session, job, machine_uid)
    if found is None:
        return None
    resource_uid, admin_uid = found
    row = session.get(TargetSetAside, resource_uid)
    if row is not None and (row.admin_uid, row.cause) == (admin_uid, REFUSED) and row.since > clock.now() - _TRIED_ONCE:
        return None
    return admin_uid


def record_finding(
    session: Session, clock: Clock, actor: Actor, job: Job, finding: wire.AdminFinding
) -> tuple[str, ...]:
    """Take down what an attempt learned of the administrator, in the transaction of its report.

    Returns:
        Jobs that go on; publish them after the commit.
    """
    if finding.verdict is wire.AdminVerdict.ACCEPTED:
        return lift_for_admin(session, clock, actor, job.record_uid or "", by=f"job:{job.uid}")
    found = administrator_of(session, job, finding.machine_uid)
    if found is None:
        return ()
    resource_uid, admin_uid = found
    if finding.verdict is wire.AdminVerdict.OUTDATED:
        job_event(
            session, clock, actor, "pam_admin_outdated", job,
            resource_uid=resource_uid, admin_uid=admin_uid, version_seq=finding.version_seq,
        )  # fmt: skip
        return ()
    if _set(session, clock, job, resource_uid, admin_uid, finding.cause or REFUSED):
        job_event(
            session, clock, actor, "pam_target_set_aside", job,
            resource_uid=resource_uid, admin_uid=admin_uid, cause=finding.cause,
        )  # fmt: skip
    return ()


def _set(session: Session, clock: Clock, job: Job, resource_uid: str, admin_uid: str, cause: str) -> bool:
    """Set the target aside; False when it is already."""
    values: dict[str, Any] = {
        "admin_uid": admin_uid,
        "since": clock.now(),
        "cause": cause,
        "job_uid": job.uid,
        "gateway_uid": job.gateway_uid,
        "lifted_at": None,
        "lifted_by": None,
    }
    if _ADD.run(session, {"resource_uid": resource_uid, **values}).scalar() is not None:
        return True
    standing = update(TargetSetAside).where(
        TargetSetAside.resource_uid == resource_uid,
        TargetSetAside.lifted_at.is_not(None) | (TargetSetAside.admin_uid != admin_uid),
    )
    return changed(session, standing.values(**values)) == 1


def lift_for_admin(session: Session, clock: Clock, actor: Actor, admin_uid: str, *, by: str) -> tuple[str, ...]:
    """Let the targets of this administrator be tried again; nothing happens when none is set aside.

    Args:
        session: the caller's transaction.
        clock: when.
        actor: for the events.
        admin_uid: the administrator's record.
        by: who vouches for the credential now, or what has shown it.

    Returns:
        Jobs that go on; publish them after the commit.
    """
    return _lift(session, clock, actor, TargetSetAside.admin_uid == admin_uid, by)


def lift_for_resource(session: Session, clock: Clock, actor: Actor, resource_uid: str, *, by: str) -> tuple[str, ...]:
    """Let this target be tried again; as ``lift_for_admin``."""
    return _lift(session, clock, actor, TargetSetAside.resource_uid == resource_uid, by)


def _lift(session: Session, clock: Clock, actor: Actor, which: ColumnElement[bool], by: str) -> tuple[str, ...]:
    rows = session.execute(
        update(TargetSetAside)
        .where(which, TargetSetAside.lifted_at.is_(None))
        .values(lifted_at=clock.now(), lifted_by=by)
        .returning(TargetSetAside.resource_uid, TargetSetAside.admin_uid)
        .execution_options(synchronize_session=False)
    ).all()
    published: list[str] = []
    for resource_uid, admin_uid in rows:
        # Whoever vouches for the credential takes the refusals of before upon them; else it could not be tried now.
        session.execute(delete(LoginRefusal).where(LoginRefusal.record_uid == admin_uid))
        places.forget(session, clock, admin_uid)
        record_event(
            session, clock, actor, "pam_target_resumed",
            resource_uid=resource_uid, admin_uid=admin_uid, result_code=by,
        )  # fmt: skip
        published += _wake(session, clock, resource_uid)
    return tuple(published)


def _wake(session: Session, clock: Clock, resource_uid: str) -> list[str]:
    """Queue what waited for the target, and return the uids."""
    users = select(RotationSettings.record_uid).where(RotationSettings.resource_uid == resource_uid)
    waited = session.execute(
        update(Job)
        .where(
            Job.cause == CAUSE,
            Job.state.in_(WAITING),
            or_(Job.record_uid.in_(users), Job.parameters["resource_uid"].as_string() == resource_uid),
        )
        .values(not_before=None, cause=None)
        .returning(Job.uid, Job.gateway_uid)
        .execution_options(synchronize_session=False)
    ).all()
    for uid, gateway_uid in waited:
        enqueue(session, clock, uid, gateway_uid)
    return [uid for uid, _ in waited]


def sentences(session: Session, job: Job) -> Iterator[str]:
    """Yield why the job's target is set aside, when it is and the job waits for that."""
    found = administrator_of(session, job)
    if found is None or not concerns(job, found[1]):
        return
    row = session.get(TargetSetAside, found[0], populate_existing=True)
    if row is not None and row.lifted_at is None and row.admin_uid == found[1]:
        yield told(row)


def told(row: TargetSetAside) -> str:
    """Return what a row says, and what to do about it."""
    what = "is locked" if row.cause == "admin_locked" else "was refused"
    return (
        f"the target is set aside since {_stamp(row.since)}, because its administrator (record {row.admin_uid}) {what}"
        f" in job {row.job_uid}: correct that record, or when it is right, let the target be tried again with"
        f" `pam action resume-target --resource-uid {row.resource_uid}`"
    )


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")

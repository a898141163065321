"""What a job is told of the services that run as its user, and what the audit log says of them afterwards."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from sqlalchemy import ColumnElement, bindparam, exists, select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db.tables import (
    Job,
    JobKind,
    JobStep,
    ResourceLink,
    RotationSettings,
    ServiceMap,
    StepState,
    TargetSetAside,
)
from pam_jobs.jobs import set_aside, wire
from pam_jobs.jobs.trail import job_event
from pam_jobs.records.services import KIND, RESTORE

__all__ = ["HAS_ANY", "kept", "tell"]

_SERVED: Final = (JobKind.ROTATE, JobKind.RECONCILE, JobKind.PLAN)

HAS_ANY: Final[ColumnElement[bool]] = exists().where(ServiceMap.user_uid == Job.record_uid).correlate(Job)
"""Whether a job's user is mapped to any machine; a part of the claim's one query, which most jobs get by with."""

_KEPT: Final = (
    select(ServiceMap, ResourceLink.admin_uid, TargetSetAside.resource_uid)
    .join(ResourceLink, ResourceLink.resource_uid == ServiceMap.machine_uid)
    .join(RotationSettings, RotationSettings.record_uid == ServiceMap.user_uid)
    .outerjoin(TargetSetAside, set_aside.on_resource())
    .where(
        ServiceMap.user_uid == bindparam("user"),
        RotationSettings.no_update_services.is_(False),
        ResourceLink.no_update_services.is_(False),
    )
    .order_by(ServiceMap.machine_uid)
)


def kept(session: Session, job: Job) -> list[wire.ServiceLink]:
    """Return the machines on which something runs as the job's user, without those that opted out.

    Args:
        session: the transaction of the claim.
        job: that is claimed.
    """
    if job.kind not in _SERVED or job.record_uid is None:
        return []
    rows = session.execute(_KEPT, {"user": job.record_uid})
    return [
        wire.ServiceLink(
            machine_uid=row.machine_uid,
            admin_uid=admin_uid,
            names=row.names,
            is_set_aside=aside is not None,
        )
        for row, admin_uid, aside in rows
    ]


def tell(session: Session, clock: Clock, actor: Actor, job: Job) -> None:
    """Record, for each machine, how many services the job updated and how many it could not."""
    rows = session.execute(
        select(JobStep.key, JobStep.state, JobStep.cause).where(
            JobStep.job_uid == job.uid, JobStep.kind.in_((KIND, RESTORE))
        )
    ).all()
    updated: dict[str, int] = defaultdict(int)
    failed: dict[str, list[str]] = defaultdict(list)
    for key, state, cause in rows:
        machine_uid = str(key).split(":")[1]
        if state == StepState.SUCCEEDED:
            updated[machine_uid] += 1
        else:
            failed[machine_uid].append(cause or str(state))
    for machine_uid, count in updated.items():
        job_event(session, clock, actor, "pam_services_updated", job, resource_uid=machine_uid, count=count)
    for machine_uid, causes in failed.items():
        job_event(
            session, clock, actor, "pam_services_failed", job,
            resource_uid=machine_uid, count=len(causes), cause=min(causes),
        )  # fmt: skip

"""Leases: how an instance of a gateway takes a job, keeps it and gives it back; at most one attempt a credential."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import bindparam, case, exists, func, select, update
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db import prepared
from pam_jobs.db.base import table_of
from pam_jobs.db.tables import (
    CredentialEpoch,
    CredentialVersion,
    GatewayInstance,
    Job,
    JobKind,
    JobState,
    JobStep,
    LoginRefusal,
    ResourceLink,
    RotationSettings,
    StepState,
    TargetSetAside,
    VersionState,
)
from pam_jobs.errors import AccessDenied, Effect, NotFound, NotRegistered, StateError
from pam_jobs.jobs import dependants, refusals, rivals, set_aside, steps, wire
from pam_jobs.jobs.fence import Holder, free, hold, subject_of
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.sql import IgnoringInsert, changed, run
from pam_jobs.jobs.states import CHANGING, FINAL, HELD, OPEN, WAITING
from pam_jobs.jobs.submission import SCHEDULED, enqueue
from pam_jobs.jobs.trail import ended_event, job_event

__all__ = ["OPEN_ROTATION", "Busy", "Overtaken", "claim", "kept_versions", "release", "renew", "rotation_before"]


OPEN_ROTATION: Final = (
    Job.kind.in_(CHANGING)
    & Job.state.in_(OPEN)
    & (Job.state.not_in(WAITING) | Job.cause.is_distinct_from(set_aside.CAUSE))
)
"""A job that will change its credential by itself; one that waits for an operator to look at the target will not."""


_REFUSED = (  # logins of the job's own account, within the window
    select(func.count())
    .where(LoginRefusal.record_uid == Job.record_uid, LoginRefusal.at > bindparam("since", type_=LoginRefusal.at.type))
    .correlate(Job)
    .scalar_subquery()
)
_RESOURCE = func.coalesce(RotationSettings.resource_uid, Job.parameters["resource_uid"].as_string())
_CLAIMED: Final = (  # made once: it runs with every claim
    select(
        *(getattr(Job, column.key) for column in table_of(Job).c),
        GatewayInstance.instance.label("known_instance"),
        RotationSettings.record_uid.label("settings_uid"),
        RotationSettings.resource_uid.label("resource_uid"),
        RotationSettings.saas_uid,
        RotationSettings.profile,
        RotationSettings.complexity,
        RotationSettings.prove_since,
        ResourceLink.admin_uid,
        TargetSetAside.resource_uid.label("aside_uid"),
        _REFUSED.label("refused"),
        exists()
        .where(TargetSetAside.admin_uid == Job.record_uid, TargetSetAside.lifted_at.is_(None))
        .correlate(Job)
        .label("is_set_aside_admin"),
        dependants.HAS_ANY.label("has_services"),
        *rivals.COLUMNS,
    )
    .select_from(Job)
    .outerjoin(
        GatewayInstance,
        (GatewayInstance.gateway_uid == bindparam("gateway_uid"))
        & (GatewayInstance.instance == bindparam("instance"))
        & GatewayInstance.stopped_at.is_(None),
    )
    .outerjoin(RotationSettings, RotationSettings.record_uid == Job.record_uid)
    .outerjoin(ResourceLink, ResourceLink.resource_uid == _RESOURCE)
    .outerjoin(TargetSetAside, set_aside.on_resource())
    .where(Job.uid == bindparam("job_uid"))
)
_KEPT = (VersionState.STAGED, VersionState.APPLYING, VersionState.CURRENT, VersionState.PREVIOUS)
_DECIDED = (VersionState.CURRENT, VersionState.PREVIOUS, VersionState.RETIRED)
_EPOCHS: Final = table_of(CredentialEpoch)
_JOBS: Final = table_of(Job)
_VERSIONS: Final = table_of(CredentialVersion)
_NOW: Final = bindparam("now", type_=_JOBS.c.lease_until.type)
_UNTIL: Final = bindparam("until", type_=_JOBS.c.lease_until.type)
_TAKE_EPOCH: Final = (
    update(_EPOCHS)
    .where(
        _EPOCHS.c.record_uid == bindparam("subject"),
        _EPOCHS.c.job_uid.is_(None) | _EPOCHS.c.lease_until.is_(None) | (_EPOCHS.c.lease_until <= _NOW),
    )
    .values(epoch=_EPOCHS.c.epoch + 1, job_uid=bindparam("holder"), lease_until=_UNTIL)
    .returning(_EPOCHS.c.epoch)
)
_FIRST_EPOCH: Final = IgnoringInsert(_EPOCHS, _EPOCHS.c.epoch)
_CLAIMABLE: Final = (
    _JOBS.c.state.in_((*WAITING, JobState.UNKNOWN)) & (_JOBS.c.not_before.is_(None) | (_JOBS.c.not_before <= _NOW))
) | (_JOBS.c.state.in_(HELD) & (_JOBS.c.lease_until <= _NOW))
_TAKE_JOB: Final = (
    update(_JOBS)
    .where(
        _JOBS.c.uid == bindparam("job"),
        _JOBS.c.gateway_uid == bindparam("gateway"),  # it may have been moved to another one meanwhile
        _CLAIMABLE,
        _JOBS.c.cancel_requested_at.is_(None),
    )
    .values(
        state=JobState.LEASED,
        epoch=bindparam("new_epoch"),
        lease_instance=bindparam("new_instance"),
        lease_until=_UNTIL,
        attempts=_JOBS.c.attempts + 1,
        started_at=func.coalesce(_JOBS.c.started_at, _NOW),
        effect=case((_JOBS.c.state == JobState.RUNNING, Effect.UNKNOWN.value), else_=_JOBS.c.effect),  # it was cut off
        not_before=None,
        held_for=None,
        waits_for=None,
        cause=None,
    )
)
_KEPT_VERSIONS: Final = (
    select(
        _VERSIONS.c.seq,
        _VERSIONS.c.kind,
        _VERSIONS.c.state,
        _VERSIONS.c.epoch,
        _VERSIONS.c.ciphertext,
        _VERSIONS.c.staged_at,
    )
    .where(_VERSIONS.c.record_uid == bindparam("record"), _VERSIONS.c.state.in_(_KEPT))
    .order_by(_VERSIONS.c.seq.desc())
)


class Overtaken(StateError):
    """Something was done to the job between the look at it and the claim; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Busy:
    """The claim was refused because the job must wait, for another one or for an operator."""

    why: str
    remedy: str
    not_before: datetime

    def error(self) -> StateError:
        """Return the refusal, to be raised after the commit."""
        return StateError(self.why, remedy=self.remedy)


def claim(
    session: Session, clock: Clock, policy: JobPolicy, *, job_uid: str, gateway_uid: str, instance: str
) -> wire.Claim | Busy:
    """Take the lease of a job, with the credential's next epoch.

    Args:
        session: the caller's transaction; it commits also when ``Busy`` is returned.
        clock: what the lease is counted from.
        policy: how long it lasts.
        job_uid: the job.
        gateway_uid: of the device that asks.
        instance: of that gateway, registered by hello.

    Returns:
        The claim; or ``Busy``, and the job waits.

    Raises:
        NotFound: there is no such job.
        AccessDenied: the job is another gateway's.
        StateError: the job is held, ended, cancelled, not yet due, or the instance is not registered.
    """
    now = clock.now()
    until = now + timedelta(seconds=policy.lease_seconds)
    asked = {"job_uid": job_uid, "gateway_uid": gateway_uid, "instance": instance, "since": refusals.since(now, policy)}
    asked |= rivals.parameters(now)
    row = prepared.row(session, _CLAIMED, asked)
    if row is None:
        raise NotFound(f"there is no job {job_uid}")
    job, has_settings = cast("Job", row), row.settings_uid is not None
    _check_claimable(job, known=row.known_instance, gateway_uid=gateway_uid, instance=instance, now=now)
    if (busy := _wait_for_admin(session, policy, job, row, now)) is not None:
        return busy
    if (other := rotation_before(session, job)) is not None:
        return _wait_for(session, policy, job, other, now)
    epoch = _take_epoch(session, subject_of(job), job_uid, now, until)
    if epoch is None:
        return _wait_for_credential(session, policy, job, now)
    _take_job(session, job, epoch, instance, now, until)
    if job.kind == JobKind.DISCOVER and job.attempts == 0:
        actor = Actor(username=job.requested_by)
        job_event(session, clock, actor, "discovery_job_started", job)
    earlier = _steps_left(session, job, epoch) if job.attempts else []
    resource_uid = row.resource_uid if has_settings else job.parameters.get("resource_uid")
    return wire.Claim(
        job_uid=job_uid,
        kind=job.kind,
        trigger=job.trigger,
        gateway_uid=gateway_uid,
        configuration_uid=job.configuration_uid,
        record_uid=job.record_uid,
        resource_uid=resource_uid,
        saas_uid=row.saas_uid,
        admin_uid=row.admin_uid,
        profile=row.profile,
        complexity=row.complexity,
        parameters=job.parameters,
        epoch=epoch,
        lease_seconds=policy.lease_seconds,
        versions=kept_versions(session, job.record_uid),
        steps=earlier,
        refusals_left=max(0, policy.refusal_limit - row.refused),
        is_set_aside_admin=row.is_set_aside_admin,
        administers=row.administers,
        attempts=job.attempts + 1,
        is_last_attempt=job.attempts + 1 >= policy.attempts_limit,
        services=dependants.kept(session, job) if row.has_services else [],
        prove_first=row.prove_since is not None,
    )


def _check_claimable(job: Job, *, known: str | None, gateway_uid: str, instance: str, now: datetime) -> None:
    if job.gateway_uid != gateway_uid:
        raise AccessDenied(f"job {job.uid} belongs to another gateway", remedy="nothing to do: its own gateway gets it")
    if known is None:
        raise NotRegistered(
            f"the instance {instance!r} is not registered", remedy="say hello again, then claim the job again"
        )
    if job.state in FINAL:
        raise StateError(f"job {job.uid} has ended: {job.state}")
    if job.cancel_requested_at is not None:
        raise StateError(f"job {job.uid} was cancelled")
    if job.state in HELD and job.lease_until is not None and job.lease_until > now:
        raise StateError(f"job {job.uid} is worked on by {job.lease_instance}")
    if job.not_before is not None and job.not_before > now:
        raise StateError(f"job {job.uid} waits until {job.not_before.isoformat(timespec='seconds')}")


def _take_epoch(session: Session, subject: str, job_uid: str, now: datetime, until: datetime) -> int | None:
    """Return the credential's next epoch, or None while somebody holds the present one."""
    wanted = {"subject": subject, "holder": job_uid, "now": now, "until": until}
    taken: int | None = prepared.scalar(session, _TAKE_EPOCH, wanted)
    if taken is None:
        first = {"record_uid": subject, "epoch": 1, "job_uid": job_uid, "lease_until": until}
        added = _FIRST_EPOCH.one(session, first)
        taken = None if added is None else added.epoch
    return taken


def _take_job(session: Session, job: Job, epoch: int, instance: str, now: datetime, until: datetime) -> None:
    wanted: dict[str, Any] = {"job": job.uid, "gateway": job.gateway_uid}
    wanted |= {"new_epoch": epoch, "new_instance": instance, "now": now, "until": until}
    if run(session, _TAKE_JOB, wanted) != 1:
        raise Overtaken(f"job {job.uid} was taken, moved or ended meanwhile")


def rotation_before(session: Session, job: Job) -> str | None:
    """Return the open rotation that a scheduled verification waits for, if any.

    A rotation that is not decided needs the logins that the account may still be refused, and tells by its end what the
    verification is to find out. One that a person asks for looks at once.
    """
    if job.kind != JobKind.VERIFY or job.trigger != SCHEDULED:
        return None
    return session.scalar(
        select(Job.uid).where(Job.record_uid == job.record_uid, OPEN_ROTATION).order_by(Job.created_at).limit(1)
    )


def _wait_for_admin(session: Session, policy: JobPolicy, job: Job, row: Any, now: datetime) -> Busy | None:
    """Return that the job waits because its administrator was refused, or is being changed; None when it may go on."""
    if row.aside_uid is not None and set_aside.concerns(job, row.admin_uid):
        aside = session.get_one(TargetSetAside, row.aside_uid, populate_existing=True)
        why, seconds, cause = set_aside.told(aside), policy.set_aside_seconds, set_aside.CAUSE
    elif (rival := rivals.rival(session, job, now, row)) is not None:
        why, seconds, cause = rival, policy.busy_seconds, rivals.CAUSE
    else:
        return None
    not_before = _make_wait(session, job, now + timedelta(seconds=seconds), cause)
    return Busy(why=why, remedy="nothing to do here: the job waits", not_before=not_before)


def _wait_for_credential(session: Session, policy: JobPolicy, job: Job, now: datetime) -> Busy:
    other = session.scalar(select(CredentialEpoch.job_uid).where(CredentialEpoch.record_uid == subject_of(job)))
    if other == job.uid:
        raise Overtaken(f"job {job.uid} is worked on already")
    return _wait_for(session, policy, job, other or "", now)


def _wait_for(session: Session, policy: JobPolicy, job: Job, other: str, now: datetime) -> Busy:
    return Busy(
        why=f"job {other} works on the same credential",
        remedy="nothing to do: this job is published again when that one ends",
        not_before=_make_wait(session, job, now + timedelta(seconds=policy.busy_seconds), None),
    )


def _make_wait(session: Session, job: Job, not_before: datetime, cause: str | None) -> datetime:
    """Keep the job away until then, and note why where a cause is given."""
    values: dict[str, Any] = {"not_before": not_before} | ({"cause": cause, "waits_for": None} if cause else {})
    waiting = (*WAITING, JobState.UNKNOWN)
    changed(session, update(Job).where(Job.uid == job.uid, Job.state.in_(waiting)).values(**values))
    return not_before


def kept_versions(session: Session, record_uid: str | None) -> list[wire.LedgerVersion]:
    """Return a record's values that may still be tried, newest first."""
    if record_uid is None:
        return []
    found = prepared.rows(session, _KEPT_VERSIONS, {"record": record_uid})
    return [wire.LedgerVersion(**row._asdict()) for row in found]


def _steps_left(session: Session, job: Job, epoch: int) -> list[wire.StepRow]:
    """Return the steps of earlier attempts; what they left running is unknown from now on and never run again.

    Steps are declared before the version that they follow becomes current. While that has not come about, and none of
    them was started, they are nothing that is left to do: they are declared again with whatever version does.
    """
    changed(
        session,
        update(JobStep)
        .where(JobStep.job_uid == job.uid, JobStep.state == StepState.RUNNING, JobStep.epoch < epoch)
        .values(state=StepState.UNKNOWN, cause="interrupted"),
    )
    left = steps.rows_of(session, job.uid)
    return left if any(step.attempts for step in left) or (left and _has_promoted(session, job)) else []


def _has_promoted(session: Session, job: Job) -> bool:
    """Say whether the job made a value of its own current; one that it found by a login was there before."""
    told = session.scalars(
        select(CredentialVersion.evidence).where(
            CredentialVersion.record_uid == job.record_uid, CredentialVersion.state.in_(_DECIDED)
        )
    )
    return any(evidence.get("job") == job.uid and "source" not in evidence for evidence in told)


def renew(session: Session, clock: Clock, policy: JobPolicy, holder: Holder) -> datetime:
    """Prolong the lease and return its new end.

    Raises:
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    job = hold(session, clock, holder)
    until = clock.now() + timedelta(seconds=policy.lease_seconds)
    changed(
        session,
        update(CredentialEpoch)
        .where(CredentialEpoch.record_uid == subject_of(job), CredentialEpoch.epoch == holder.epoch)
        .values(lease_until=until),
    )
    changed(session, update(Job).where(Job.uid == job.uid, Job.epoch == holder.epoch).values(lease_until=until))
    return until


def release(
    session: Session, clock: Clock, policy: JobPolicy, actor: Actor, holder: Holder, reason: str
) -> tuple[JobState, bool]:
    """Give the job back unfinished: queued again, or cancelled where that was asked for.

    A gateway that stops gives it back for another, at once. Where the target or an administrator of it is busy it waits
    for a while, so that jobs of other targets have their turn; none of these counts as an attempt. Whatever else stood in the way does: after a growing
    pause the job is tried again, and when it has no attempt left it waits for an operator.

    Returns:
        The job's state, and whether the job's uid is to be published after the commit.

    Raises:
        EpochConflict, LeaseLost, AccessDenied, NotFound: as ``hold``.
    """
    job, now = hold(session, clock, holder), clock.now()
    is_tried = reason not in {wire.GATEWAY_STOPPING, wire.TARGET_BUSY, wire.ADMINISTRATOR_BUSY}
    state, pause = JobState.QUEUED, None
    if job.cancel_requested_at is not None and job.state == JobState.LEASED:
        state = JobState.CANCELLED
    elif is_tried and job.attempts >= policy.attempts_limit:
        state = JobState.WAITING_HUMAN
    elif reason != wire.GATEWAY_STOPPING:
        pause = policy.backoff(job.attempts) if is_tried else timedelta(seconds=policy.backoff_seconds)
    values: dict[str, Any] = {"state": state, "lease_until": None, "lease_instance": None, "status": None}
    values |= {"not_before": now + pause if pause else None, "attempts": job.attempts - (not is_tried)}
    if state != JobState.QUEUED:
        values |= {"status": wire.Status(state), "finished_at": now, "target_tags": None}
    if state == JobState.WAITING_HUMAN:
        values |= {"cause": reason, "effect": "unknown"}
    changed(
        session,
        update(Job).where(Job.uid == job.uid, Job.epoch == holder.epoch, Job.state.in_(HELD)).values(**values),
    )
    free(session, job, holder.epoch)
    job_event(
        session, clock, actor, "pam_job_cancelled" if state == JobState.CANCELLED else "pam_job_released", job,
        result_code=reason,
    )  # fmt: skip
    if state == JobState.WAITING_HUMAN:
        job_event(
            session, clock, actor, ended_event(job, is_ok=False), job, result_code=str(state), cause=reason,
            epoch=job.epoch,
        )  # fmt: skip
    is_due = state == JobState.QUEUED and pause is None
    if is_due:
        enqueue(session, clock, job.uid, job.gateway_uid)
    return state, is_due

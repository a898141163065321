"""Why a job is where it is, told by the conditions that claiming, publishing and reconciling go by."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, assert_never

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pam_jobs.clock import Clock
from pam_jobs.db.tables import (
    Calendar,
    CredentialEpoch,
    Gateway,
    GatewayInstance,
    Job,
    JobKind,
    JobState,
    OutboxMessage,
    Priority,
    Schedule,
)
from pam_jobs.errors import InvalidInput
from pam_jobs.jobs import dispatch, exclusive, poisoned, rivals, set_aside, turns
from pam_jobs.jobs.fence import subject_of
from pam_jobs.jobs.lease import rotation_before
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.states import HELD, LOOKING, OPEN
from pam_jobs.jobs.submission import SCHEDULED
from pam_jobs.jobs.wire import OLD_IN_GRACE
from pam_jobs.records.services import WAITING
from pam_jobs.rotation import readiness
from pam_jobs.rotation.reasons import reasons
from pam_jobs.rotation.timing import parsed

__all__ = ["explain", "explain_record", "state_of"]

_NAMES: Final = {
    Priority.ON_DEMAND: "on demand",
    Priority.SCHEDULED: "scheduled",
    Priority.BACKGROUND: "in the background",
}


_SHOWN: Final = 3  # reasons of each open job, in the explanation of a record


def explain_record(session: Session, clock: Clock, policy: JobPolicy, record_uid: str) -> list[str]:
    """Return why a record is rotated when it is, or not: its jobs, its schedules, what stands against it; never empty."""
    found = [*_jobs_of(session, clock, policy, record_uid), *_schedules_of(session, record_uid)]
    verdict = readiness.assess(session, [record_uid])[record_uid]
    found += [blocker.sentence() for blocker in verdict.blockers]
    return found or ["nothing stands against it: rotate it with `pam action rotate`"]


def state_of(session: Session, record_uid: str) -> str:
    """Return the state of the record's latest open job; ``idle`` where there is none."""
    query = select(Job.state).where(Job.record_uid == record_uid, Job.state.in_(OPEN)).order_by(Job.created_at.desc())
    state = session.scalar(query.limit(1))
    return str(state) if state is not None else "idle"


def _jobs_of(session: Session, clock: Clock, policy: JobPolicy, record_uid: str) -> Iterator[str]:
    mine = select(Job).where(Job.record_uid == record_uid).order_by(Job.created_at.desc())
    for job in session.scalars(mine.where(Job.state.in_(OPEN))):
        yield f"job {job.uid} ({job.kind}) is {job.state}: {'; '.join(explain(session, clock, policy, job)[:_SHOWN])}"
    ended = session.scalar(mine.where(Job.state.not_in(OPEN)).limit(1))
    if ended is not None:
        because = f" ({ended.cause})" if ended.cause else ""
        yield f"the latest job that ended is {ended.uid} ({ended.kind}): {ended.state}{because} {_at(ended.finished_at)}"


def _schedules_of(session: Session, record_uid: str) -> Iterator[str]:
    rows = session.scalars(select(Schedule).where(Schedule.subject_uid == record_uid).order_by(Schedule.kind)).all()
    why = reasons(session, rows)
    for row in rows:
        if row.next_run_at is not None and not row.paused:
            yield f"its schedule ({row.kind}, {_told(row)}) runs next {_at(row.next_run_at)}"
        yield from (f"its schedule ({row.kind}): {sentence}" for sentence in why[row.uid])
    if not any(row.kind == JobKind.ROTATE for row in rows):
        yield "no schedule rotates it: it is rotated on demand alone"


def _told(row: Schedule) -> str:
    try:
        return parsed(row.spec).describe()
    except InvalidInput as error:
        return error.message


def explain(session: Session, clock: Clock, policy: JobPolicy, job: Job) -> list[str]:
    """Return the reasons as sentences, the one that matters most first; never empty."""
    return [*_reasons(session, clock, policy, job), _why_now(job)]


def _why_now(job: Job) -> str:
    """Tell where the job comes from."""
    if job.trigger == SCHEDULED:
        lifted = ", and somebody asked for it since" if job.priority == Priority.ON_DEMAND else ""
        return f"its schedule made it, due {_at(job.due_at or job.created_at)}{lifted}"
    return f"{job.requested_by} asked for it {_at(job.created_at)}"


def _reasons(session: Session, clock: Clock, policy: JobPolicy, job: Job) -> Iterator[str]:
    state = JobState(job.state)
    match state:
        case JobState.CREATED | JobState.QUEUED:
            yield from _waiting(session, clock, policy, job)
        case JobState.LEASED | JobState.RUNNING:
            yield from _held(clock, job)
        case JobState.UNKNOWN:
            yield from set_aside.sentences(session, job)
            yield from _unknown(clock, policy, job)
        case JobState.SUCCEEDED:
            yield f"it ended {_at(job.finished_at)} after {_times(job.attempts)}, with success"
            if job.cause == OLD_IN_GRACE:
                yield "the target accepted the old value as well when it was tried: look again when its grace is over"
        case JobState.FAILED:
            yield from _failed(job)
        case JobState.WAITING_HUMAN if poisoned.is_poisoned(job):
            yield (
                f"it is set aside: {job.crashes} instances stopped or vanished while they worked on it, last"
                f" {job.lease_instance}; see why, then do it again with `pam job resume {job.uid}`"
            )
        case JobState.WAITING_HUMAN:
            yield from set_aside.sentences(session, job)
            yield f"an operator must decide{_because(job)}: look at it with `pam prove {job.record_uid}`, then reconcile"
        case JobState.CANCELLED:
            yield f"it was cancelled {_at(job.cancel_requested_at or job.finished_at)} before anything was changed"
        case JobState.EXPIRED:
            yield from set_aside.sentences(session, job)
            yield f"no gateway began it before {_stamp(job.expires_at)}: {_again(job)}"
        case _:
            assert_never(state)


def _waiting(session: Session, clock: Clock, policy: JobPolicy, job: Job) -> Iterator[str]:
    now = clock.now()
    yield from set_aside.sentences(session, job)
    yield from _moved(session, job)
    yield from rivals.sentences(session, job, now)
    yield from exclusive.sentences(session, job, now)
    if job.not_before is not None and job.not_before > now:
        yield _held_back(session, job, job.not_before, now)
    yield from _behind(session, job, now)
    yield from _in_line(session, policy, job, now)
    yield from _gateway(session, policy, job, now)
    if job.state == JobState.CREATED or _in_outbox(session, job):
        yield "its message is not sent yet: the broker is away, or the control process does not run"
    elif job.queued_at is not None:
        yield f"its message was last sent {_at(job.queued_at)}"
    if job.attempts:
        yield f"{_times(job.attempts)} came to no end before{_because(job)}"
    if job.record_uid is not None:
        for blocker in readiness.assess(session, [job.record_uid])[job.record_uid].blockers:
            if job.kind not in LOOKING or blocker.code not in readiness.OPERATORS_CHOICE:
                yield f"it would not succeed now: {blocker.sentence()}"


def _moved(session: Session, job: Job) -> Iterator[str]:
    """Tell why it is this late: a calendar forbade the time that its schedule planned."""
    if job.moved_by is not None and job.planned_at is not None and job.due_at is not None:
        name = session.scalar(select(Calendar.name).where(Calendar.uid == job.moved_by)) or job.moved_by
        yield f"it was planned for {_stamp(job.planned_at)} and moved to {_stamp(job.due_at)} by the calendar {name!r}"


def _held_back(session: Session, job: Job, until: datetime, now: datetime) -> str:
    """Tell until when it may not begin, and what says so."""
    held = dispatch.held_by_calendar(session, job.configuration_uid, now) if job.cause == dispatch.CALENDAR else None
    if held is None:
        return f"it is not to start before {_stamp(until)}"
    name = session.scalar(select(Calendar.name).where(Calendar.uid == held[1])) or held[1]
    return f"the calendar {name!r} of its PAM configuration lets nothing scheduled begin before {_stamp(held[0])}"


def _in_line(session: Session, policy: JobPolicy, job: Job, now: datetime) -> Iterator[str]:
    """Tell which limit keeps it waiting and what goes before it: by the very view of the gateway that a claim goes by."""
    desk = turns.find(session, job.gateway_uid)
    if desk is None:
        return
    desk = turns.look(session, desk, now, policy.patience)
    if (limited := dispatch.refusal(session, desk, job)) is not None:
        yield limited
    if job.not_before is not None and job.not_before > now:
        return
    following = desk.next()
    if following is not None and following[0] == job.uid:
        yield "it is the next job that its gateway begins"
        return
    before = turns.before(session, job, now)
    ahead = [f"{count} {_NAMES[priority]}" for priority, count in before.items() if count]
    total = sum(before.values())
    mine = "it is the next of its PAM configuration"
    if total:
        mine = f"{total} {'job' if total == 1 else 'jobs'} of its PAM configuration go before it ({', '.join(ahead)})"
    others = sum(1 for lane in desk.lanes if lane.configuration_uid != job.configuration_uid and any(lane.heads))
    shared = f", which takes turns with {others} other PAM {_configurations(others)}" if others else ""
    yield mine + shared


def _configurations(count: int) -> str:
    return "configuration" if count == 1 else "configurations"


def _behind(session: Session, job: Job, now: datetime) -> Iterator[str]:
    if (rotation := rotation_before(session, job)) is not None:
        yield f"it waits for job {rotation}, which changes the same credential: that one's end tells more"
        return
    row = session.execute(
        select(CredentialEpoch.job_uid, CredentialEpoch.lease_until).where(
            CredentialEpoch.record_uid == subject_of(job)
        )
    ).one_or_none()
    if row is None or row.job_uid is None or row.job_uid == job.uid:
        return
    if row.lease_until is not None and row.lease_until > now:
        yield f"job {row.job_uid} works on the same credential, one at a time"


def _gateway(session: Session, policy: JobPolicy, job: Job, now: datetime) -> Iterator[str]:
    gateway = session.get(Gateway, job.gateway_uid)
    name = f"gateway {gateway.name!r}" if gateway else f"gateway {job.gateway_uid}"
    if gateway is None or gateway.removed_at is not None:
        yield f"{name} was removed: give the configuration another gateway"
        return
    seen = session.scalar(
        select(func.max(GatewayInstance.last_seen_at)).where(GatewayInstance.gateway_uid == job.gateway_uid)
    )
    live = session.scalar(
        select(func.count()).where(
            GatewayInstance.gateway_uid == job.gateway_uid,
            GatewayInstance.stopped_at.is_(None),
            GatewayInstance.last_seen_at >= now - timedelta(seconds=policy.offline_seconds),
        )
    )
    if not live:
        since = f"was last heard of {_at(seen)}" if seen else "was never online"
        yield f"it waits for {name}, which is offline and {since}: start it with `pam gateway start`"
        return
    ahead = session.scalar(
        select(func.count()).where(
            Job.gateway_uid == job.gateway_uid, Job.state.in_(HELD), Job.lease_until > now, Job.uid != job.uid
        )
    )
    busy = f", which works on {ahead} other {'job' if ahead == 1 else 'jobs'}" if ahead else ""
    yield f"it waits for {name} since {_stamp(job.created_at)}{busy}"


def _in_outbox(session: Session, job: Job) -> bool:
    return session.scalar(select(OutboxMessage.id).where(OutboxMessage.job_uid == job.uid).limit(1)) is not None


def _held(clock: Clock, job: Job) -> Iterator[str]:
    if job.lease_until is not None and job.lease_until <= clock.now():
        yield f"instance {job.lease_instance} has not been heard of since its lease ended {_at(job.lease_until)}"
        yield "it is queued again at the next pass of the control process, and goes on with the same value"
        return
    if job.state == JobState.RUNNING:
        yield f"instance {job.lease_instance} works on it and has begun to change the target; it cannot be cancelled"
    elif job.cancel_requested_at is not None:
        yield f"instance {job.lease_instance} was asked {_at(job.cancel_requested_at)} to stop before it changes anything"
    else:
        yield f"instance {job.lease_instance} has it since {_stamp(job.started_at)}; nothing was changed yet"


def _unknown(clock: Clock, policy: JobPolicy, job: Job) -> Iterator[str]:
    if job.cause == WAITING:
        yield "the credential was changed and proven, but not every machine with services of it could be reached"
    else:
        yield f"it is not known what became of the target{_because(job)}; both values are kept"
    left = policy.attempts_limit - job.attempts
    if job.not_before is not None and job.not_before > clock.now():
        yield f"it is tried again by itself {_at(job.not_before)}, {left} more times before an operator is asked"
    else:
        yield "it is tried again at the next pass of the control process"


def _failed(job: Job) -> Iterator[str]:
    if job.status == "ok" and job.services_status in {"failed", "unknown"}:
        yield f"the credential was changed and proven, but not all services that run with it were updated{_because(job)}"
        yield "`pam action job-info` tells which; `pam action reconcile --services` updates them again"
    elif job.status == "ok":
        yield f"the credential was changed and proven, but its scripts did not all succeed{_because(job)}"
    elif job.status == "partial":
        yield f"one of password and key was changed and proven, the other was refused{_because(job)}"
    elif job.status == "rolled_back":
        yield f"a step after the change did not succeed{_because(job)}: the former credential was set back and logs in"
    elif job.status == "rollback_refused":
        yield f"a step after the change failed, and the target refused the former credential{_because(job)}"
        yield "the new one is current and logs in"
    else:
        yield f"nothing was changed on the target{_because(job)}"


def _again(job: Job) -> str:
    if job.cause == set_aside.CAUSE:
        return "it waited for its target, which was set aside; submit it again when the target is tried again"
    return "submit it again when the gateway is online"


def _because(job: Job) -> str:
    return f" ({job.cause})" if job.cause else ""


def _times(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"


def _at(moment: datetime | None) -> str:
    return f"at {_stamp(moment)}"


def _stamp(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else "an unknown time"

"""What gateways call: ``pam_jobs.jobs.wire`` over the services of ``pam_jobs.jobs``.

Every route is one transaction, in which the device's access is asked anew; messages and Flower's events follow the commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from pam_jobs.api import ksm
from pam_jobs.api.calls import Calls
from pam_jobs.api.context import AppContext, remote_address
from pam_jobs.api.problems import Unauthenticated
from pam_jobs.app import queue_name
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Job
from pam_jobs.errors import AccessDenied
from pam_jobs.jobs import (
    candidates,
    devices,
    dispatch,
    exclusive,
    flower_events,
    history,
    lease,
    outcome,
    places,
    presence,
    recovered,
    refusals,
    set_aside,
    signing,
    steps,
    wire,
)
from pam_jobs.jobs.devices import Caller, Device, DeviceKeys
from pam_jobs.jobs.fence import Holder, hold
from pam_jobs.jobs.outcome import Outcome
from pam_jobs.jobs.policy import JobPolicy

__all__ = ["calls"]

_CLAIM_TRIES = 3  # of a claim that something else came between


@dataclass(frozen=True, kw_only=True)
class Work:
    """One call's transaction and who makes it."""

    session: Session
    clock: Clock
    policy: JobPolicy
    device: Device

    def holder(self, job_uid: str, said: wire.Fenced) -> Holder:
        """Return whom the call says to be the job's holder."""
        return Holder(job_uid=job_uid, gateway_uid=self.device.gateway_uid, instance=said.instance, epoch=said.epoch)


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The services of one call, before its transaction."""

    context: AppContext
    policy: JobPolicy
    caller: Caller

    @contextmanager
    def work(self) -> Iterator[Work]:
        """Open the call's transaction.

        Raises:
            AccessDenied: the device has no access any more.
        """
        with self.context.database.transaction() as session:
            device = devices.admit(session, self.context.clock, self.caller)
            yield Work(session=session, clock=self.context.clock, policy=self.policy, device=device)

    def tell(self, kind: str, fields: dict[str, object]) -> None:
        """Send an event for Flower."""
        self.context.notify(kind, fields)

    def ended(
        self, device: Device, instance: str, job_uid: str, came: Outcome, timings: Mapping[str, float] | None = None
    ) -> None:
        """Publish what waited for the job and tell Flower how it ended."""
        runtime = sum((timings or {}).values()) / 1000
        self.context.after_commit(list(came.publish))
        event, fields = flower_events.ended(device.gateway_name, instance, job_uid, came.state, runtime)
        self.tell(event, fields)


async def _desk(request: Request) -> Desk:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme != devices.SCHEME or not token:
        raise Unauthenticated("the call carries no device token", remedy="update the gateway")
    state: Any = request.app.state
    context: AppContext = state.context
    if not hasattr(state, "device_keys"):
        state.device_keys = DeviceKeys()
        state.job_policy = JobPolicy.of(context.settings)
    keys: DeviceKeys = state.device_keys
    now = context.clock.now()
    client_id = keys.seen(token, now)
    if client_id is None:  # a thread for what asks the database; the event loop itself waits for nothing
        try:
            client_id = await run_in_threadpool(keys.check, context.database, token, now)
        except devices.NotProven as error:
            raise Unauthenticated(error.message, remedy=error.remedy) from error
    agent = request.headers.get("user-agent")
    caller = Caller(
        client_id=client_id, remote_address=remote_address(request), user_agent=agent[:64] if agent else None
    )
    return Desk(context=context, policy=state.job_policy, caller=caller)


calls: Calls[Desk] = Calls("/api/device", _desk)


@calls.post("/hello")
def hello(said: wire.Hello, desk: Desk) -> wire.HelloAnswer:
    """Register the instance; a device that has no access any more is told so, and the audit log as well."""
    try:
        return _greet(said, desk)
    except AccessDenied as error:
        with desk.context.database.transaction() as session:
            devices.record_refusal(session, desk.context.clock, desk.caller, error.code)
        raise


def _greet(said: wire.Hello, desk: Desk) -> wire.HelloAnswer:
    with desk.work() as work:
        is_first = presence.hello(work.session, work.clock, work.policy, work.device, said)
        position = _position(work, said.position)
        waiting = presence.waiting_jobs(work.session, work.clock, work.device.gateway_uid) if is_first else []
    desk.context.declare_queues([work.device.gateway_uid])
    desk.context.after_commit(waiting)
    desk.tell(*flower_events.worker("worker-online", work.device.gateway_name, said.instance))
    keys = desk.context.keys
    return wire.HelloAnswer(
        gateway_uid=work.device.gateway_uid,
        gateway_name=work.device.gateway_name,
        queue=queue_name(work.device.gateway_uid),
        signing_key_id=signing.key_id(keys.signing_public),
        signing_key=keys.signing_public,
        lease_seconds=desk.policy.lease_seconds,
        offline_seconds=desk.policy.offline_seconds,
        position=position,
    )


def _position(work: Work, said: wire.Position | None) -> wire.Position:
    return history.check(work.session, work.clock, work.device.actor(), said, work.device.gateway_uid)


@calls.post("/heartbeat")
def heartbeat(said: wire.Heartbeat, desk: Desk) -> wire.HeartbeatAnswer:
    """Note that the instance lives."""
    with desk.work() as work:
        cancelled = presence.heartbeat(work.session, work.clock, work.policy, work.device, said)
        position = _position(work, said.position)
    event, fields = flower_events.worker("worker-heartbeat", work.device.gateway_name, said.instance)
    desk.tell(event, {**fields, "active": len(said.running)})
    return wire.HeartbeatAnswer(cancelled=cancelled, position=position)


@calls.post("/goodbye")
def goodbye(said: wire.Goodbye, desk: Desk) -> None:
    """Note that the instance stopped."""
    with desk.work() as work:
        presence.goodbye(work.session, work.clock, work.policy, work.device, said.instance)
    desk.tell(*flower_events.worker("worker-offline", work.device.gateway_name, said.instance))


@calls.post("/jobs/{uid}/claim")
def claim(uid: str, said: wire.ClaimRequest, desk: Desk) -> wire.Claim:
    """Take the lease of the job whose turn it is; the one that the message named need not be it.

    Its records come along where the call carries a read of the vault: they are what they were at the claim.
    """
    read = None if said.read is None else ksm.CarriedRead.opened(desk.context, said.read, desk.caller.client_id)
    for left in reversed(range(_CLAIM_TRIES)):
        try:
            taken, device = _take(uid, said, desk, read)
        except lease.Overtaken:
            if not left:
                raise
        else:
            if not isinstance(taken, dispatch.Again):
                break
    if isinstance(taken, lease.Busy):
        raise taken.error()
    begun = flower_events.begun(device.gateway_name, said.instance, taken.job_uid, taken.kind, taken.attempts)
    for event, fields in begun:
        desk.tell(event, fields)
    return taken if read is None else taken.model_copy(update={"records": read.sealed()})


def _take(
    hint: str, said: wire.ClaimRequest, desk: Desk, read: ksm.CarriedRead | None
) -> tuple[wire.Claim | lease.Busy, Device]:
    with desk.work() as work:
        taken = dispatch.take(
            work.session,
            work.clock,
            work.policy,
            hint=hint,
            place=work.device.place,
            instance=said.instance,
        )
        if read is not None and isinstance(taken, wire.Claim) and taken.record_uid is not None:
            read.take(work.session, list(taken.record_uids.values()), desk.caller.remote_address)
        return taken, work.device


@calls.post("/jobs/{uid}/renew")
def renew(uid: str, said: wire.Fenced, desk: Desk) -> None:
    """Prolong the lease."""
    with desk.work() as work:
        lease.renew(work.session, work.clock, work.policy, work.holder(uid, said))


@calls.post("/jobs/{uid}/fence")
def fence(uid: str, said: wire.Fenced, desk: Desk) -> None:
    """Check the lease and declare the job running, immediately before the first irreversible byte."""
    with desk.work() as work:
        candidates.begin(work.session, work.clock, work.holder(uid, said))


@calls.post("/jobs/{uid}/exclusive")
def be_exclusive(uid: str, said: wire.Exclusive, desk: Desk) -> wire.ExclusiveAnswer:
    """Let the attempt change an administrator, or take the job back while another one of the target is changed."""
    with desk.work() as work:
        holder = work.holder(uid, said)
        back = exclusive.take(work.session, work.clock, work.policy, work.device.actor(), holder, said.tags)
        freed = () if back is None else dispatch.wake(work.session, work.clock, work.policy, uid)
    if back is None:
        return wire.ExclusiveAnswer()
    desk.ended(work.device, said.instance, uid, Outcome(state=back.state, publish=freed))
    return wire.ExclusiveAnswer(waits_for=back.waits_for)


@calls.post("/jobs/{uid}/stage")
def stage(uid: str, said: wire.Stage, desk: Desk) -> wire.StageAnswer:
    """Add a staged version."""
    with desk.work() as work:
        seq = candidates.stage(work.session, work.clock, work.device.actor(), work.holder(uid, said), said.ciphertext)
    return wire.StageAnswer(seq=seq)


@calls.post("/jobs/{uid}/intend")
def intend(uid: str, said: wire.Declaration, desk: Desk) -> None:
    """Declare a version applying."""
    with desk.work() as work:
        candidates.intend(work.session, work.clock, work.holder(uid, said), said.seq)


@calls.post("/jobs/{uid}/promote")
def promote(uid: str, said: wire.Promotion, desk: Desk) -> wire.PromotionAnswer:
    """Make a version current, write the record and perhaps end the job."""
    with desk.work() as work:
        revision, came = candidates.promote(
            work.session, work.clock, work.policy, work.device.actor(), work.holder(uid, said), said
        )
    if said.report is not None:
        desk.ended(work.device, said.instance, uid, came, said.report.timings)
    return wire.PromotionAnswer(revision=revision, state=came.state)


@calls.post("/jobs/{uid}/lift")
def lift(uid: str, said: wire.Lift, desk: Desk) -> wire.LiftAnswer:
    """Go on with an epoch above one that the gateway knows."""
    with desk.work() as work:
        holder = work.holder(uid, said)
        epoch = recovered.lift(work.session, work.clock, work.device.actor(), holder, said.known)
    return wire.LiftAnswer(epoch=epoch)


@calls.post("/jobs/{uid}/recover")
def recover(uid: str, said: wire.Recovery, desk: Desk) -> wire.RecoveryAnswer:
    """Make a value that was found to log in the current one, and write the record."""
    with desk.work() as work:
        return recovered.recover(work.session, work.clock, work.device.actor(), work.holder(uid, said), said)


@calls.post("/jobs/{uid}/abandon")
def abandon(uid: str, said: wire.Abandonment, desk: Desk) -> None:
    """Give a version up."""
    with desk.work() as work:
        candidates.abandon(
            work.session,
            work.clock,
            work.device.actor(),
            work.holder(uid, said),
            seq=said.seq,
            reason=said.reason,
            evidence=said.evidence,
        )


@calls.post("/jobs/{uid}/refusals")
def refused(uid: str, said: wire.Refusals, desk: Desk) -> wire.RefusalsAnswer:
    """Count refused logins."""
    with desk.work() as work:
        job = hold(work.session, work.clock, work.holder(uid, said))
        record_uid = _account_of(work, job, said)
        counted = refusals.count(
            work.session,
            work.clock,
            work.policy,
            record_uid=record_uid,
            gateway_uid=job.gateway_uid,
            new=said.count,
            window_seconds=said.window_seconds,
        )
    return wire.RefusalsAnswer(refused=counted, refusals_left=max(0, work.policy.refusal_limit - counted))


@calls.post("/jobs/{uid}/login")
def log_in(uid: str, said: wire.Login, desk: Desk) -> wire.LoginAnswer:
    """Give a login its place in the lockout budget, or take down how it ended."""
    with desk.work() as work:
        job = hold(work.session, work.clock, work.holder(uid, said))
        record_uid = _account_of(work, job, said)
        if record_uid is None:  # the administrator was taken away meanwhile: there is nobody to count for
            return wire.LoginAnswer(is_granted=True)
        account = record_uid, said.machine_uid or set_aside.resource_of(work.session, job) or ""
        if said.state is wire.LoginState.WANTED:
            return places.reserve(work.session, work.clock, work.policy, job, account, said)
        places.settle(work.session, work.clock, job, account, said)
        return wire.LoginAnswer(is_granted=True)


def _account_of(work: Work, job: Job, said: wire.Refusals | wire.Login) -> str | None:
    """Return whose budget is meant; None where there is no such account."""
    if said.of == "account":
        return job.record_uid
    found = set_aside.administrator_of(work.session, job, said.machine_uid)
    return found[1] if found else None


@calls.post("/jobs/{uid}/admin")
def admin_versions(uid: str, said: wire.AdminQuestion, desk: Desk) -> wire.AdminVersions:
    """Return the administrator's kept values, sealed by its record's key."""
    with desk.work() as work:
        job = hold(work.session, work.clock, work.holder(uid, said))
        admin_uid = set_aside.admin_to_try(work.session, work.clock, job, said.machine_uid)
        return wire.AdminVersions(versions=lease.kept_versions(work.session, admin_uid))


@calls.post("/jobs/{uid}/steps")
def declare_steps(uid: str, said: wire.StepDeclaration, desk: Desk) -> wire.StepDeclaration:
    """Declare the post-rotation steps and return them as they stand."""
    with desk.work() as work:
        rows = steps.declare(work.session, work.clock, work.holder(uid, said), said.steps)
    return wire.StepDeclaration(epoch=said.epoch, instance=said.instance, steps=rows)


@calls.post("/jobs/{uid}/steps/start")
def start_step(uid: str, said: wire.StepStart, desk: Desk) -> None:
    """Move a step to running."""
    with desk.work() as work:
        steps.start(work.session, work.clock, work.holder(uid, said), said.key)


@calls.post("/jobs/{uid}/steps/finish")
def finish_step(uid: str, said: wire.StepFinish, desk: Desk) -> None:
    """Store how a step ended."""
    with desk.work() as work:
        steps.finish(work.session, work.clock, work.holder(uid, said), said)


@calls.post("/jobs/{uid}/report")
def report(uid: str, said: wire.Report, desk: Desk) -> wire.ReportAnswer:
    """End the attempt."""
    with desk.work() as work:
        came = outcome.report(work.session, work.clock, work.policy, work.device.actor(), work.holder(uid, said), said)
    desk.ended(work.device, said.instance, uid, came, said.timings)
    return wire.ReportAnswer(state=came.state)


@calls.post("/jobs/{uid}/release")
def release(uid: str, said: wire.Release, desk: Desk) -> None:
    """Give the job back."""
    with desk.work() as work:
        state, is_due = lease.release(
            work.session, work.clock, work.policy, work.device.actor(), work.holder(uid, said), said.reason
        )
        publish: tuple[str, ...] = (uid,) if is_due else ()
        publish += dispatch.wake(work.session, work.clock, work.policy, uid)
    desk.ended(work.device, said.instance, uid, Outcome(state=state, publish=publish))


@calls.post("/jobs/{uid}/discovery")
def upload_discovery(uid: str, said: wire.DiscoveryUpload, desk: Desk) -> None:
    """Store the sealed result of a discovery."""
    with desk.work() as work:
        outcome.store_discovery(work.session, work.clock, work.holder(uid, said), said)

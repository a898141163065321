"""Takes one job from its claim to its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from connectors.base import Deadline
from pam_jobs.errors import (
    AccessDenied,
    Effect,
    EpochConflict,
    LeaseLost,
    PamJobsError,
    StateError,
    Unsupported,
    VaultUnavailable,
)
from pam_jobs.jobs import wire
from pam_jobs.jobs.wire import PostStatus, Report, Status
from pam_jobs.records.rollback import RollbackFlags
from workers.breaker import TargetBusy
from workers.checks import plan, reconcile, verify, with_services
from workers.dependants import Dependants
from workers.exclusive import AdministratorBusy, wait_for_turn
from workers.following import Following, resumed
from workers.lease import GatewayStopping, Lease
from workers.outcome import Outcome, outcome_of, sealed_detail
from workers.ports import JobPort, Ports, VaultRecord
from workers.proving import prove
from workers.restored import Proven, is_suspected
from workers.rollback import Rollback, settle
from workers.rotation import Rotation
from workers.scripts import Credentials, Scripts
from workers.timings import Timings
from workers.values import Value
from workers.work import Version, Work, load_work

__all__ = ["Engine", "Running"]

_log = structlog.get_logger(__name__)


class Running:
    """The leases of the jobs that this process works on."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}

    def add(self, job_uid: str, lease: Lease) -> None:
        """Take note of a job."""
        self._leases[job_uid] = lease

    def remove(self, job_uid: str) -> None:
        """Forget a job."""
        self._leases.pop(job_uid, None)

    def uids(self) -> list[str]:
        """Return the jobs in hand."""
        return list(self._leases)

    def cancel(self, job_uid: str) -> None:
        """Ask a job to stop before its first irreversible byte."""
        if lease := self._leases.get(job_uid):
            lease.cancel()

    def give_back(self) -> None:
        """Let what has not begun to change anything go on elsewhere; what has is ended here."""
        for lease in list(self._leases.values()):
            lease.give_back()


class Engine:
    """Runs jobs; shared between the threads of a gateway."""

    def __init__(self, ports: Ports, running: Running | None = None) -> None:
        self.ports = ports
        self.running = running or Running()

    def run(self, job_uid: str) -> Status | None:
        """Claim a job because a message came, do it and report it.

        Args:
            job_uid: the job that the message names; the router gives the one whose turn it is.

        Returns:
            The status that was reported; None when another attempt has the job, or takes it over.

        Raises:
            RouterUnavailable: the claim did not get through; nothing was begun.
        """
        ports = self.ports
        claimed_at = ports.clock.monotonic()
        try:
            claim, records = self._claimed(job_uid)
        except (StateError, AccessDenied) as error:  # also a message of a job that went to another gateway meanwhile
            _log.info("not_claimed", job=job_uid, cause=error.code, reason=error.message)
            return None
        job = ports.router.job(claim)
        job_uid = claim.job_uid
        log = {"job": job_uid, "epoch": claim.epoch, "gateway": claim.gateway_uid, "kind": claim.kind}
        with (
            structlog.contextvars.bound_contextvars(**log),
            Lease(job, claim.lease_seconds, claimed_at, monotonic=ports.clock.monotonic) as lease,
        ):
            self.running.add(job_uid, lease)
            try:
                ports.boundary("after:claim")
                return self._work_on(claim, records, job, lease, Timings(ports.clock.monotonic))
            except AdministratorBusy:
                return None
            except (LeaseLost, EpochConflict) as error:
                _log.warning("overtaken", cause=error.code)
                return None
            finally:
                self.running.remove(job_uid)

    def _claimed(self, job_uid: str) -> tuple[wire.Claim, Mapping[str, VaultRecord]]:
        """Claim the job and read its records in one call; what could not be read is fetched with the work."""
        claims: list[wire.Claim] = []

        def carry(read: wire.VaultRead) -> bytes | None:
            claims.append(self.ports.router.claim(job_uid, read))
            return claims[0].records

        records = self.ports.vault.fetch_along(carry)
        if not claims:  # the SDK could not even ask
            claims.append(self.ports.router.claim(job_uid))
        return self._above_known(claims[0]), records

    def _above_known(self, claim: wire.Claim) -> wire.Claim:
        """Return the claim with an epoch above all that this gateway worked with: a restored database counts anew."""
        known = self.ports.journal.epoch_of(claim.record_uid) if claim.record_uid else 0
        if known < claim.epoch:
            return claim
        _log.warning("epoch_behind_journal", job=claim.job_uid, epoch=claim.epoch, known=known)
        return self.ports.router.lift(claim, known)

    def _work_on(
        self,
        claim: wire.Claim,
        records: Mapping[str, VaultRecord],
        job: JobPort,
        lease: Lease,
        timings: Timings,
    ) -> Status | None:
        if claim.kind == "discover":
            from workers.discovery import run_discovery

            return run_discovery(claim, job, lease, self.ports, timings)
        attempt = _Attempt(claim, records, job, lease, self.ports, timings)
        return attempt.run()


class _Attempt:
    """One attempt at a job about a user record."""

    def __init__(
        self,
        claim: wire.Claim,
        records: Mapping[str, VaultRecord],
        job: JobPort,
        lease: Lease,
        ports: Ports,
        timings: Timings,
    ) -> None:
        self._claim = claim
        self._records = records
        self._job = job
        self._lease = lease
        self._ports = ports
        self._timings = timings
        self._work: Work | None = None
        self._rotation: Rotation | None = None
        self._rollback: Rollback | None = None
        self._is_promoted = False
        self._following: Following | None = None

    def run(self) -> Status | None:
        """Do the job and report it."""
        try:
            with self._timings.of("load"):
                deadline = Deadline(self._ports.settings.job_seconds)
                self._work = load_work(self._claim, self._records, self._job, self._lease, self._ports, deadline)
            outcome = self._dispatch(self._work)
        except (LeaseLost, EpochConflict):
            raise
        except (TargetBusy, VaultUnavailable, GatewayStopping) as error:
            if self._give_back(error):
                return None
            outcome = self._interrupted(error)
        except PamJobsError as error:
            may_land = self._rotation is not None and self._rotation.may_land
            outcome = outcome_of(error, may_be_applied=self._may_be_applied, may_land=may_land)
        except Exception as error:  # noqa: BLE001 - the edge of the job: a defect of ours must not end the worker
            _log.error("attempt_failed_inside", error=type(error).__name__, where=_where(error))
            outcome = self._interrupted(error)
        _log.info("attempt_ended", status=outcome.status.value, cause=outcome.cause, timings=self._timings.result())
        if not outcome.is_reported:
            self._ports.boundary("before:report")
            self._job.report(self._report(outcome))
            self._ports.boundary("after:report")
        return outcome.status

    @property
    def _may_be_applied(self) -> bool:
        if self._rollback is not None and self._rollback.may_be_applied:
            return True
        if self._rotation is not None:
            return self._rotation.may_be_applied
        return any(version.state == "applying" for version in self._claim.versions) and self._lease.has_begun

    def _give_back(self, error: PamJobsError) -> bool:
        """Release a job that was not begun; it is taken up again when the target or the vault is back."""
        if self._lease.has_begun or self._may_be_applied:
            return False
        with suppress(VaultUnavailable):
            self._job.release(error.code[:64])
        _log.info("released", cause=error.code)
        return True

    def _interrupted(self, error: Exception) -> Outcome:
        """Return the end of an attempt that was cut off; after the promotion only scripts are left."""
        outcome = outcome_of(error, may_be_applied=self._may_be_applied)
        if not self._is_promoted:
            return outcome
        return Outcome(
            status=Status.UNKNOWN,
            effect=Effect.APPLIED,
            cause=outcome.cause,
            post_status=PostStatus.UNKNOWN,
            services_status=self._following.dependants.status if self._following else PostStatus.NONE,
            message=f"the new value is the current one, and what follows it is still to do: {outcome.message}",
        )

    def _dispatch(self, work: Work) -> Outcome:
        modes: dict[str, Callable[[Work], Outcome]] = {
            "rotate": self._rotate,
            "verify": lambda each: verify(each, self._timings),
            "reconcile": self._reconcile,
            "plan": self._plan,
        }
        mode = modes.get(self._claim.kind)
        if mode is None:
            raise Unsupported(f"this gateway does not know jobs of the kind {self._claim.kind}", remedy="update it")
        return mode(work)

    def _only_scripts(self, work: Work) -> bool:
        if self._claim.profile == "saas":
            return False
        return self._claim.profile == "scripts_only" or work.user.record.flag("NOOP", default=False)

    def _plan(self, work: Work) -> Outcome:
        if not self._only_scripts(work):
            return with_services(plan(work, self._timings), Dependants(work))
        count = Scripts(work).count
        told = f"would run {count} {'script' if count == 1 else 'scripts'}" if count else "there is nothing to run"
        return Outcome(status=Status.OK, message=f"{told}; the credential is not changed")

    def _rotate(self, work: Work) -> Outcome:
        if work.user.record.field("checkbox", "managed") in {True, "true", "True"}:
            return Outcome(
                status=Status.SKIPPED,
                post_status=PostStatus.NOT_RUN,
                cause="managed",
                message="the record is marked as managed: its directory changes the password",
            )
        if self._only_scripts(work):
            return self._scripts_only(work)
        if self._claim.profile not in {"general", "saas", None}:
            raise Unsupported(
                f"rotation profile {self._claim.profile} is not supported by this gateway",
                remedy="use the profile general, scripts_only or saas",
            )
        # Read before anything is changed: a field that says neither yes nor no must not come up after a failure.
        flags = work.rollback_flags
        wait_for_turn(work)
        self._rollback = Rollback.declared(work, flags, self._timings)
        unresolved = work.unresolved
        if unresolved is not None and unresolved.value.undoes is not None and not self._is_mine(unresolved):
            work, ended = settle(work, self._timings)
            if ended is not None:
                return ended
            self._work = work
        following = self._following = Following(work, self._timings)
        if work.claim.steps and (work.unresolved is None or self._is_mine(work.unresolved)):
            # Steps are declared just before the promotion, while the version is being applied. So an attempt that
            # finds steps and no such version comes after the promotion: only scripts and their roll-back are left.
            return self._after_promotion(work, following, _promoted_before(work), resumed(work))
        return self._change(work, following, flags)

    def _is_mine(self, version: Version) -> bool:
        return self._rollback is not None and self._rollback.is_of(version)

    def _reconcile(self, work: Work) -> Outcome:
        wait_for_turn(work)
        if work.unresolved is not None:  # a rotation was begun: whether its value was sent or not, it is finished
            self._following = Following(work, self._timings)
            return self._change(work, self._following)
        outcome = reconcile(work, self._timings)
        if outcome.status is not Status.OK or not work.switch("update_services"):
            return outcome
        dependants = Dependants(work)
        self._following = Following(work, self._timings, dependants)
        dependants.take(work.job.declare_steps(dependants.rows))
        with self._timings.of("services"):
            dependants.run(work.current)
        return self._following.waiting(self._following.told(outcome, PostStatus.NONE))

    def _change(self, work: Work, following: Following, flags: RollbackFlags | None = None) -> Outcome:
        proven: Proven | None = None
        if is_suspected(work):
            work, proven, ended = prove(work, self._timings)
            self._work = work
            if ended is not None:
                return following.not_run(ended)
        old = work.current

        def before_promotion(version: Version) -> Callable[[Outcome], Report] | None:
            has_password = version.value.password is not None
            if following.scripts.is_empty and (following.dependants.is_empty or not has_password):
                return self._report
            more = []
            if flags is not None and flags.on_post_rotation_fail:
                self._rollback = Rollback.planned(version.seq, following.count + 1, flags, self._timings, old)
                more = [self._rollback.row]
            following.declare(more, has_password=has_password)
            return None

        rotation = self._rotation = Rotation(work, self._timings, before_promotion, proven=proven)
        outcome = rotation.run()
        if rotation.promoted is None:
            return following.not_run(outcome)
        if outcome.is_reported:
            return outcome
        new = Value.of_record(rotation.promoted.record)
        work = self._work = work.going_on(rotation.promoted, rotation.version)
        return self._after_promotion(work, following, outcome, Credentials(old=old, new=new, user=rotation.promoted))

    def _after_promotion(self, work: Work, following: Following, outcome: Outcome, credentials: Credentials) -> Outcome:
        """Do what follows, and undo the rotation where something of it failed and the records say so."""
        work.lease.begin()
        self._is_promoted = True
        rollback = self._rollback
        if rollback is not None and rollback.has_begun:
            ended = following.ended(outcome)
        else:
            ended = following.run(outcome, credentials)
        if rollback is not None and PostStatus.FAILED in {ended.post_status, ended.services_status}:
            return rollback.run(work, ended, following.dependants)
        return following.waiting(ended)

    def _scripts_only(self, work: Work) -> Outcome:
        scripts = Scripts(work)
        current = work.current
        outcome = Outcome(
            status=Status.SKIPPED,
            message="only the scripts were to run" if not scripts.is_empty else "there is nothing to run",
        )
        with self._timings.of("scripts"):
            post = scripts.run(Credentials(old=current, new=current, user=work.user))
        cause = None if post in {PostStatus.OK, PostStatus.NONE} else f"scripts_{post.value}"
        return replace(outcome, post_status=post, scripts=scripts.results, cause=cause)

    def _report(self, outcome: Outcome) -> Report:
        members: dict[str, Any] = {}
        if self._work is not None:
            target = None
            with suppress(PamJobsError):
                target = self._work.target_key if self._work.has_target else None
            members["administrator"] = self._finding(self._work, outcome)
            members["detail"] = sealed_detail(outcome, self._work.user.key, target)
        return self._job.new_report(
            status=outcome.status,
            post_rotation_status=outcome.post_status,
            services_status=outcome.services_status,
            machines=self._following.dependants.findings if self._following else [],
            effect=outcome.effect.value,
            cause=outcome.cause,
            timings=self._timings.result(),
            probe=dict(outcome.probe) if outcome.probe else None,
            retry_after_seconds=outcome.retry_after_seconds,
            **members,
        )

    def _finding(self, work: Work, outcome: Outcome) -> wire.AdminFinding | None:
        """Return what the router must know of an administrator: of the resource's, or that this account is one again."""
        is_in = outcome.status in {Status.OK, Status.ROLLED_BACK, Status.ROLLBACK_REFUSED}
        if self._claim.is_set_aside_admin and is_in and self._claim.kind != "plan":
            return wire.AdminFinding(verdict=wire.AdminVerdict.ACCEPTED)
        return work.finding or (work.administrator.finding if work.administrator is not None else None)


def _promoted_before(work: Work) -> Outcome:
    """Return how the rotation itself ended in an earlier attempt."""
    current = next((version.value for version in work.versions if version.state == "current"), None)
    status, cause = current.partly if current is not None and current.partly else (Status.OK, None)
    return Outcome(
        status=Status(status),
        cause=cause,
        effect=Effect.APPLIED,
        message="the new value was promoted by an earlier attempt of this job",
    )


def _where(error: BaseException) -> list[str]:
    """Return the places of a traceback without any value."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}:{code.co_name}")
        trace = trace.tb_next
    return places[-6:]

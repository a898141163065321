"""Attempts on jobs as a gateway makes them, over the services and without HTTP."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from pam_jobs.clock import VirtualClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import CredentialVersion, GatewayInstance, Job, JobKind, JobState, OutboxMessage
from pam_jobs.errors import StateError
from pam_jobs.jobs import candidates, exclusive, lease, outcome, recovered, steps, wire
from pam_jobs.jobs.fence import Holder
from pam_jobs.jobs.outcome import Outcome
from pam_jobs.jobs.policy import JobPolicy
from pam_jobs.jobs.submission import ON_DEMAND, submit
from pam_jobs.jobs.trail import gateway_actor
from pam_jobs.jobs.wire import PostStatus, Status
from pam_jobs.settings import ControlSettings
from tests.support.fleet import OPERATOR, Fleet

POLICY = JobPolicy(lease_seconds=60, backoff_seconds=10, backoff_cap_seconds=100, attempts_limit=4)
CONTROL_SETTINGS = ControlSettings(database_url="sqlite://", broker_url="redis://nowhere", keys_dir=Path("/nowhere"))
SECRET = b"ciphertext-of-the-candidate-and-its-tag"


def register(fleet: Fleet, instance: str = "i1", gateway_uid: str | None = None) -> None:
    """Register an instance without its hello."""
    now = fleet.clock.now()
    with fleet.database.transaction() as session:
        session.add(
            GatewayInstance(
                gateway_uid=gateway_uid or fleet.gateway_uid, instance=instance, version="1", details={},
                started_at=now, last_seen_at=now, running=0,
            )
        )  # fmt: skip


def ask(fleet: Fleet, record_uid: str | None, kind: JobKind = JobKind.ROTATE, **changes: Any) -> Job:
    """Submit a job on demand and return it."""
    return ask_all(fleet, record_uid, kind, **changes)[0]


def ask_all(fleet: Fleet, record_uid: str | None, kind: JobKind = JobKind.ROTATE, **changes: Any) -> tuple[Job, bool]:
    members: dict[str, Any] = {
        "kind": kind, "record_uid": record_uid, "configuration_uid": fleet.configuration_uid,
        "gateway_uid": fleet.gateway_uid, "trigger": ON_DEMAND, "requested_by": OPERATOR, **changes,
    }  # fmt: skip
    with fleet.database.transaction() as session:
        return submit(session, fleet.clock, **members)


@dataclass(kw_only=True)
class Attempt:
    """One claim of one job, and what is done with it."""

    fleet: Fleet
    claim: wire.Claim
    instance: str = "i1"
    policy: JobPolicy = field(default=POLICY)

    @property
    def holder(self) -> Holder:
        return Holder(
            job_uid=self.claim.job_uid,
            gateway_uid=self.fleet.gateway_uid,
            instance=self.instance,
            epoch=self.claim.epoch,
        )

    @property
    def database(self) -> Database:
        return self.fleet.database

    @property
    def clock(self) -> VirtualClock:
        return self.fleet.clock

    def with_epoch(self, epoch: int) -> Attempt:
        return dataclasses.replace(self, claim=self.claim.model_copy(update={"epoch": epoch}))

    def take(self, *tags: str) -> str | None:
        """Ask to change an administrator of that server; return the job that this one has to wait for."""
        with self.database.transaction() as session:
            back = exclusive.take(session, self.clock, self.policy, self._actor(), self.holder, tags)
        return None if back is None else back.waits_for

    def stage(self, ciphertext: bytes = SECRET) -> int:
        with self.database.transaction() as session:
            return candidates.stage(session, self.clock, self._actor(), self.holder, ciphertext)

    def intend(self, seq: int = 1) -> None:
        with self.database.transaction() as session:
            candidates.intend(session, self.clock, self.holder, seq)

    def fence(self) -> None:
        with self.database.transaction() as session:
            candidates.begin(session, self.clock, self.holder)

    def renew(self) -> None:
        with self.database.transaction() as session:
            lease.renew(session, self.clock, self.policy, self.holder)

    def promote(
        self, seq: int = 1, *, revision: int = 1, report: wire.Report | None = None, kept: bytes | None = None,
        **evidence: Any,
    ) -> Any:  # fmt: skip
        promotion = wire.Promotion(
            epoch=self.claim.epoch, instance=self.instance, seq=seq, record_data=b"merged", record_revision=revision,
            evidence=evidence or {"login": "accepted", "old": "refused"}, report=report, kept=kept,
        )  # fmt: skip
        with self.database.transaction() as session:
            return candidates.promote(session, self.clock, self.policy, self._actor(), self.holder, promotion)

    def abandon(self, seq: int = 1, reason: str = "policy_refused", **evidence: Any) -> None:
        with self.database.transaction() as session:
            candidates.abandon(
                session, self.clock, self._actor(), self.holder, seq=seq, reason=reason, evidence=evidence
            )

    def recover(self, ciphertext: bytes, *, revision: int = 1) -> wire.RecoveryAnswer:
        """Make a value that was found to log in the current one."""
        found = wire.Recovery(
            epoch=self.claim.epoch, instance=self.instance, ciphertext=ciphertext, record_data=b"merged",
            record_revision=revision, evidence={"login": "accepted", "source": "journal"},
        )  # fmt: skip
        with self.database.transaction() as session:
            return recovered.recover(session, self.clock, self._actor(), self.holder, found)

    def report(self, status: Status = Status.OK, post: PostStatus = PostStatus.NONE, **members: Any) -> Outcome:
        said = self.reported(status, post, **members)
        with self.database.transaction() as session:
            return outcome.report(session, self.clock, self.policy, self._actor(), self.holder, said)

    def reported(self, status: Status = Status.OK, post: PostStatus = PostStatus.NONE, **members: Any) -> wire.Report:
        return wire.Report(
            epoch=self.claim.epoch, instance=self.instance, status=status, post_rotation_status=post, **members
        )

    def release(self, reason: str = "gateway_stopping") -> tuple[JobState, bool]:
        with self.database.transaction() as session:
            return lease.release(session, self.clock, self.policy, self._actor(), self.holder, reason)

    def declare(self, *keys: str, most_attempts: int = 1, kind: str = "script") -> list[wire.StepRow]:
        rows = [
            wire.StepRow(
                key=key, position=number, kind=kind, place="gateway", state="pending", most_attempts=most_attempts
            )
            for number, key in enumerate(keys)
        ]
        with self.database.transaction() as session:
            return steps.declare(session, self.clock, self.holder, rows)

    def start_step(self, key: str) -> None:
        with self.database.transaction() as session:
            steps.start(session, self.clock, self.holder, key)

    def finish_step(self, key: str, state: str = "succeeded", exit_code: int | None = 0) -> None:
        said = wire.StepFinish(
            epoch=self.claim.epoch, instance=self.instance, key=key, state=state, exit_code=exit_code, output=b"sealed"
        )
        with self.database.transaction() as session:
            steps.finish(session, self.clock, self.holder, said)

    def _actor(self) -> Any:
        return gateway_actor(self.fleet.gateway_uid)


def begin(fleet: Fleet, job_uid: str, instance: str = "i1", policy: JobPolicy = POLICY) -> Attempt:
    """Claim the job.

    Raises:
        StateError: it was refused, also because its credential is busy.
    """
    with fleet.database.transaction() as session:
        taken = lease.claim(
            session, fleet.clock, policy, job_uid=job_uid, gateway_uid=fleet.gateway_uid, instance=instance
        )
    if isinstance(taken, lease.Busy):
        raise taken.error()
    return Attempt(fleet=fleet, claim=taken, instance=instance, policy=policy)


def reload(fleet: Fleet, job_uid: str) -> Job:
    with fleet.database.transaction(read_only=True) as session:
        return session.get_one(Job, job_uid)


def outbox(fleet: Fleet, job_uid: str) -> int:
    with fleet.database.transaction(read_only=True) as session:
        return len(session.scalars(select(OutboxMessage.id).where(OutboxMessage.job_uid == job_uid)).all())


def version(fleet: Fleet, record_uid: str, seq: int = 1) -> CredentialVersion:
    with fleet.database.transaction(read_only=True) as session:
        return session.scalars(
            select(CredentialVersion).where(CredentialVersion.record_uid == record_uid, CredentialVersion.seq == seq)
        ).one()


def refused(call: Any, *arguments: Any) -> StateError | None:
    """Return the refusal of a call, or None when it was carried out."""
    try:
        call(*arguments)
    except StateError as error:
        return error
    return None


MINUTE = timedelta(seconds=61)

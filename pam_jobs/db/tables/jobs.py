"""Jobs: a row is the truth, the broker's message only a hint."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, SmallInteger, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from pam_jobs.db.base import Base, BigIntKey

__all__ = [
    "CredentialEpoch",
    "DatabaseGeneration",
    "DiscoveryResult",
    "Job",
    "JobKind",
    "JobState",
    "JobStep",
    "LoginRefusal",
    "LoginReservation",
    "OutboxMessage",
    "Priority",
    "StepState",
    "TargetSetAside",
]


class JobKind(StrEnum):
    """What a job does."""

    ROTATE = "rotate"
    VERIFY = "verify"  # probe only
    RECONCILE = "reconcile"  # the admin sets the value again
    PLAN = "plan"  # rotate without changing anything
    DISCOVER = "discover"


class Priority(IntEnum):
    """What a gateway takes first of what waits for it."""

    ON_DEMAND = 0  # somebody asked for it and may be waiting
    SCHEDULED = 1
    BACKGROUND = 2  # scheduled verifications: nobody waits for them


class JobState(StrEnum):
    """Where a job stands; see the state diagram in the package's README."""

    CREATED = "created"  # committed, not yet published
    QUEUED = "queued"  # published at least once
    LEASED = "leased"  # an instance owns it and has not begun to change anything
    RUNNING = "running"  # the owner declared its intention to change the target
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # certainly not applied
    UNKNOWN = "unknown"  # may be applied; retried until resolved
    WAITING_HUMAN = "waiting_human"  # only an operator can decide
    CANCELLED = "cancelled"  # before the first irreversible byte
    EXPIRED = "expired"  # not started in its time


class StepState(StrEnum):
    """Where a post-rotation step stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"  # interrupted; never run again by itself


_WAITING = text("trigger = 'scheduled' AND state IN ('created', 'queued')")
_IN_LINE = text("state IN ('created', 'queued')")
_IN_HAND = text("state IN ('leased', 'running')")
_DISCOVERIES = text("kind = 'discover'")
_TAGGED = text("target_tags IS NOT NULL")
_AWAITS = text("waits_for IS NOT NULL")


class Job(Base):
    """One job. Times are UTC; codes are plain; ``detail`` is ciphertext."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("schedule_uid", "due_at"),
        Index("uq_jobs_waiting", "record_uid", "kind", unique=True, sqlite_where=_WAITING, postgresql_where=_WAITING),
        Index("ix_jobs_state", "state", "queued_at"),
        Index("ix_jobs_gateway_state", "gateway_uid", "state"),
        Index("ix_jobs_record", "record_uid", "created_at"),
        # What a claim chooses from: first those whose wait is over, then those that never had to.
        Index(
            "ix_jobs_line", "gateway_uid", "configuration_uid", "priority", "held_for", "not_before", "created_at",
            sqlite_where=_IN_LINE, postgresql_where=_IN_LINE,
        ),
        Index(
            "ix_jobs_discoveries", "configuration_uid", sqlite_where=_DISCOVERIES, postgresql_where=_DISCOVERIES
        ),
        Index("ix_jobs_held", "configuration_uid", sqlite_where=_IN_HAND, postgresql_where=_IN_HAND),
        Index("ix_jobs_tagged", "created_at", "uid", sqlite_where=_TAGGED, postgresql_where=_TAGGED),
        Index("ix_jobs_waits_for", "waits_for", sqlite_where=_AWAITS, postgresql_where=_AWAITS),
    )  # fmt: skip

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    kind: Mapped[JobKind] = mapped_column(String(16))
    state: Mapped[JobState] = mapped_column(String(16))
    trigger: Mapped[str] = mapped_column(String(16))  # on_demand, scheduled
    priority: Mapped[Priority] = mapped_column(SmallInteger, default=Priority.SCHEDULED, server_default=text("1"))
    gateway_uid: Mapped[str] = mapped_column(ForeignKey("gateways.uid"))
    configuration_uid: Mapped[str] = mapped_column(String(22))
    record_uid: Mapped[str | None] = mapped_column(String(22))  # the user record; None for discovery
    parameters: Mapped[dict[str, Any]]  # identifiers and switches only
    schedule_uid: Mapped[str | None] = mapped_column(String(22))
    due_at: Mapped[datetime | None]
    planned_at: Mapped[datetime | None]  # by the schedule alone, where that is another time
    moved_by: Mapped[str | None] = mapped_column(String(22))  # the calendar that moved the run to ``due_at``
    requested_by: Mapped[str] = mapped_column(String(254))  # username, or "beat"
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    created_at: Mapped[datetime] = mapped_column(index=True)
    queued_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]  # back-off after an unknown outcome
    held_for: Mapped[str | None] = mapped_column(String(22))  # the target at its limit in whose own line it waits
    waits_for: Mapped[str | None] = mapped_column(String(22))  # the job that its gateway gave it back for
    target_tags: Mapped[str | None] = mapped_column(
        String(1000)
    )  # of the server whose administrator it changes; until its end
    tags_epoch: Mapped[int | None]  # of the lease that was granted them
    expires_at: Mapped[datetime | None]
    epoch: Mapped[int] = mapped_column(default=0)  # of the latest lease
    lease_instance: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0, server_default=text("0"))  # attempts that ended with a lost lease
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    status: Mapped[str | None] = mapped_column(String(32))  # rotation status code
    post_rotation_status: Mapped[str | None] = mapped_column(String(32))
    services_status: Mapped[str | None] = mapped_column(String(32))  # of what runs as the account
    effect: Mapped[str | None] = mapped_column(String(16))
    cause: Mapped[str | None] = mapped_column(String(64))
    timings: Mapped[dict[str, Any]] = mapped_column(default=dict)  # step → milliseconds
    detail: Mapped[bytes | None] = mapped_column(LargeBinary)  # JSON by the record's (discovery: configuration's) key


class CredentialEpoch(Base):
    """The fence: one counter a credential, and the one attempt that may write with it."""

    __tablename__ = "credential_epochs"

    record_uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    epoch: Mapped[int]
    job_uid: Mapped[str | None] = mapped_column(String(22))  # who holds it now
    lease_until: Mapped[datetime | None]


class DatabaseGeneration(Base):
    """A time in the life of the database: the first one, and one more for each restore from an older backup."""

    __tablename__ = "database_generations"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    uid: Mapped[str] = mapped_column(String(22), unique=True)
    began_at: Mapped[datetime]
    cause: Mapped[str] = mapped_column(String(16))  # first, command, gateway


class OutboxMessage(Base):
    """A message to publish, written with the change that calls for it."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigIntKey, primary_key=True)
    job_uid: Mapped[str] = mapped_column(ForeignKey("jobs.uid"), index=True)
    queue: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)


class JobStep(Base):
    """One post-rotation step, durable so that a finished one never runs twice."""

    __tablename__ = "job_steps"

    job_uid: Mapped[str] = mapped_column(ForeignKey("jobs.uid"), primary_key=True)
    key: Mapped[str] = mapped_column(String(120), primary_key=True)  # "script:<record uid>:<file uid>:<n>" …
    position: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))  # script, dependant
    place: Mapped[str] = mapped_column(String(16))  # gateway, machine
    state: Mapped[StepState] = mapped_column(String(16))
    epoch: Mapped[int]
    exit_code: Mapped[int | None]
    cause: Mapped[str | None] = mapped_column(String(64))
    output: Mapped[bytes | None] = mapped_column(LargeBinary)  # scrubbed, JSON by the user record's key
    attempts: Mapped[int] = mapped_column(default=0, server_default=text("0"))  # how often it was started
    most_attempts: Mapped[int] = mapped_column(default=1, server_default=text("1"))  # while its end is unknown
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class LoginRefusal(Base):
    """A login that the target refused; counted against the account's lockout budget."""

    __tablename__ = "login_refusals"

    id: Mapped[int] = mapped_column(BigIntKey, primary_key=True)
    record_uid: Mapped[str] = mapped_column(String(22), index=True)
    gateway_uid: Mapped[str] = mapped_column(String(22))
    at: Mapped[datetime] = mapped_column(index=True)


class LoginReservation(Base):
    """A place in an account's lockout budget: one login that was granted, and whose outcome is not told yet."""

    __tablename__ = "login_reservations"

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)  # made by the gateway
    record_uid: Mapped[str] = mapped_column(String(22), index=True)  # the account that logs in
    resource_uid: Mapped[str] = mapped_column(String(22))  # where; "" where the job names no resource
    subject_uid: Mapped[str] = mapped_column(String(22))  # with job and epoch: the attempt that makes the login
    job_uid: Mapped[str] = mapped_column(String(22))
    epoch: Mapped[int]
    gateway_uid: Mapped[str] = mapped_column(String(22))
    at: Mapped[datetime]


class TargetSetAside(Base):
    """A target that refused its administrator: nothing is tried there until somebody or something lifts it."""

    __tablename__ = "targets_set_aside"

    resource_uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    admin_uid: Mapped[str] = mapped_column(String(22), index=True)  # who was refused
    since: Mapped[datetime]
    cause: Mapped[str] = mapped_column(String(64))  # admin_refused, admin_locked
    job_uid: Mapped[str] = mapped_column(String(22))  # the job that found it
    gateway_uid: Mapped[str] = mapped_column(String(22))
    lifted_at: Mapped[datetime | None]
    lifted_by: Mapped[str | None] = mapped_column(String(254))


class DiscoveryResult(Base):
    """What a discovery job found, by the configuration record's key; counts are plain."""

    __tablename__ = "discovery_results"

    job_uid: Mapped[str] = mapped_column(ForeignKey("jobs.uid"), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    counts: Mapped[dict[str, Any]]  # {"machines": 1, "users": 7, "unseen": 2 …}
    stored_at: Mapped[datetime]
    processed_at: Mapped[datetime | None]

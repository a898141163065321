"""Gateways, PAM configurations, links and rotation settings: identifiers and times, no titles and no secrets."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column

from pam_jobs.db.base import Base

__all__ = [
    "Calendar",
    "CalendarUse",
    "ConfigurationCalendar",
    "DriftState",
    "Gateway",
    "GatewayInstance",
    "GatewayTurn",
    "MissedRuns",
    "PamConfiguration",
    "ResourceLink",
    "RotationSettings",
    "Schedule",
    "ServiceMap",
]


class DriftState(StrEnum):
    """Whether the target takes the credential that the vault holds, as far as was seen last."""

    HEALTHY = "healthy"  # it logged in
    OUT_OF_SYNC = "out_of_sync"  # the target refused it, or a part of it
    UNREACHABLE = "unreachable"  # the target could not be asked
    LOCKED = "locked"  # the account is locked, expired or barred; says nothing of the credential
    UNCHECKED = "unchecked"  # not tried since somebody gave it, or the check could not be made


class MissedRuns(StrEnum):
    """What becomes of a run whose time passed while no beat was there."""

    CATCH_UP = "catch_up"  # it runs as soon as it can, once however many were missed
    SKIP = "skip"  # later than the grace time it does not run at all


class CalendarUse(StrEnum):
    """What a calendar's periods mean to a configuration."""

    WINDOW = "window"  # scheduled runs begin inside them only
    BLACKOUT = "blackout"  # scheduled runs do not begin inside them


class Gateway(Base):
    """The identity that all instances of one gateway share."""

    __tablename__ = "gateways"

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    application_uid: Mapped[str] = mapped_column(ForeignKey("applications.uid"), index=True)
    max_instances: Mapped[int] = mapped_column(default=1)
    job_limit: Mapped[int | None]  # jobs at a time, over all instances; None: as many as they have threads for
    drained_at: Mapped[datetime | None]  # since then it takes no new jobs
    created_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]


class GatewayTurn(Base):
    """Whose turn it is at a gateway. Whoever claims a job there locks this row first, so limits hold and turns are fair."""

    __tablename__ = "gateway_turns"

    gateway_uid: Mapped[str] = mapped_column(ForeignKey("gateways.uid"), primary_key=True)
    turn: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")  # jobs begun while others waited
    served: Mapped[dict[str, Any]] = mapped_column(default=dict)  # configuration → its latest turn
    passed_over: Mapped[int] = mapped_column(default=0, server_default="0")  # begun in a row while patience was over
    is_short: Mapped[bool] = mapped_column(default=False, server_default=false())  # a limit left a job without message
    asked_at: Mapped[datetime | None]  # when an instance last asked for a job: messages arrive


class GatewayInstance(Base):
    """One running process of a gateway, as its heartbeats tell."""

    __tablename__ = "gateway_instances"

    gateway_uid: Mapped[str] = mapped_column(ForeignKey("gateways.uid"), primary_key=True)
    instance: Mapped[str] = mapped_column(String(64), primary_key=True)  # unique per process start
    version: Mapped[str] = mapped_column(String(200))  # "version;os;release;machine;osversion"
    details: Mapped[dict[str, Any]]  # hostname, pid, memory …
    started_at: Mapped[datetime]
    last_seen_at: Mapped[datetime] = mapped_column(index=True)
    stopped_at: Mapped[datetime | None]
    running: Mapped[int] = mapped_column(default=0)


class PamConfiguration(Base):
    """Which gateway serves a configuration record; the configuration's own fields are in the record."""

    __tablename__ = "pam_configurations"

    record_uid: Mapped[str] = mapped_column(ForeignKey("records.uid"), primary_key=True)
    gateway_uid: Mapped[str] = mapped_column(ForeignKey("gateways.uid"), index=True)
    environment: Mapped[str] = mapped_column(String(16))  # local, domain, aws …
    default_schedule: Mapped[str] = mapped_column(Text)  # JSON list; "[]" is manual
    default_verify_schedule: Mapped[str] = mapped_column(Text, default="[]", server_default="[]")
    rotation_enabled: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime]
    schedules_paused_at: Mapped[datetime | None]  # an operator paused all that runs by itself
    jitter_seconds: Mapped[int] = mapped_column(default=0, server_default="0")  # runs are spread over so many
    missed_runs: Mapped[MissedRuns] = mapped_column(
        String(16), default=MissedRuns.CATCH_UP, server_default=MissedRuns.CATCH_UP
    )
    missed_grace_seconds: Mapped[int] = mapped_column(default=900, server_default="900")
    job_limit: Mapped[int | None]  # jobs at a time; None: no limit of its own
    target_limit: Mapped[int | None]  # jobs at a time on each of its resources that has no limit of its own


class Calendar(Base):
    """Periods of time under a name, which configurations use as windows or blackouts."""

    __tablename__ = "calendars"

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    tz: Mapped[str] = mapped_column(String(64))  # IANA zone of every wall time in it
    periods: Mapped[str] = mapped_column(Text)  # JSON list
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ConfigurationCalendar(Base):
    """A calendar that a configuration goes by."""

    __tablename__ = "configuration_calendars"

    configuration_uid: Mapped[str] = mapped_column(ForeignKey("pam_configurations.record_uid"), primary_key=True)
    calendar_uid: Mapped[str] = mapped_column(ForeignKey("calendars.uid"), primary_key=True, index=True)
    use: Mapped[CalendarUse] = mapped_column(String(16))


_HAS_LIMIT = text("job_limit IS NOT NULL")


class ResourceLink(Base):
    """A machine, database or directory of a configuration, and the user record that administers it."""

    __tablename__ = "resource_links"
    __table_args__ = (
        Index(
            "ix_resource_links_limited", "configuration_uid", sqlite_where=_HAS_LIMIT, postgresql_where=_HAS_LIMIT
        ),
    )  # fmt: skip

    resource_uid: Mapped[str] = mapped_column(ForeignKey("records.uid"), primary_key=True)
    configuration_uid: Mapped[str] = mapped_column(ForeignKey("pam_configurations.record_uid"), index=True)
    admin_uid: Mapped[str | None] = mapped_column(ForeignKey("records.uid"), index=True)
    no_update_services: Mapped[bool] = mapped_column(default=False, server_default=false())  # the machine's opt-out
    job_limit: Mapped[int | None]  # jobs at a time; None: the configuration's ``target_limit``


class ServiceMap(Base):
    """What runs on a machine as a user: services, tasks and the like, updated when the user is rotated."""

    __tablename__ = "service_maps"

    user_uid: Mapped[str] = mapped_column(ForeignKey("records.uid"), primary_key=True)
    machine_uid: Mapped[str] = mapped_column(ForeignKey("resource_links.resource_uid"), primary_key=True, index=True)
    names: Mapped[bytes] = mapped_column(LargeBinary)  # JSON, AES-256-GCM by the user record's key
    revision: Mapped[int] = mapped_column(default=1)
    updated_at: Mapped[datetime]


class RotationSettings(Base):
    """How one user record is rotated. Exactly one row a user: the place where it belongs."""

    __tablename__ = "rotation_settings"

    record_uid: Mapped[str] = mapped_column(ForeignKey("records.uid"), primary_key=True)
    configuration_uid: Mapped[str] = mapped_column(ForeignKey("pam_configurations.record_uid"), index=True)
    resource_uid: Mapped[str | None] = mapped_column(ForeignKey("resource_links.resource_uid"), index=True)
    profile: Mapped[str] = mapped_column(String(16))  # general, iam_user, scripts_only, saas
    saas_uid: Mapped[str | None] = mapped_column(String(22), index=True)  # the saasConfiguration record of saas
    schedule: Mapped[str] = mapped_column(Text)  # JSON list; "[]" is manual
    inherits_schedule: Mapped[bool] = mapped_column(default=False)  # take the configuration's default
    verify_schedule: Mapped[str | None] = mapped_column(Text)  # None: the configuration's default; "[]": on demand
    complexity: Mapped[bytes | None] = mapped_column(LargeBinary)  # JSON, AES-256-GCM by the record key
    disabled: Mapped[bool] = mapped_column(default=False)
    no_update_services: Mapped[bool] = mapped_column(default=False, server_default=false())  # the user's opt-out
    revision: Mapped[int] = mapped_column(default=1)
    updated_at: Mapped[datetime]
    last_rotated_at: Mapped[datetime | None]
    last_probe: Mapped[dict[str, Any] | None]  # {"at", "verdict", "gateway", "version_seq"}
    prove_since: Mapped[datetime | None]  # the database was restored then: a login has to show what is live, first
    last_verdict: Mapped[dict[str, Any] | None]  # the same, of the last login that was accepted or refused
    drift: Mapped[DriftState] = mapped_column(
        String(16), default=DriftState.UNCHECKED, server_default=DriftState.UNCHECKED, index=True
    )
    drift_before: Mapped[str | None] = mapped_column(String(16))  # what ``drift`` was when it was last written
    drift_since: Mapped[datetime | None]
    drift_checked_at: Mapped[datetime | None]  # when the target was last asked
    drift_cause: Mapped[str | None] = mapped_column(String(64))


class Schedule(Base):
    """The due table: one row per thing that runs by itself."""

    __tablename__ = "schedules"
    __table_args__ = (Index("ix_schedules_due", "next_run_at", "uid"),)

    uid: Mapped[str] = mapped_column(String(22), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # a job kind: rotate, verify, discover
    subject_uid: Mapped[str] = mapped_column(String(22), index=True)  # user record, or configuration for discover
    spec: Mapped[str] = mapped_column(Text)  # the JSON schedule list
    anchor_at: Mapped[datetime]  # where intervalCount counts from
    next_run_at: Mapped[datetime | None]  # None: never again, or paused
    last_due_at: Mapped[datetime | None]
    paused: Mapped[bool] = mapped_column(default=False)  # for whatever reason; ``paused_at`` is one of them
    paused_at: Mapped[datetime | None]  # an operator paused this row; its settings do not tell
    planned_at: Mapped[datetime | None]  # when the next run is due by the schedule alone; None: at ``next_run_at``
    moved_by: Mapped[str | None] = mapped_column(String(22))  # the calendar that moved the next run
    blocked: Mapped[str | None] = mapped_column(String(64))  # why the last due run made no job; None when it made one

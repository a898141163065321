"""What clients send and get about gateways, configurations, resources, rotation and schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pam_jobs.crypto.blob import Blob
from pam_jobs.db.tables import DriftState, MissedRuns
from pam_jobs.vault.models import NewClient, NewRecord, StrictModel, Uid

__all__ = [
    "CalendarChange",
    "CalendarList",
    "CalendarOut",
    "CollisionOut",
    "Configuration",
    "ConfigurationChange",
    "ConfigurationList",
    "ConfigurationOut",
    "DriftOut",
    "ForecastOut",
    "GatewayChange",
    "GatewayList",
    "GatewayOut",
    "LoadOut",
    "MissOut",
    "NewCalendar",
    "NewGateway",
    "PreviewOut",
    "ResourceChange",
    "ResourceLimit",
    "ResourceList",
    "ResourceOut",
    "RotationChange",
    "RotationList",
    "RotationOut",
    "RunOut",
    "ScheduleList",
    "ScheduleOut",
    "SetAsideOut",
]

ScheduleJson = Annotated[list[dict[str, Any]], Field(max_length=100)]
"""The schedule list; empty, or one ON_DEMAND object, is manual."""
Environment = Literal["local", "aws", "azure", "gcp", "domain", "oci", "github", "hashicorp"]
Calendars = Annotated[list[Uid], Field(max_length=20)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


JobLimit = Annotated[
    int | None, Field(description="jobs at a time, 1 to 10000; null: no limit of its own; absent: left as it is")
]


class _View(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class NewGateway(StrictModel):
    """A gateway to create, with the device that it binds as."""

    uid: Uid
    name: Name
    application_uid: Uid
    client: NewClient


class GatewayChange(StrictModel):
    """What to change of a gateway."""

    name: Name | None = None
    max_instances: int | None = Field(None, ge=1, le=100)
    job_limit: JobLimit = None


class InstanceOut(_View):
    """One process of a gateway; the version is ``version;os;release;machine;osversion``."""

    instance: str
    version: str
    status: Literal["ONLINE", "OFFLINE"]
    started_at: datetime
    last_seen_at: datetime
    running: int
    details: dict[str, Any]


class GatewayOut(_View):
    """A gateway, its instances and how many jobs wait for it and are at work."""

    uid: str
    name: str
    application_uid: str
    max_instances: int
    status: Literal["ONLINE", "OFFLINE"]
    job_limit: int | None
    drained_at: datetime | None = Field(description="since then it begins no jobs")
    instances: list[InstanceOut]
    queued: int
    running: int
    created_at: datetime


class GatewayList(BaseModel):
    """All gateways, by name."""

    gateways: list[GatewayOut]


class Configuration(StrictModel):
    """A configuration to create together with its record."""

    record: NewRecord
    gateway_uid: Uid
    environment: Environment
    default_schedule: ScheduleJson = Field(default_factory=list)
    default_verify_schedule: ScheduleJson = Field(
        default_factory=list, description="when credentials are verified whose records have no own schedule for it"
    )
    rotation_enabled: bool = True


class ConfigurationChange(StrictModel):
    """What to change of a configuration."""

    gateway_uid: Uid | None = None
    environment: Environment | None = None
    default_schedule: ScheduleJson | None = None
    default_verify_schedule: ScheduleJson | None = None
    rotation_enabled: bool | None = None
    windows: Calendars | None = Field(None, description="calendars inside which scheduled runs begin; empty: any time")
    blackouts: Calendars | None = Field(None, description="calendars inside which scheduled runs do not begin")
    jitter_seconds: int | None = Field(None, ge=0, le=86_400, description="scheduled runs are spread over so many")
    missed_runs: MissedRuns | None = Field(None, description="what becomes of a run that no beat was there for")
    missed_grace_seconds: int | None = Field(
        None, ge=60, le=604_800, description="with `skip`: a run that is later than this is left out"
    )
    job_limit: JobLimit = None
    target_limit: JobLimit = None


class LinkOut(BaseModel):
    """A resource of a configuration."""

    record_uid: str
    admin_uid: str | None
    job_limit: int | None = None


class ConfigurationOut(BaseModel):
    """A configuration and its resources."""

    record_uid: str
    gateway_uid: str
    environment: str
    default_schedule: list[dict[str, Any]]
    default_verify_schedule: list[dict[str, Any]]
    rotation_enabled: bool
    schedules_paused_at: datetime | None
    windows: list[str]
    blackouts: list[str]
    jitter_seconds: int
    missed_runs: MissedRuns
    missed_grace_seconds: int
    job_limit: int | None
    target_limit: int | None = Field(description="jobs at a time on each resource that has no limit of its own")
    resources: list[LinkOut]
    created_at: datetime


class ConfigurationList(BaseModel):
    """All configurations, oldest first."""

    configurations: list[ConfigurationOut]


class ResourceChange(StrictModel):
    """Where a resource belongs and who administers it."""

    configuration_uid: Uid
    admin_uid: Uid | None = None


class ResourceLimit(StrictModel):
    """How many jobs may be at work on a resource."""

    job_limit: int | None = Field(description="1 to 10000; null: the configuration's limit of each target")


class SetAsideOut(_View):
    """Since when and why nothing is tried on a target."""

    since: datetime
    cause: str
    admin_uid: str
    job_uid: str


class ResourceOut(LinkOut):
    """A resource, its configuration and its admin."""

    configuration_uid: str
    set_aside: SetAsideOut | None = None


class ResourceList(BaseModel):
    """All resources."""

    resources: list[ResourceOut]


class RotationChange(StrictModel):
    """How a user record is to be rotated: everything, for it replaces what stands."""

    configuration_uid: Uid
    resource_uid: Uid | None = None
    admin_uid: Uid | None = None
    saas_uid: Uid | None = Field(None, description="the saasConfiguration record of the profile saas")
    profile: Literal["general", "iam_user", "scripts_only", "saas"] = "general"
    schedule: ScheduleJson = Field(default_factory=list)
    inherits_schedule: bool = False
    verify_schedule: ScheduleJson | None = Field(
        None, description="when the credential is verified; null: by the configuration's default"
    )
    complexity: Annotated[Blob, Field(min_length=29)] | None = None
    disabled: bool = False
    revision: int | None = Field(None, ge=0, description="0: there must be none; null: replace whatever stands")


class DriftOut(_View):
    """Whether the target takes the credential, as far as was seen last."""

    state: DriftState
    since: datetime | None
    checked_at: datetime | None = Field(description="when the target was last asked")
    cause: str | None


class RotationOut(_View):
    """How a user record is rotated, and whether it can be."""

    record_uid: str
    configuration_uid: str
    resource_uid: str | None
    admin_uid: str | None
    saas_uid: str | None
    profile: str
    schedule: list[dict[str, Any]]
    inherits_schedule: bool
    effective_schedule: list[dict[str, Any]]
    verify_schedule: list[dict[str, Any]] | None
    effective_verify_schedule: list[dict[str, Any]]
    complexity: Blob | None
    disabled: bool
    revision: int
    updated_at: datetime
    last_rotated_at: datetime | None
    last_probe: dict[str, Any] | None
    drift: DriftOut
    next_run_at: datetime | None
    next_verify_at: datetime | None
    gateway_uid: str
    gateway_name: str
    gateway_status: Literal["ONLINE", "OFFLINE"]
    ready: bool
    blockers: list[str]


class RotationList(BaseModel):
    """Rotation of all user records, by UID."""

    rotation: list[RotationOut]


class ScheduleOut(BaseModel):
    """One row of the due table; a run that could not start says why in ``blocked``."""

    uid: str
    kind: str
    record_uid: str | None
    configuration_uid: str | None
    gateway_uid: str | None
    schedule: list[dict[str, Any]]
    description: str
    next_run_at: datetime | None
    planned_at: datetime | None = Field(description="when the next run is due by the schedule alone")
    moved_by: str | None = Field(description="the calendar that moved the next run")
    last_due_at: datetime | None
    paused: bool
    paused_at: datetime | None = Field(description="when this schedule by itself was paused")
    blocked: str | None
    reasons: list[str] = Field(description="why nothing runs, or why the next run is not when it is planned")


class ScheduleList(BaseModel):
    """The due table, soonest first; what never runs again last."""

    schedules: list[ScheduleOut]


class RunOut(BaseModel):
    """One run to come."""

    due_at: datetime
    planned_at: datetime
    moved_by: str | None
    schedule_uid: str
    kind: str
    record_uid: str | None
    configuration_uid: str | None
    gateway_uid: str | None


PeriodsJson = Annotated[list[dict[str, Any]], Field(min_length=1, max_length=100)]
"""The periods of a calendar: objects of the types WEEKLY, CRON and ONCE."""


class NewCalendar(StrictModel):
    """A calendar to create."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    tz: Annotated[str, Field(max_length=64)] = "Etc/UTC"
    periods: PeriodsJson


class CalendarChange(StrictModel):
    """What to change of a calendar."""

    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    tz: Annotated[str, Field(max_length=64)] | None = None
    periods: PeriodsJson | None = None


class CalendarOut(BaseModel):
    """A calendar and the configurations that use it."""

    uid: str
    name: str
    tz: str
    periods: list[dict[str, Any]]
    configurations: list[str]
    updated_at: datetime


class CalendarList(BaseModel):
    """All calendars, by name."""

    calendars: list[CalendarOut]


class LoadOut(_View):
    """How many runs a gateway gets in one hour."""

    hour: datetime
    gateway_uid: str | None
    runs: int


class CollisionOut(_View):
    """Runs that begin in the same minute on one target."""

    at: datetime
    resource_uid: str
    schedule_uids: list[str]


class MissOut(_View):
    """A record that would not be rotated as it should be, and why."""

    record_uid: str
    code: str
    at: datetime | None = Field(description="when it becomes too old")


class ForecastOut(BaseModel):
    """What the coming runs mean; lists are cut at 1000, counts are not."""

    runs: int
    complete: bool = Field(description="false: there are more runs than were looked at")
    load: list[LoadOut]
    collisions: list[CollisionOut]
    collision_count: int
    moved: list[RunOut]
    moved_count: int
    misses: list[MissOut]


class PreviewOut(BaseModel):
    """The runs to come; not complete when there are more than the limit."""

    runs: list[RunOut]
    complete: bool
    report: ForecastOut | None = Field(None, description="of all runs, not only of those that are listed")

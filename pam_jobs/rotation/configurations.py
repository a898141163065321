"""PAM configurations: which gateway serves which records, and by which default schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import (
    ApplicationShare,
    CalendarUse,
    Client,
    Folder,
    Gateway,
    JobKind,
    MissedRuns,
    PamConfiguration,
    ResourceLink,
    RotationSettings,
    StoredRecord,
)
from pam_jobs.errors import AlreadyExists, InvalidInput, NotFound, StateError
from pam_jobs.jobs import dispatch
from pam_jobs.rotation import calendars, schedules
from pam_jobs.rotation.gateways import require_gateway
from pam_jobs.rotation.limits import KEEP, Keep, checked_limit
from pam_jobs.rotation.readiness import not_bound

__all__ = [
    "ENVIRONMENTS",
    "Changes",
    "NewConfiguration",
    "change",
    "create",
    "remove",
    "require_configuration",
    "require_record",
    "resources_of",
]

ENVIRONMENTS = ("local", "aws", "azure", "gcp", "domain", "oci", "github", "hashicorp")
_CONFIGURATION_VERSION = 6
_STOP = "to let nothing run, use `pam config edit --rotation off` or `pam schedule pause --config`"


@dataclass(frozen=True, kw_only=True)
class NewConfiguration:
    """What makes a record a configuration."""

    record_uid: str
    gateway_uid: str
    environment: str  # one of ``ENVIRONMENTS``
    default_schedule: Sequence[Mapping[str, Any]] = ()  # what records take that inherit it
    default_verify_schedule: Sequence[Mapping[str, Any]] = ()  # when credentials are verified that have no own schedule
    rotation_enabled: bool = True  # False keeps every record of it from rotating


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What to change; None leaves a member as it is."""

    gateway_uid: str | None = None
    environment: str | None = None
    default_schedule: Sequence[Mapping[str, Any]] | None = None
    default_verify_schedule: Sequence[Mapping[str, Any]] | None = None
    rotation_enabled: bool | None = None
    windows: Sequence[str] | None = None  # calendars inside which scheduled runs begin; empty: at any time
    blackouts: Sequence[str] | None = None  # calendars inside which scheduled runs do not begin
    jitter_seconds: int | None = None
    missed_runs: MissedRuns | None = None
    missed_grace_seconds: int | None = None
    job_limit: int | Keep | None = KEEP  # jobs at a time; None: no limit
    target_limit: int | Keep | None = KEEP  # jobs at a time on each of its resources without a limit of its own


def require_record(session: Session, uid: str, *, what: str, is_configuration: bool = False) -> StoredRecord:
    """Return the record.

    Raises:
        NotFound: there is none.
        InvalidInput: it is a configuration where a typed record is needed, or the other way round.
    """
    record = session.get(StoredRecord, uid)
    if record is None:
        raise NotFound(f"there is no {what} record {uid}", remedy="take the UID from `pam record list`")
    if (record.version == _CONFIGURATION_VERSION) != is_configuration:
        kind = "a PAM configuration" if record.version == _CONFIGURATION_VERSION else "no PAM configuration"
        raise InvalidInput(f"record {uid} is {kind}", remedy=f"give the UID of a {what} record")
    return record


def require_configuration(session: Session, uid: str, *, lock: bool = False) -> PamConfiguration:
    """Return the configuration.

    Args:
        session: the open transaction.
        uid: of the configuration's record.
        lock: keep others from changing it until the transaction ends.

    Raises:
        NotFound: there is none.
    """
    configuration = session.get(PamConfiguration, uid, with_for_update=True if lock else None)
    if configuration is None:
        raise NotFound(f"there is no PAM configuration {uid}", remedy="take the UID from `pam config list`")
    return configuration


def create(
    session: Session, clock: Clock, actor: Actor, new: NewConfiguration, *, minimum_seconds: int
) -> PamConfiguration:
    """Make a stored record of version 6 a configuration that the gateway serves.

    Args:
        session: the open transaction, in which the record may have been created.
        clock: time of creation, and what the schedule's next run is looked for after.
        actor: who does it.
        new: the record, its gateway and defaults.
        minimum_seconds: least interval between two runs.

    Raises:
        InvalidInput: wrong record, environment or schedule; the gateway's application cannot read the record's folder.
        NotFound: no such record or gateway.
        AlreadyExists: the record is a configuration already.
    """
    record = require_record(session, new.record_uid, what="configuration", is_configuration=True)
    if session.get(PamConfiguration, record.uid) is not None:
        raise AlreadyExists(f"{record.uid} is a PAM configuration already", remedy="change it with `pam config edit`")
    _check_environment(new.environment)
    schedule = schedules.checked(new.default_schedule, clock=clock, minimum_seconds=minimum_seconds)
    verify = schedules.checked(new.default_verify_schedule, clock=clock, minimum_seconds=minimum_seconds)
    gateway = require_gateway(session, new.gateway_uid, lock=True)
    _check_has_key(session, clock, gateway)
    _check_bound(session, record, gateway)
    configuration = PamConfiguration(
        record_uid=record.uid,
        gateway_uid=gateway.uid,
        environment=new.environment,
        default_schedule=schedule.to_json(),
        default_verify_schedule=verify.to_json(),
        rotation_enabled=new.rotation_enabled,
        created_at=clock.now(),
    )
    session.add(configuration)
    session.flush()
    record_event(session, clock, actor, "pam_configuration_created", record_uid=record.uid, gateway_uid=gateway.uid)
    return configuration


def change(
    session: Session, clock: Clock, actor: Actor, uid: str, changes: Changes, *, minimum_seconds: int
) -> PamConfiguration:
    """Change a configuration; the schedules of the records that inherit from it follow.

    Raises:
        NotFound: no such configuration or gateway.
        InvalidInput: wrong environment or schedule; the new gateway's application cannot read the record's folder.
    """
    configuration = require_configuration(session, uid, lock=True)
    if changes.environment is not None:
        _check_environment(changes.environment)
    specs = {
        name: schedules.checked(wanted, clock=clock, minimum_seconds=minimum_seconds).to_json()
        for name in ("default_schedule", "default_verify_schedule")
        if (wanted := getattr(changes, name)) is not None
    }
    if changes.gateway_uid is not None:
        record = require_record(session, uid, what="configuration", is_configuration=True)
        gateway = require_gateway(session, changes.gateway_uid, lock=True)
        _check_has_key(session, clock, gateway)
        _check_bound(session, record, gateway)
        _move(session, clock, actor, configuration, changes.gateway_uid)
    if changes.environment is not None:
        configuration.environment = changes.environment
    for name, spec in specs.items():
        setattr(configuration, name, spec)
    if changes.rotation_enabled is not None:
        configuration.rotation_enabled = changes.rotation_enabled
    _change_limits(session, clock, configuration, changes)
    _change_timing(session, clock, configuration, changes)
    if specs or changes.rotation_enabled is not None:
        schedules.follow_configuration(session, clock, configuration)
    record_event(
        session, clock, actor, "pam_configuration_updated", record_uid=uid, gateway_uid=configuration.gateway_uid
    )
    return configuration


def _move(session: Session, clock: Clock, actor: Actor, configuration: PamConfiguration, gateway_uid: str) -> None:
    """Give the configuration another gateway; what waits goes with it, what is worked on is ended where it is."""
    if configuration.gateway_uid == gateway_uid:
        return
    configuration.gateway_uid = gateway_uid
    session.flush()
    moved = dispatch.move(session, clock, configuration.record_uid, gateway_uid)
    if moved:
        record_event(
            session,
            clock,
            actor,
            "pam_jobs_moved",
            configuration_uid=configuration.record_uid,
            gateway_uid=gateway_uid,
            count=moved,
        )


def _change_limits(session: Session, clock: Clock, configuration: PamConfiguration, changes: Changes) -> None:
    limits = {name: getattr(changes, name) for name in ("job_limit", "target_limit")}
    given = {name: limit for name, limit in limits.items() if not isinstance(limit, Keep)}
    for name, limit in given.items():
        what = "PAM configuration" if name == "job_limit" else "target"
        setattr(configuration, name, checked_limit(limit, what, _STOP))
    if given:
        session.flush()
        dispatch.refill(session, clock, configuration.gateway_uid)


def _change_timing(session: Session, clock: Clock, configuration: PamConfiguration, changes: Changes) -> None:
    """Bring calendars, jitter and the policy on missed runs in step; the next runs follow."""
    for name in ("jitter_seconds", "missed_runs", "missed_grace_seconds"):
        if (wanted := getattr(changes, name)) is not None:
            setattr(configuration, name, wanted)
    uses = ((CalendarUse.WINDOW, changes.windows), (CalendarUse.BLACKOUT, changes.blackouts))
    given = [(use, uids) for use, uids in uses if uids is not None]
    for use, _ in given:
        calendars.attach(session, configuration.record_uid, use, [])  # one may go from one use to the other
    for use, uids in given:
        calendars.attach(session, configuration.record_uid, use, uids)
    if given:
        calendars.check_leaves_time(session, clock, configuration.record_uid)
        dispatch.unhold(session, clock, configuration.record_uid)
    if given or changes.jitter_seconds is not None:
        schedules.replan(session, clock, configuration.record_uid)


def remove(session: Session, clock: Clock, actor: Actor, uid: str) -> None:
    """Make the record an ordinary one again; the caller removes the record itself.

    Raises:
        NotFound: no such configuration.
        StateError: resources or rotation settings still refer to it.
    """
    configuration = require_configuration(session, uid, lock=True)
    users = _count(session, RotationSettings.configuration_uid == uid, RotationSettings)
    resources = _count(session, ResourceLink.configuration_uid == uid, ResourceLink)
    if users or resources:
        raise StateError(
            f"the PAM configuration {uid} is used by {users} rotated records and {resources} resources",
            remedy="remove their rotation settings and resource links first",
        )
    schedules.forget(session, kind=JobKind.DISCOVER, subject_uid=uid)
    for use in CalendarUse:
        calendars.attach(session, uid, use, [])
    record_event(
        session, clock, actor, "pam_configuration_deleted", record_uid=uid, gateway_uid=configuration.gateway_uid
    )
    session.delete(configuration)
    session.flush()


def resources_of(session: Session, configuration_uids: Sequence[str]) -> dict[str, list[ResourceLink]]:
    """Return the resource links of each configuration."""
    found: dict[str, list[ResourceLink]] = {uid: [] for uid in configuration_uids}
    links = session.scalars(
        select(ResourceLink)
        .where(ResourceLink.configuration_uid.in_(configuration_uids))
        .order_by(ResourceLink.resource_uid)
    )
    for link in links:
        found[link.configuration_uid].append(link)
    return found


def _count(session: Session, condition: Any, table: type[RotationSettings | ResourceLink]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(condition)) or 0


def _check_environment(environment: str) -> None:
    if environment not in ENVIRONMENTS:
        raise InvalidInput(f"{environment!r} is not an environment", remedy="use one of " + ", ".join(ENVIRONMENTS))


def _check_has_key(session: Session, clock: Clock, gateway: Gateway) -> None:
    """Refuse a gateway whose devices were all removed or have expired: no process could be it."""
    devices = session.scalars(select(Client).where(Client.gateway_uid == gateway.uid)).all()
    if devices and not any(
        device.removed_at is None and (device.access_expires_at is None or device.access_expires_at > clock.now())
        for device in devices
    ):
        raise InvalidInput(
            f"the gateway {gateway.name!r} has lost its key: its device was removed, or its access has expired",
            remedy="make a gateway with `pam gateway new` and name that one",
        )


def _check_bound(session: Session, record: StoredRecord, gateway: Gateway) -> None:
    root_uid = session.scalar(select(Folder.root_uid).where(Folder.uid == record.folder_uid))
    share = session.get(ApplicationShare, (gateway.application_uid, root_uid))
    if share is None:
        blocker = not_bound(record.uid, gateway, root_uid)
        raise InvalidInput(blocker.what, remedy=blocker.remedy)

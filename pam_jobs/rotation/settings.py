"""Rotation settings: how, where and when one user record is rotated. Exactly one row a user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import JobKind, PamConfiguration, ResourceLink, RotationSettings
from pam_jobs.errors import Conflict, InvalidInput, NotFound
from pam_jobs.ids import check_uid
from pam_jobs.jobs import held
from pam_jobs.rotation import open_jobs, resources, schedules
from pam_jobs.rotation.configurations import require_configuration, require_record
from pam_jobs.rotation.readiness import OPERATORS_CHOICE, Setup, facts_for, judge
from pam_jobs.vault import drift

__all__ = ["PROFILES", "Wanted", "put", "remove", "require_settings"]

PROFILES = ("general", "iam_user", "scripts_only", "saas")
_WITHOUT_RESOURCE = ("iam_user", "saas")
_MAX_COMPLEXITY = 8192  # bytes of ciphertext


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The settings that a client sends: all of them, for they replace what stands."""

    configuration_uid: str
    profile: str
    resource_uid: str | None = None
    saas_uid: str | None = None  # the saasConfiguration record of the profile saas
    admin_uid: str | None = None  # given: becomes the resource's admin
    schedule: Sequence[Mapping[str, Any]] = ()
    inherits_schedule: bool = False
    verify_schedule: Sequence[Mapping[str, Any]] | None = None  # None: the configuration's default
    complexity: bytes | None = None  # JSON by the record key
    disabled: bool = False
    revision: int | None = None  # what the client last saw; None replaces whatever stands


def require_settings(session: Session, record_uid: str, *, lock: bool = False) -> RotationSettings:
    """Return the record's settings.

    Raises:
        NotFound: rotation is not set up for it.
    """
    settings = session.get(RotationSettings, record_uid, with_for_update=True if lock else None)
    if settings is None:
        raise NotFound(
            f"rotation is not set up for record {record_uid}",
            remedy=f"set it up with `pam rotation edit --record {record_uid} --config UID`",
        )
    return settings


def put(
    session: Session, clock: Clock, actor: Actor, record_uid: str, wanted: Wanted, *, minimum_seconds: int
) -> RotationSettings:
    """Set how the record is rotated; everything is checked before anything is written.

    Args:
        session: the open transaction.
        clock: time of the change; the next run is looked for after it.
        actor: who does it.
        record_uid: the user record.
        wanted: all settings.
        minimum_seconds: least interval between two runs.

    Raises:
        InvalidInput: a setting is wrong, contradicts another, or the gateway could not rotate the record so.
        NotFound: no such record, configuration, resource or admin record.
        Conflict: somebody changed the settings since ``wanted.revision``.
        StateError: the record moves to another configuration while a job works on it.
    """
    check_uid(record_uid, "record UID")
    require_record(session, record_uid, what="user")
    configuration = require_configuration(session, wanted.configuration_uid)
    _check_profile(wanted)
    _check_not_resource(session, record_uid)
    schedule = schedules.checked(wanted.schedule, clock=clock, minimum_seconds=minimum_seconds)
    if wanted.inherits_schedule and not schedule.is_manual:
        raise InvalidInput(
            "a schedule of its own and the configuration's default were both asked for", remedy="choose one of them"
        )
    verify = _verify_spec(wanted, clock, minimum_seconds)
    _check_setup(session, record_uid, wanted)
    standing = session.get(RotationSettings, record_uid, with_for_update=True)
    _check_revision(standing, wanted.revision)
    if standing is not None and standing.configuration_uid != wanted.configuration_uid:
        open_jobs.end_all(session, clock, actor, record_uid)
    elif wanted.disabled:
        open_jobs.end_waiting_rotations(session, clock, actor, record_uid)
    _name_admin(session, clock, actor, wanted)
    event = _event(standing, wanted)
    settings = standing or RotationSettings(
        record_uid=record_uid, revision=0, last_rotated_at=None, last_probe=None, drift_since=clock.now()
    )
    is_moved = standing is not None and (standing.resource_uid, standing.saas_uid) != (
        wanted.resource_uid,
        wanted.saas_uid,
    )
    _apply(settings, wanted, schedule.to_json(), verify)
    settings.updated_at = clock.now()
    session.add(settings)
    session.flush()
    if is_moved:
        held.free(session, record_uid)
        drift.forget(session, clock, actor, record_uid, "resource_changed")
        session.refresh(settings)
    schedules.follow_settings(session, clock, settings, configuration)
    _tell(session, clock, actor, event, settings, configuration)
    return settings


def remove(session: Session, clock: Clock, actor: Actor, record_uid: str) -> None:
    """Take the record out of rotation: its settings, its place in the due table and its waiting jobs go.

    Raises:
        NotFound: rotation is not set up for it.
        StateError: a job works on it.
    """
    settings = require_settings(session, record_uid, lock=True)
    open_jobs.end_all(session, clock, actor, record_uid)
    configuration = session.get_one(PamConfiguration, settings.configuration_uid)
    for kind in (JobKind.ROTATE, JobKind.VERIFY):
        schedules.forget(session, kind=kind, subject_uid=record_uid)
    _tell(session, clock, actor, "record_rotation_removed", settings, configuration)
    session.delete(settings)
    session.flush()


def _check_profile(wanted: Wanted) -> None:
    if wanted.profile not in PROFILES:
        raise InvalidInput(f"{wanted.profile!r} is not a rotation profile", remedy="use one of " + ", ".join(PROFILES))
    if wanted.profile in _WITHOUT_RESOURCE and wanted.resource_uid is not None:
        raise InvalidInput(
            f"the profile {wanted.profile} rotates by the configuration, not on a resource",
            remedy="leave the resource out, or use the profile general",
        )
    if wanted.saas_uid is not None and wanted.profile != "saas":
        raise InvalidInput(
            f"a SaaS configuration was named, and the profile is {wanted.profile}", remedy="use the profile saas"
        )
    if wanted.admin_uid is not None and wanted.resource_uid is None:
        raise InvalidInput("an admin was named without a resource", remedy="name the resource that it administers")
    if wanted.complexity is not None and len(wanted.complexity) > _MAX_COMPLEXITY:
        raise InvalidInput(
            f"the complexity rules are larger than {_MAX_COMPLEXITY} bytes", remedy="send the rules of one record only"
        )


def _check_not_resource(session: Session, record_uid: str) -> None:
    if session.get(ResourceLink, record_uid) is not None:
        raise InvalidInput(
            f"record {record_uid} is a resource of a PAM configuration",
            remedy="set rotation on the record of a user, and name this one as its resource",
        )


def _check_setup(session: Session, record_uid: str, wanted: Wanted) -> None:
    """Refuse what could not run, by the same rules that beat and submission go by."""
    link = session.get(ResourceLink, wanted.resource_uid) if wanted.resource_uid else None
    if wanted.admin_uid is not None:
        require_record(session, wanted.admin_uid, what="admin")
    if wanted.saas_uid is not None:
        require_record(session, wanted.saas_uid, what="SaaS configuration")
    setup = Setup(
        record_uid=record_uid,
        configuration_uid=wanted.configuration_uid,
        profile=wanted.profile,
        resource_uid=wanted.resource_uid,
        saas_uid=wanted.saas_uid,
        admin_uid=wanted.admin_uid or (link.admin_uid if link else None),
    )
    for blocker in judge(setup, facts_for(session, [setup])):
        if blocker.code not in OPERATORS_CHOICE:
            raise InvalidInput(blocker.what, remedy=blocker.remedy)


def _check_revision(standing: RotationSettings | None, revision: int | None) -> None:
    if revision is not None and revision != (standing.revision if standing else 0):
        raise Conflict(
            "somebody else changed the rotation settings meanwhile", remedy="read them again, then repeat the change"
        )


def _name_admin(session: Session, clock: Clock, actor: Actor, wanted: Wanted) -> None:
    if wanted.admin_uid is None or wanted.resource_uid is None:
        return
    link = session.get_one(ResourceLink, wanted.resource_uid)
    if link.admin_uid != wanted.admin_uid:
        resources.put(
            session,
            clock,
            actor,
            link.resource_uid,
            configuration_uid=link.configuration_uid,
            admin_uid=wanted.admin_uid,
        )


def _event(standing: RotationSettings | None, wanted: Wanted) -> str:
    if standing is None:
        return "record_rotation_created"
    if wanted.disabled and not standing.disabled:
        return "record_rotation_disabled"
    return "record_rotation_updated"


def _verify_spec(wanted: Wanted, clock: Clock, minimum_seconds: int) -> str | None:
    if wanted.verify_schedule is None:
        return None
    schedule = schedules.checked(wanted.verify_schedule, clock=clock, minimum_seconds=minimum_seconds)
    if wanted.resource_uid is None and wanted.saas_uid is None and not schedule.is_manual:
        raise InvalidInput(
            "a record without a resource cannot be verified: there is nowhere to log in",
            remedy="name the machine, database or directory, or leave the schedule of verifications out",
        )
    return schedule.to_json()


def _apply(settings: RotationSettings, wanted: Wanted, spec: str, verify: str | None) -> None:
    settings.configuration_uid = wanted.configuration_uid
    settings.resource_uid = wanted.resource_uid
    settings.saas_uid = wanted.saas_uid
    settings.profile = wanted.profile
    settings.schedule = spec
    settings.inherits_schedule = wanted.inherits_schedule
    settings.verify_schedule = verify
    settings.complexity = wanted.complexity
    settings.disabled = wanted.disabled
    settings.revision += 1


def _tell(
    session: Session,
    clock: Clock,
    actor: Actor,
    event: str,
    settings: RotationSettings,
    configuration: PamConfiguration,
) -> None:
    record_event(
        session,
        clock,
        actor,
        event,
        record_uid=settings.record_uid,
        configuration_uid=configuration.record_uid,
        resource_uid=settings.resource_uid,
        gateway_uid=configuration.gateway_uid,
    )

"""Resources: machines, databases and directories of a configuration, and who administers them."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import (
    ApplicationShare,
    Folder,
    Gateway,
    ResourceLink,
    RotationSettings,
    ServiceMap,
    StoredRecord,
    TargetSetAside,
)
from pam_jobs.errors import InvalidInput, NotFound, StateError
from pam_jobs.jobs import dispatch, set_aside
from pam_jobs.rotation.configurations import require_configuration, require_record
from pam_jobs.rotation.limits import checked_limit

__all__ = ["check_readable", "limit", "put", "remove", "resume"]


_STOP = "to let nothing run on it, disable the rotation of its users"


def put(
    session: Session,
    clock: Clock,
    actor: Actor,
    resource_uid: str,
    *,
    configuration_uid: str,
    admin_uid: str | None,
) -> ResourceLink:
    """Link the resource to the configuration and name its admin; an earlier link is replaced.

    Raises:
        NotFound: no such record, configuration or admin record.
        InvalidInput: the record is of the wrong sort, or the configuration's gateway may not read it or the admin.
        StateError: users are rotated on it by another configuration.
    """
    configuration = require_configuration(session, configuration_uid)
    require_record(session, resource_uid, what="resource")
    if session.get(RotationSettings, resource_uid) is not None:
        raise InvalidInput(
            f"record {resource_uid} is rotated as a user", remedy="give the UID of a machine, database or directory"
        )
    if admin_uid is not None:
        _check_admin(session, resource_uid, admin_uid)
    gateway = session.get_one(Gateway, configuration.gateway_uid)
    for role, uid in (("resource", resource_uid), ("admin", admin_uid)):
        if uid is not None:
            check_readable(session, gateway, uid, role)
    link = session.get(ResourceLink, resource_uid, with_for_update=True)
    if link is None:
        link = ResourceLink(resource_uid=resource_uid, configuration_uid=configuration_uid, admin_uid=admin_uid)
        session.add(link)
    else:
        _check_free(session, link, configuration_uid)
        link.configuration_uid = configuration_uid
        if link.admin_uid != admin_uid:
            set_aside.lift_for_resource(session, clock, actor, resource_uid, by=actor.username)
        link.admin_uid = admin_uid
    session.flush()
    record_event(
        session,
        clock,
        actor,
        "pam_resource_linked",
        record_uid=resource_uid,
        configuration_uid=configuration_uid,
        admin_uid=admin_uid,
        gateway_uid=gateway.uid,
    )
    return link


def remove(session: Session, clock: Clock, actor: Actor, resource_uid: str) -> None:
    """Unlink the resource.

    Raises:
        NotFound: it is not linked.
        StateError: users are rotated on it.
    """
    link = session.get(ResourceLink, resource_uid, with_for_update=True)
    if link is None:
        raise NotFound(
            f"record {resource_uid} is not a resource of any PAM configuration", remedy="see `pam config list`"
        )
    user = session.scalar(
        select(RotationSettings.record_uid).where(RotationSettings.resource_uid == resource_uid).limit(1)
    )
    if user is not None:
        raise StateError(
            f"record {user} is rotated on the resource {resource_uid}",
            remedy="remove its rotation settings, or give it another resource first",
        )
    mapped = session.scalar(select(ServiceMap.user_uid).where(ServiceMap.machine_uid == resource_uid).limit(1))
    if mapped is not None:
        raise StateError(
            f"services on the resource {resource_uid} run as record {mapped}",
            remedy=f"forget them with `pam action service remove -m {resource_uid} -u {mapped} -t all`",
        )
    record_event(
        session,
        clock,
        actor,
        "pam_resource_removed",
        record_uid=resource_uid,
        configuration_uid=link.configuration_uid,
    )
    session.execute(delete(TargetSetAside).where(TargetSetAside.resource_uid == resource_uid))
    session.delete(link)
    session.flush()


def limit(session: Session, clock: Clock, actor: Actor, resource_uid: str, job_limit: int | None) -> ResourceLink:
    """Set how many jobs may be at work on the resource at a time; None: what its configuration says of every target.

    Raises:
        NotFound: it is no resource.
        InvalidInput: the limit is not valid.
    """
    link = session.get(ResourceLink, resource_uid, with_for_update=True)
    if link is None:
        raise NotFound(
            f"record {resource_uid} is not a resource of any PAM configuration", remedy="see `pam config list`"
        )
    link.job_limit = checked_limit(job_limit, "resource", _STOP)
    session.flush()
    record_event(session, clock, actor, "pam_resource_updated", record_uid=resource_uid)
    configuration = require_configuration(session, link.configuration_uid)
    dispatch.refill(session, clock, configuration.gateway_uid)
    return link


def resume(session: Session, clock: Clock, actor: Actor, resource_uid: str) -> tuple[str, ...]:
    """Let a target that was set aside be tried again, and return the jobs that go on; publish them after the commit.

    Raises:
        NotFound: it is no resource.
        StateError: it is not set aside.
    """
    if session.get(ResourceLink, resource_uid) is None:
        raise NotFound(
            f"record {resource_uid} is not a resource of any PAM configuration", remedy="see `pam config list`"
        )
    row = session.get(TargetSetAside, resource_uid)
    if row is None or row.lifted_at is not None:
        raise StateError(f"the target {resource_uid} is not set aside", remedy="nothing to do")
    return set_aside.lift_for_resource(session, clock, actor, resource_uid, by=actor.username)


def check_readable(session: Session, gateway: Gateway, record_uid: str, role: str) -> None:
    """Return when the gateway's application has a share of the record's folder.

    Raises:
        InvalidInput: it has none.
    """
    root_uid = session.scalar(
        select(Folder.root_uid)
        .join(StoredRecord, StoredRecord.folder_uid == Folder.uid)
        .where(StoredRecord.uid == record_uid)
    )
    if session.get(ApplicationShare, (gateway.application_uid, root_uid)) is None:
        raise InvalidInput(
            f"the gateway {gateway.name!r} may not read the {role} record {record_uid}",
            remedy=f"share its folder with `pam app share {gateway.application_uid} {root_uid}`",
        )


def _check_admin(session: Session, resource_uid: str, admin_uid: str) -> None:
    require_record(session, admin_uid, what="admin")
    if admin_uid == resource_uid or session.get(ResourceLink, admin_uid) is not None:
        raise InvalidInput(f"record {admin_uid} is a resource", remedy="give the UID of the admin's user record")


def _check_free(session: Session, link: ResourceLink, configuration_uid: str) -> None:
    if link.configuration_uid == configuration_uid:
        return
    user = session.scalar(
        select(RotationSettings.record_uid).where(RotationSettings.resource_uid == link.resource_uid).limit(1)
    )
    if user is not None:
        raise StateError(
            f"record {user} is rotated on the resource {link.resource_uid} by the PAM configuration"
            f" {link.configuration_uid}",
            remedy="remove its rotation settings first",
        )

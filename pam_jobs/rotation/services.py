"""What runs on machines as a user: who is mapped to which machine, plain; the names themselves, sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor, record_event
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Gateway, PamConfiguration, ResourceLink, RotationSettings, ServiceMap
from pam_jobs.errors import Conflict, InvalidInput, NotFound
from pam_jobs.rotation.configurations import require_record
from pam_jobs.rotation.resources import check_readable
from pam_jobs.rotation.settings import require_settings

__all__ = ["enable_machine", "enable_user", "list_maps", "opted_out", "put", "remove"]

_MOST_MACHINES: Final = 500  # of one user


def list_maps(session: Session, configuration_uid: str | None = None) -> Sequence[tuple[ServiceMap, str]]:
    """Return every mapping with its machine's configuration, by user and machine."""
    query = (
        select(ServiceMap, ResourceLink.configuration_uid)
        .join(ResourceLink, ResourceLink.resource_uid == ServiceMap.machine_uid)
        .order_by(ServiceMap.user_uid, ServiceMap.machine_uid)
    )
    if configuration_uid is not None:
        query = query.where(ResourceLink.configuration_uid == configuration_uid)
    return [(row, uid) for row, uid in session.execute(query)]


def put(
    session: Session,
    clock: Clock,
    actor: Actor,
    user_uid: str,
    machine_uid: str,
    *,
    names: bytes,
    revision: int | None,
) -> ServiceMap:
    """Say what runs on the machine as the user, in place of what was said before.

    Args:
        session: the caller's transaction.
        clock: time of the change.
        actor: who does it.
        user_uid: the user record.
        machine_uid: the machine's record, a resource.
        names: sealed by the user record's key.
        revision: what the client saw last, 0 where there was nothing; None replaces whatever stands.

    Raises:
        NotFound: there is no such record, machine or rotation.
        InvalidInput: the gateway that rotates the user may not read the machine's record, or the user has too many.
        Conflict: somebody changed it meanwhile.
    """
    require_record(session, user_uid, what="user")
    settings = require_settings(session, user_uid)
    link = _require_machine(session, machine_uid)
    gateway = session.get_one(Gateway, session.get_one(PamConfiguration, settings.configuration_uid).gateway_uid)
    for role, uid in (("machine's", machine_uid), ("admin", link.admin_uid)):
        if uid is not None:
            check_readable(session, gateway, uid, role)
    row = session.get(ServiceMap, (user_uid, machine_uid), with_for_update=True)
    if revision is not None and revision != (row.revision if row else 0):
        raise Conflict("somebody else changed the mapping meanwhile", remedy="read it again, then repeat the change")
    if row is None:
        _check_count(session, user_uid)
        row = ServiceMap(user_uid=user_uid, machine_uid=machine_uid, revision=0)
        session.add(row)
    row.names, row.revision, row.updated_at = names, row.revision + 1, clock.now()
    session.flush()
    _tell(session, clock, actor, "pam_services_mapped", link, user_uid)
    return row


def remove(session: Session, clock: Clock, actor: Actor, user_uid: str, machine_uid: str) -> None:
    """Forget what runs on the machine as the user.

    Raises:
        NotFound: nothing is mapped.
    """
    row = session.get(ServiceMap, (user_uid, machine_uid), with_for_update=True)
    if row is None:
        raise NotFound("nothing on this machine is mapped to this user", remedy="see `pam action service list`")
    session.execute(delete(ServiceMap).where(ServiceMap.user_uid == user_uid, ServiceMap.machine_uid == machine_uid))
    _tell(session, clock, actor, "pam_services_unmapped", session.get_one(ResourceLink, machine_uid), user_uid)


def enable_machine(session: Session, clock: Clock, actor: Actor, machine_uid: str, *, is_enabled: bool) -> None:
    """Let rotations update what runs on the machine, or keep them from it.

    Raises:
        NotFound: it is no resource.
    """
    link = _require_machine(session, machine_uid, lock=True)
    link.no_update_services = not is_enabled
    session.flush()
    _tell(session, clock, actor, "pam_services_enabled" if is_enabled else "pam_services_disabled", link, None)


def enable_user(session: Session, clock: Clock, actor: Actor, user_uid: str, *, is_enabled: bool) -> None:
    """Let rotations of the user update what runs as it, or keep them from it.

    Raises:
        NotFound: rotation is not set up for it.
    """
    settings = require_settings(session, user_uid, lock=True)
    settings.no_update_services = not is_enabled
    session.flush()
    event = "pam_services_enabled" if is_enabled else "pam_services_disabled"
    record_event(
        session, clock, actor, event, record_uid=user_uid, configuration_uid=settings.configuration_uid,
    )  # fmt: skip


def opted_out(session: Session) -> tuple[list[str], list[str]]:
    """Return the users and the machines whose services are not updated."""
    users = session.scalars(select(RotationSettings.record_uid).where(RotationSettings.no_update_services))
    machines = session.scalars(select(ResourceLink.resource_uid).where(ResourceLink.no_update_services))
    return sorted(users), sorted(machines)


def _require_machine(session: Session, machine_uid: str, *, lock: bool = False) -> ResourceLink:
    link = session.get(ResourceLink, machine_uid, with_for_update=True if lock else None)
    if link is None:
        raise NotFound(
            f"record {machine_uid} is not a resource of any PAM configuration",
            remedy="link the machine with `pam rotation edit`, or add it by discovery",
        )
    return link


def _check_count(session: Session, user_uid: str) -> None:
    rows = session.scalars(select(ServiceMap.machine_uid).where(ServiceMap.user_uid == user_uid)).all()
    if len(rows) >= _MOST_MACHINES:
        raise InvalidInput(
            f"the user is mapped to {len(rows)} machines already", remedy="use several accounts, or remove machines"
        )


def _tell(session: Session, clock: Clock, actor: Actor, event: str, link: ResourceLink, user_uid: str | None) -> None:
    record_event(
        session, clock, actor, event, record_uid=user_uid,
        resource_uid=link.resource_uid, configuration_uid=link.configuration_uid,
    )  # fmt: skip

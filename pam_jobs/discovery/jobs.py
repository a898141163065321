"""Discovery jobs: one at a time for each PAM configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from pam_jobs.audit.log import Actor
from pam_jobs.clock import Clock
from pam_jobs.db.tables import Gateway, Job, JobKind, PamConfiguration, ResourceLink
from pam_jobs.errors import AlreadyExists, InvalidInput, NotFound
from pam_jobs.ids import check_uid
from pam_jobs.jobs.requests import check_parameters
from pam_jobs.jobs.sql import DISCOVERY
from pam_jobs.jobs.states import OPEN
from pam_jobs.jobs.submission import ON_DEMAND, serialise, submit
from pam_jobs.vault import records

__all__ = ["start"]

_SWITCHES: Final = frozenset({"include_machine_dir_users", "services", "skip_databases", "skip_machines"})
_CREDENTIALS: Final = frozenset({"credential_uids"})


def start(
    session: Session,
    clock: Clock,
    actor: Actor,
    *,
    user_uid: str,
    configuration_uid: str,
    resource_uid: str | None,
    parameters: Mapping[str, Any] | None,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """Submit a discovery of a configuration of the user's; publish its uid after the commit.

    Args:
        session: the caller's transaction.
        clock: the time of submission.
        actor: who asks, for the audit log.
        user_uid: who asks.
        configuration_uid: what to discover, and by which gateway.
        resource_uid: only this machine or database of it.
        parameters: switches such as ``skip_machines``; ``services`` lists what runs as whom on the one machine.
        idempotency_key: the same key finds the same job.

    Raises:
        NotFound: there is no such configuration of the user's, or no such resource of it.
        InvalidInput: the gateway was removed, or the parameters have a wrong form.
        AlreadyExists: a discovery of the configuration is under way.
        Conflict: the idempotency key was used for a different request.
    """
    check_uid(configuration_uid, "configuration UID")
    wanted = check_parameters(parameters, _SWITCHES, _CREDENTIALS)
    records.require(session, user_uid, configuration_uid)
    gateway_uid = _gateway_of(session, configuration_uid)
    if resource_uid is not None:
        _check_resource(session, configuration_uid, resource_uid)
        wanted["resource_uid"] = resource_uid
    elif wanted.get("services"):
        raise InvalidInput("services are listed machine by machine", remedy="name the machine as the resource")
    serialise(session, configuration_uid)
    if idempotency_key is None:
        _check_none_active(session, configuration_uid)
    job, is_new = submit(
        session,
        clock,
        kind=JobKind.DISCOVER,
        record_uid=None,
        configuration_uid=configuration_uid,
        gateway_uid=gateway_uid,
        trigger=ON_DEMAND,
        requested_by=actor,
        parameters=wanted,
        idempotency_key=idempotency_key,
    )
    if is_new and idempotency_key is not None:
        _check_none_active(session, configuration_uid, but=job.uid)
    return job, is_new


def _gateway_of(session: Session, configuration_uid: str) -> str:
    row = session.execute(
        select(Gateway.uid, Gateway.removed_at)
        .join(PamConfiguration, PamConfiguration.gateway_uid == Gateway.uid)
        .where(PamConfiguration.record_uid == configuration_uid)
    ).one_or_none()
    if row is None:
        raise NotFound(
            f"there is no PAM configuration {configuration_uid}", remedy="take the UID from `pam config list`"
        )
    if row.removed_at is not None:
        raise InvalidInput(
            "the configuration's gateway was removed", remedy="give it another one with `pam config edit --gateway`"
        )
    uid: str = row.uid
    return uid


def _check_resource(session: Session, configuration_uid: str, resource_uid: str) -> None:
    link = session.get(ResourceLink, check_uid(resource_uid, "resource UID"))
    if link is None or link.configuration_uid != configuration_uid:
        raise NotFound(
            f"the configuration has no resource {resource_uid}", remedy="take the UID from `pam config list -v`"
        )


def _check_none_active(session: Session, configuration_uid: str, *, but: str = "") -> None:
    active = session.scalar(
        select(Job.uid)
        .where(
            Job.configuration_uid == configuration_uid,
            DISCOVERY,
            Job.state.in_(OPEN),
            Job.uid != but,
        )
        .limit(1)
    )
    if active is not None:
        raise AlreadyExists(
            f"discovery {active} of this configuration is under way",
            remedy=f"wait for it, or cancel it with `pam action discover remove -j {active}`",
        )

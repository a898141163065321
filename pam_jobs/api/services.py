"""What runs on machines as a user: services, scheduled tasks, application pools. The router sees no names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, status
from pydantic import BaseModel, ConfigDict, Field

from pam_jobs.api.auth import Principal, require
from pam_jobs.api.context import Context
from pam_jobs.crypto.blob import Blob
from pam_jobs.db.tables import ResourceLink, ServiceMap
from pam_jobs.rotation import services
from pam_jobs.vault import records
from pam_jobs.vault.models import StrictModel

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["pam"])

_Reader = Annotated[Principal, Depends(require("jobs_read"))]
_Configurer = Annotated[Principal, Depends(require("configure_rotation"))]
_Uid = Annotated[str, Path(max_length=64)]


class ServiceMapChange(StrictModel):
    """What runs on the machine as the user: everything, for it replaces what stands."""

    names: Annotated[Blob, Field(min_length=29, max_length=200_000, description="JSON by the user record's key")]
    revision: int | None = Field(None, ge=0, description="0: there must be none; null: replace whatever stands")


class ServiceMapOut(BaseModel):
    """What runs on one machine as one user."""

    model_config = ConfigDict(from_attributes=True)

    user_uid: str
    machine_uid: str
    configuration_uid: str
    names: Blob
    revision: int
    updated_at: datetime


class ServiceMapList(BaseModel):
    """Every mapping, and who and what is left out when a credential is rotated."""

    services: list[ServiceMapOut]
    disabled_users: list[str]
    disabled_machines: list[str]


class ServiceSwitch(StrictModel):
    """Whether rotations update services."""

    enabled: bool


@router.get("/services")
def list_services(_principal: _Reader, context: Context, configuration_uid: str | None = None) -> ServiceMapList:
    """Return what runs where as whom; only the users' own clients can read the names."""
    with context.database.transaction(read_only=True) as session:
        rows = [_out(row, uid) for row, uid in services.list_maps(session, configuration_uid)]
        users, machines = services.opted_out(session)
        return ServiceMapList(services=rows, disabled_users=users, disabled_machines=machines)


@router.put("/services/{user_uid}/{machine_uid}")
def put_services(
    user_uid: _Uid, machine_uid: _Uid, body: ServiceMapChange, principal: _Configurer, context: Context
) -> ServiceMapOut:
    """Say what runs on a machine as a user."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, user_uid, can_edit=True)
        records.require(session, principal.user_uid, machine_uid, can_edit=True)
        row = services.put(
            session, context.clock, principal.actor(), user_uid, machine_uid,
            names=body.names, revision=body.revision,
        )  # fmt: skip
        return _out(row, session.get_one(ResourceLink, machine_uid).configuration_uid)


@router.delete("/services/{user_uid}/{machine_uid}", status_code=status.HTTP_204_NO_CONTENT)
def remove_services(user_uid: _Uid, machine_uid: _Uid, principal: _Configurer, context: Context) -> None:
    """Forget what runs on a machine as a user."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, user_uid, can_edit=True)
        services.remove(session, context.clock, principal.actor(), user_uid, machine_uid)


@router.put("/resources/{record_uid}/services", status_code=status.HTTP_204_NO_CONTENT)
def switch_machine(record_uid: _Uid, body: ServiceSwitch, principal: _Configurer, context: Context) -> None:
    """Let rotations update what runs on a machine, or keep them from it."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, record_uid, can_edit=True)
        services.enable_machine(session, context.clock, principal.actor(), record_uid, is_enabled=body.enabled)


@router.put("/rotation/{record_uid}/services", status_code=status.HTTP_204_NO_CONTENT)
def switch_user(record_uid: _Uid, body: ServiceSwitch, principal: _Configurer, context: Context) -> None:
    """Let rotations of a user update what runs as it, or keep them from it."""
    with context.database.transaction() as session:
        records.require(session, principal.user_uid, record_uid, can_edit=True)
        services.enable_user(session, context.clock, principal.actor(), record_uid, is_enabled=body.enabled)


def _out(row: ServiceMap, configuration_uid: str) -> ServiceMapOut:
    return ServiceMapOut(
        user_uid=row.user_uid,
        machine_uid=row.machine_uid,
        configuration_uid=configuration_uid,
        names=row.names,
        revision=row.revision,
        updated_at=row.updated_at,
    )

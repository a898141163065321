"""What runs on a machine as an account with a password: read by its administrator, for the mapping."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from connectors.base import Capability, Connector, Credential, Deadline, Unseen
from pam_jobs.errors import InvalidInput, Unsupported
from workers.chain import target_of, through
from workers.lease import Lease
from workers.lockout import Lockout
from workers.places import Places
from workers.ports import JobPort, Ports, VaultRecord
from workers.values import Value

__all__ = ["list_services"]

_LOOK_SECONDS: Final = 120.0


def list_services(
    ports: Ports,
    configuration: VaultRecord,
    machine: VaultRecord | None,
    admin: VaultRecord | None,
    deadline: Deadline,
    *,
    job: JobPort,
    lease: Lease,
) -> dict[str, Any]:
    """Return services and coverage of one machine, in the form in which they are sealed.

    Raises:
        LockoutBudget: the administrator may not be refused any more.
        TargetBusy: others log in as the administrator.
        InvalidInput: the machine is not named, or has no administrator with a credential.
        Unsupported: no connector of the machine can tell.
        NotApplied: with the cause.
    """
    if machine is None:
        raise InvalidInput("the job names no machine", remedy="start it again with the machine's record")
    value = Value.of_record(admin.record) if admin is not None else Value()
    if admin is None or admin.record.login is None or value.is_empty:
        raise InvalidInput(
            "the machine has no administrator to log in with", remedy="name one with `pam rotation edit --admin-user`"
        )
    target = target_of(machine.record, configuration.record)
    credential = Credential(
        login=admin.record.login,
        password=value.password,
        private_key=value.private_key,
        distinguished_name=admin.record.field("text", "distinguishedName"),
    )
    lockout = partial(Lockout.of, target.options)
    places = Places(job, "admin", lockout, lease=lease, doors=ports.administrators)
    found: list[dict[str, str]] = []
    coverage: list[dict[str, str]] = []

    def look(connector: Connector) -> None:
        if Capability.DEPENDANTS not in connector.capabilities:
            raise Unsupported(f"{connector.name} knows of no services")
        found.clear()
        coverage.clear()
        with places.enter(connector, target, credential, Deadline(deadline.remaining(_LOOK_SECONDS))) as session:
            for seen in session.dependants():
                if isinstance(seen, Unseen):
                    coverage.append({"what": seen.what, "cause": seen.cause, "detail": seen.detail})
                else:
                    found.append({"type": seen.kind, "name": seen.name, "user": seen.account})

    through(ports.chain_for(target.protocol, target.options.get("operatingSystem")), target.protocol, look)
    return {"objects": [], "machine_uid": machine.uid, "services": found, "coverage": coverage}

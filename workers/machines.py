"""One machine on which services run as the job's user: its records, its administrator, and how it shows the account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from connectors.base import Connector, Deadline, RunAs, Session, Target
from pam_jobs.errors import InvalidInput, NotFound, Unreachable
from pam_jobs.jobs import wire
from pam_jobs.records.run_as import names_on
from pam_jobs.secret import SecretValue
from workers.administrator import Administrator
from workers.chain import target_of
from workers.lockout import Lockout
from workers.places import Places
from workers.ports import VaultRecord
from workers.values import Value
from workers.work import Work

__all__ = ["Machine", "SetAside"]


class SetAside(Unreachable):
    """The machine is set aside, because its administrator was refused."""

    code = "target_set_aside"


@dataclass(kw_only=True)
class Machine:
    """A machine that can be logged in to."""

    work: Work
    link: wire.ServiceLink
    record: VaultRecord = field(repr=False)
    target: Target
    open: Callable[[Connector, Deadline], Session]
    administrator: Administrator | None

    @classmethod
    def of(cls, work: Work, link: wire.ServiceLink, value: Value) -> Machine:
        """Read the machine's records.

        Args:
            work: the job.
            link: the machine.
            value: the user's own, where it administers the machine itself.

        Raises:
            SetAside: nothing is tried there now.
            NotFound: the gateway may not read a record.
            InvalidInput: the records do not say where the machine is, or it has no administrator.
            VaultUnavailable: the vault is away.
        """
        if link.is_set_aside:
            raise SetAside(remedy="correct the administrator's record, or run `pam action resume-target`")
        record, admin = _records(work, link)
        target = target_of(record.record, work.configuration.record)
        administrator = _administrator(work, link, admin, target)

        def enter(connector: Connector, deadline: Deadline) -> Session:
            if administrator is not None:
                return administrator.open(connector, target, deadline)
            lockout = partial(Lockout.of, target.options)
            own = Places(work.job, "account", lockout, lease=work.lease, doors=work.ports.administrators)
            return own.enter(connector, target, value.credential(work.account), deadline)

        return cls(work=work, link=link, record=record, target=target, open=enter, administrator=administrator)

    @property
    def key(self) -> str:
        """The machine's name for breaker and logs."""
        return f"{self.target.host}:{self.target.port}"

    def run_as(self, password: SecretValue) -> RunAs:
        """Return the user's account as this machine may show it.

        Raises:
            Unsupported: it is a local account of another machine.
        """
        work = self.work
        place = work.resource
        is_here = place is not None and place.uid == self.link.machine_uid
        names = names_on(self.record.record, work.user.record, place.record if place else None, is_here=is_here)
        return RunAs(names=names, password=password)


def _records(work: Work, link: wire.ServiceLink) -> tuple[VaultRecord, VaultRecord | None]:
    wanted = [uid for uid in (link.machine_uid, link.admin_uid) if uid and uid != work.user.uid]
    if work.resource is not None and link.machine_uid == work.resource.uid and link.admin_uid == work.claim.admin_uid:
        return work.resource, work.admin
    found = work.ports.vault.fetch(wanted)
    for uid in wanted:
        if uid not in found:
            raise NotFound(
                f"the gateway cannot read the record {uid}", remedy="share its folder with the gateway's application"
            )
    return found[link.machine_uid], found.get(link.admin_uid or "")


def _administrator(
    work: Work, link: wire.ServiceLink, admin: VaultRecord | None, target: Target
) -> Administrator | None:
    """Return who logs in to the machine; None where the user itself is its administrator."""
    if link.admin_uid is None:
        raise InvalidInput(
            "the machine has no administrator who could update its services",
            remedy="name one with `pam rotation edit --admin-user`",
        )
    if admin is None or admin.uid == work.user.uid:
        return None
    if work.resource is not None and link.machine_uid == work.resource.uid and work.administrator is not None:
        return work.administrator

    doors = work.ports.administrators
    lockout = partial(Lockout.of, target.options)
    return Administrator(
        admin,
        job=work.job,
        vault=work.ports.vault,
        doors=doors,
        places=Places(work.job, "admin", lockout, lease=work.lease, doors=doors, machine_uid=link.machine_uid),
        claimed_at=work.lease.claimed_at,
        journal=lambda: work.ports.journal.of(admin.uid),
        machine_uid=link.machine_uid,
    )

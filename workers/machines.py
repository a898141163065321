"""One machine on which services run as the job's user: its records, its administrator, and how it shows the account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from connectors.base import Connector, Deadline, RunAs, Session, Target
from pam_jobs.errors import InvalidInput, NotFound, Unreachable, Unsupported
from pam_jobs.jobs import wire
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from workers.administrator import Administrator
from workers.chain import target_of
from workers.lockout import Budget, Lockout
from workers.ports import VaultRecord
from workers.values import Value
from workers.work import Work

__all__ = ["Machine", "SetAside", "names_of"]

_ALTERNATIVE: Final = "Alternative Login"


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
            return connector.open(target, value.credential(work.account), deadline)

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
        return RunAs(names=names_of(self.work, self.record), password=password)


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

    def lockout() -> Lockout:
        return Lockout.of(target.options)

    return Administrator(
        admin,
        job=work.job,
        vault=work.ports.vault,
        doors=work.ports.administrators,
        budget=Budget(work.job, "admin", link.refusals_left, lockout, machine_uid=link.machine_uid),
        claimed_at=work.lease.claimed_at,
        journal=lambda: work.ports.journal.of(admin.uid),
        machine_uid=link.machine_uid,
    )


def names_of(work: Work, machine: VaultRecord) -> tuple[str, ...]:
    """Return how the machine may show the user's account.

    A bare name on another machine would be that machine's own account, whose password is another one: it does not count.

    Raises:
        Unsupported: it is a local account of another machine.
    """
    login = work.login
    names: list[str] = []
    if "\\" in login or "@" in login:
        names += _spellings(login)
    elif work.resource is not None and work.resource.record.type == "pamDirectory":
        domain = _domain(work.resource.record)
        if domain:
            names += [f"{login}@{domain}", f"{domain}\\{login}", f"{domain.partition('.')[0]}\\{login}"]
    elif work.resource is not None and work.resource.uid == machine.uid:
        host = (machine.record.host or "").partition(".")[0]
        names += [f".\\{login}", login, f"{host}\\{login}"]
    if (alternative := work.user.record.custom(_ALTERNATIVE)) is not None:
        names += _spellings(alternative)
    if not names:
        raise Unsupported(
            "the account belongs to another machine, and nothing on this one can run as it",
            remedy="write the login as DOMAIN\\user or user@domain, or remove the mapping",
        )
    return tuple(dict.fromkeys(names))


def _domain(directory: Record) -> str | None:
    domain = directory.field("text", "domainName")
    return domain.strip() or None if isinstance(domain, str) else None


def _spellings(login: str) -> list[str]:
    """Return a login with its domain, and the other way to write it."""
    if "\\" in login:
        domain, _, user = login.partition("\\")
        return [login] + ([f"{user}@{domain}"] if domain not in {"", "."} else [])
    user, _, domain = login.partition("@")
    return [login, f"{domain}\\{user}", f"{domain.partition('.')[0]}\\{user}"] if domain else [login]

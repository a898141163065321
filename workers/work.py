"""One job, with everything it needs to know: the claim, the records in clear, the ledger's values and the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from connectors.base import Account, Connector, Deadline, Session, Target
from connectors.saas.connector import SaasConnector, target_of_service
from pam_jobs.crypto import aes
from pam_jobs.errors import InvalidInput, NotFound, StateError
from pam_jobs.jobs import wire
from pam_jobs.records.complexity import Complexity
from pam_jobs.records.rollback import RollbackFlags
from workers.administrator import Administrator
from workers.budget import Budget
from workers.chain import kind_of, target_of
from workers.lease import Lease
from workers.lockout import Lockout
from workers.places import Places
from workers.ports import JobPort, Ports, VaultRecord
from workers.values import Value

__all__ = ["Version", "Work", "load_work"]


@dataclass(frozen=True, kw_only=True)
class Version:
    """A row of the ledger in clear."""

    seq: int
    state: str
    value: Value = field(repr=False)
    ciphertext: bytes = field(repr=False)  # as it was staged
    kind: str = "credential"


@dataclass(kw_only=True)
class Work:
    """A claimed job about one user record.

    Its records never change, only ``replace`` gives other ones: so what is read out of them is read once.
    """

    claim: wire.Claim
    job: JobPort
    lease: Lease
    ports: Ports
    deadline: Deadline
    user: VaultRecord
    configuration: VaultRecord
    resource: VaultRecord | None
    service: VaultRecord | None  # the SaaS configuration of the profile saas
    admin: VaultRecord | None  # None: the account changes itself
    administrator: Administrator | None  # None: the account changes itself
    budget: Budget  # of the account itself
    versions: tuple[Version, ...]  # newest first
    finding: wire.AdminFinding | None = None  # what the router must know of an administrator
    stage: str = ""  # begins the names of the instants: "rollback:"

    @property
    def login(self) -> str:
        """The account's login name.

        Raises:
            InvalidInput: the record has none.
        """
        login = self.user.record.login
        if login is None:
            raise InvalidInput("the user record has no login", remedy="set the login of the record")
        return login

    @cached_property
    def account(self) -> Account:
        """The account whose credential it is."""
        record = self.user.record
        return Account(
            login=self.login,
            record_uid=self.user.uid,
            distinguished_name=record.field("text", "distinguishedName"),
            database=record.field("text", "connectDatabase"),
        )

    @cached_property
    def target(self) -> Target:
        """Where the account is.

        Raises:
            InvalidInput: the records do not say.
        """
        if self.service is not None:
            return target_of_service(self.service.record, self.service.uid)
        if self.resource is None:
            raise InvalidInput("the job names no resource", remedy="set the resource in the rotation settings")
        return target_of(self.resource.record, self.configuration.record, self.user.record)

    @cached_property
    def target_key(self) -> str:
        """The target's name for breaker and logs."""
        target = self.target
        return f"{target.host}:{target.port}"

    @property
    def chain(self) -> Sequence[Connector]:
        """The connectors for the target, in order."""
        if self.service is not None:
            clears_up = self.rollback_flags.on_saas_fail
            return [SaasConnector(self.ports.saas, self.service.record, self.configuration.record, clears_up=clears_up)]
        target = self.target
        return self.ports.chain_for(target.protocol, kind_of(target))

    @property
    def rollback_flags(self) -> RollbackFlags:
        """What is to be done about a rotation that failed halfway.

        Raises:
            InvalidInput: a field says neither yes nor no.
        """
        resource = self.resource.record if self.resource else None
        return RollbackFlags.of(self.user.record, resource, self.configuration.record)

    @property
    def is_self(self) -> bool:
        """Say whether the account changes its own credential."""
        return self.service is None and (self.admin is None or self.admin.uid == self.user.uid)

    @property
    def has_target(self) -> bool:
        """Say whether there is anything to log in to."""
        return self.resource is not None or self.service is not None

    def open(self, connector: Connector, own: Value | None = None) -> Session:
        """Log in as who changes the account: the resource's administrator, or the account itself.

        Args:
            connector: speaks to the target.
            own: the value that logs in when the account changes itself; None: what the record says.

        Raises:
            InvalidInput: there is nothing to log in with.
            AdminRefused: the target refused the administrator.
            LockoutBudget: no login may be refused any more.
            TargetBusy: others log in as the same account, or wait to.
            NotApplied: with the cause; nothing on the target changed.
        """
        if self.administrator is not None:
            return self.administrator.open(connector, self.target, self.deadline)
        value = own or self.current
        if self.service is not None:  # the plugin logs in with its configuration, and is told what was before
            return connector.open(self.target, value.credential(self.account), self.deadline)
        if value.is_empty:
            raise InvalidInput("the account has no credential to log in with", remedy="name an admin of the resource")
        return self.budget.enter(connector, self.target, value.credential(self.account), self.deadline)

    @cached_property
    def lockout(self) -> Lockout:
        """The target's own rule of how many logins may be refused.

        Raises:
            InvalidInput: it is not in the known form.
        """
        return Lockout.of(self.target.options) if self.has_target else Lockout()

    @cached_property
    def current(self) -> Value:
        """What is believed to log in: the record's own credential, which an operator may have edited."""
        return Value.of_record(self.user.record)

    @property
    def current_seq(self) -> int | None:
        """The ledger's number of the current value; None when the record says something else."""
        for version in self.versions:
            if version.state == "current" and self.current.covers(version.value):
                return version.seq
        return None

    @property
    def unresolved(self) -> Version | None:
        """The version that an earlier attempt left.

        Raises:
            StateError: a client's own transaction is open on the record.
        """
        for version in self.versions:
            if version.state in {"staged", "applying"}:
                if version.kind != "credential":
                    raise StateError(
                        "a client's update of the record is staged and not finished",
                        remedy="finalize or roll back that update, then rotate",
                    )
                return version
        return None

    @property
    def older(self) -> tuple[Value, ...]:
        """Earlier values, newest first: those of the ledger that are neither current nor undecided."""
        kept = [version.value for version in self.versions if version.state in {"current", "previous"}]
        return tuple(value for value in kept if not value.is_empty and not self.current.covers(value))

    @property
    def complexity(self) -> Complexity:
        """The rule for new passwords.

        Raises:
            InvalidInput: it is not in the known form.
        """
        if self.claim.complexity is None:
            return Complexity()
        return Complexity.parse(aes.decrypt(self.claim.complexity, self.user.key).decode())

    def switch(self, name: str) -> bool:
        """Say whether the job was submitted with this switch on."""
        return self.claim.parameters.get(name) is True

    def going_on(self, user: VaultRecord, current: Version | None) -> Work:
        """Return the job once its undecided version is decided.

        Args:
            user: the record as it is now.
            current: the version that was promoted; None: it was given up.
        """
        decided = [version for version in self.versions if version.state not in {"staged", "applying"}]
        if current is None:
            return replace(self, user=user, versions=tuple(decided))
        former = [replace(each, state="previous") if each.state == "current" else each for each in decided]
        return replace(self, user=user, versions=(replace(current, state="current"), *former))

    def with_ledger(self, user: VaultRecord, rows: Sequence[wire.LedgerVersion]) -> Work:
        """Return the job with the record and the ledger's rows as they are now."""
        claim = self.claim.model_copy(update={"versions": list(rows)})
        return replace(self, claim=claim, user=user, versions=tuple(_version(row, user.key) for row in rows))

    def before(self, seq: int) -> Value | None:
        """Return what the parts of a version were before it; None where the ledger does not tell of each of them."""
        rotated = next((version.value for version in self.versions if version.seq == seq), None)
        if rotated is None:
            return None
        former = Value()
        for version in self.versions:
            if version.seq < seq and version.state == "previous":
                former = former.merged_over(version.value)
        found = former.like(rotated)
        return found if not found.is_empty and found.has_parts_of(rotated) else None

    def note(self, version: Version, state: str) -> None:
        """Write into the gateway's journal how a version stands.

        Args:
            version: a value of this engine.
            state: ``applying`` (durable on return), ``current`` or ``abandoned``.
        """
        journal, claim = self.ports.journal, self.claim
        who = (self.user.uid, claim.job_uid)
        if state == "abandoned":
            journal.abandoned(*who, epoch=claim.epoch, seq=version.seq)
            return
        keep = journal.applying if state == "applying" else journal.current
        keep(*who, epoch=claim.epoch, seq=version.seq, ciphertext=version.ciphertext)

    def reach(self, boundary: str) -> None:
        """Pass a named instant."""
        self.ports.boundary(self.stage + boundary)


def load_work(
    claim: wire.Claim,
    records: Mapping[str, VaultRecord],
    job: JobPort,
    lease: Lease,
    ports: Ports,
    deadline: Deadline,
) -> Work:
    """Read what is missing of the job's records, in one request, and open the ledger's values.

    Args:
        claim: of the job.
        records: those that came with the claim.
        job: the calls on the job.
        lease: holds it.
        ports: everything outside.
        deadline: of the attempt.

    Raises:
        NotFound: a record is not shared with the gateway's application.
        VaultError: the vault could not be read.
    """
    if claim.record_uid is None:
        raise InvalidInput("the job names no user record", remedy="submit it again")
    named = claim.record_uids
    missing = [uid for uid in named.values() if uid not in records]
    found = {**records, **(ports.vault.fetch(missing) if missing else {})}
    for what, uid in named.items():
        if uid not in found:
            raise NotFound(
                f"the gateway cannot read the {what} record {uid}",
                remedy="share its folder with the gateway's application",
            )
    user = found[claim.record_uid]

    def lockout() -> Lockout:
        return work.lockout

    own = Places(job, "account", lockout, lease=lease, doors=ports.administrators) if claim.administers else None
    work = Work(
        claim=claim,
        job=job,
        lease=lease,
        ports=ports,
        deadline=deadline,
        user=user,
        configuration=found[claim.configuration_uid],
        resource=found.get(named.get("resource", "")),
        service=found.get(named.get("SaaS configuration", "")),
        admin=found.get(named.get("admin", "")),
        administrator=None,
        budget=Budget(job, claim.refusals_left, lockout, own),
        versions=tuple(_version(row, user.key) for row in claim.versions),
    )
    if work.admin is not None and not work.is_self:
        work.administrator = Administrator(
            work.admin,
            job=job,
            vault=ports.vault,
            doors=ports.administrators,
            places=Places(job, "admin", lockout, lease=lease, doors=ports.administrators),
            claimed_at=lease.claimed_at,
            journal=lambda: ports.journal.of(claim.admin_uid or ""),
        )
    return work


def _version(row: wire.LedgerVersion, key: bytes) -> Version:
    value = Value.open(row.ciphertext, key, row.kind)
    return Version(seq=row.seq, state=row.state, value=value, ciphertext=row.ciphertext, kind=row.kind)

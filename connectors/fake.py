"""A target in memory, with every fault at the turn of a switch: for tests, simulations and people writing connectors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import ClassVar

from connectors import fake_services
from connectors.base import (
    Account,
    AccountMetadata,
    Candidate,
    Capability,
    Connector,
    Credential,
    Deadline,
    Dependant,
    DependantOutcome,
    DependantState,
    Fence,
    Finding,
    Preflight,
    RunAs,
    Service,
    Session,
    Target,
    Unseen,
    Verdict,
    VerdictState,
)
from connectors.fake_services import FakeService
from pam_jobs.errors import (
    AuthRejected,
    ConnectionLost,
    Effect,
    Forbidden,
    Locked,
    PartlyApplied,
    PolicyRefused,
    TimedOutAfterSend,
    Unreachable,
    Unsupported,
)
from pam_jobs.records.keys import public_of

__all__ = ["FakeAccount", "FakeConnector", "FakeService", "FakeSession", "FakeTarget"]


@dataclass(kw_only=True)
class FakeAccount:
    """One account of a fake target."""

    password: str | None = field(default=None, repr=False)
    public_keys: list[str] = field(default_factory=list)  # "type base64 comment", in the order of the file
    is_admin: bool = False
    is_locked: bool = False
    last_set: datetime | None = None
    former: list[str] = field(default_factory=list, repr=False)  # passwords that were set before, the oldest first


@dataclass(kw_only=True)
class FakeTarget:
    """The state of a target and its faults; the switches take effect at once."""

    accounts: dict[str, FakeAccount] = field(default_factory=dict)
    is_down: bool = False  # nobody answers
    hides_locks: bool = False  # a locked account is refused like a wrong password; an admin sees that it is locked
    hang_seconds: float = 0.0  # every answer comes late; beyond the deadline it counts as none
    cut_after_send: int = 0  # so many next changes are applied and their answer is lost
    cut_before_apply: int = 0  # so many next changes are lost on the way, and look just the same
    refuse_every: int = 0  # every nth change is refused by policy; 0 never
    refuse_part: str = ""  # "password" or "key": never taken; a change of both sets the other part first
    remember: bool = False  # a password that the account had before is refused by policy
    has_grace: bool = False  # the password before goes on to log in, as in a directory
    throttle_probes: int = 0  # so many next logins are turned away before the credential is looked at
    services: list[FakeService] = field(default_factory=list)
    domain: FakeTarget | None = None  # whose accounts services may run as; None: this target's
    cut_updates: int = 0  # so many next updates of services are done and their answer is lost
    changes: int = 0  # changes that reached the target
    logins: int = 0  # logins that were looked at
    fences: int = 0  # fences called by sessions
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)


class FakeConnector(Connector):
    """Passwords and keys of accounts in memory; targets are told apart by host and port."""

    name: ClassVar[str] = "fake"
    protocols: ClassVar[frozenset[str]] = frozenset({"fake"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.CHANGE,
            Capability.PROBE,
            Capability.KEYS,
            Capability.DISCOVER,
            Capability.METADATA,
            Capability.DEPENDANTS,
        }
    )

    def __init__(self) -> None:
        """Start with no target."""
        self._targets: dict[tuple[str, int], FakeTarget] = {}

    def add(self, host: str, port: int, target: FakeTarget) -> FakeTarget:
        """Put a target at an address and return it."""
        self._targets[host, port] = target
        return target

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> FakeSession:
        """Log in as the rotator.

        Raises:
            NotApplied: with the cause.
        """
        fake = self._targets.get((target.host, target.port))
        if fake is None:
            raise Unreachable("there is no fake target at this address", remedy="add it to the connector")
        session = FakeSession(fake, rotator, deadline)
        session.log_in()
        return session

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:  # noqa: ARG002
        """Return the service when a fake target is there and up."""
        fake = self._targets.get((host, port))
        return None if fake is None or fake.is_down else Service(protocol="fake", banner="fake target")


class FakeSession(Session):
    """A session on a fake target."""

    def __init__(self, target: FakeTarget, rotator: Credential | None, deadline: Deadline) -> None:
        self._target = target
        self._rotator = rotator
        self._deadline = deadline

    def log_in(self) -> None:
        """Log in as the rotator, unless there is none.

        Raises:
            NotApplied: with the cause.
        """
        if self._rotator is None:
            return
        self._answer("the login")
        verdict = self._look_at(self._rotator)
        if verdict.state is VerdictState.LOCKED:
            raise Locked("the rotator is locked", remedy="unlock it on the target")
        if verdict.state is not VerdictState.ACCEPTED:
            raise AuthRejected("the rotator was refused", remedy="check the admin's record")

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed."""
        self._answer("the check")
        with self._target.lock:
            self._changeable(account)
        return Preflight(server="fake", is_self=self._is_self(account), account_exists=True)

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the candidate, or fail as the switches say."""
        self._answer("the change was sent")
        with self._target.lock:
            changed = self._changeable(account)
        if candidate.password is not None and not candidate.password:
            raise PolicyRefused("an empty password is refused", remedy="change the record's complexity")
        self._target.fences += 1
        fence()
        with self._target.lock:
            self._target.changes += 1
            if self._target.refuse_every and self._target.changes % self._target.refuse_every == 0:
                raise PolicyRefused("the fake target refuses this value", remedy="generate another one")
            if self._target.remember and candidate.password and candidate.password.reveal() in changed.former:
                raise PolicyRefused("the fake target knows this password already", remedy="generate another one")
            if self._target.cut_before_apply:
                self._target.cut_before_apply -= 1
                raise ConnectionLost
            taken = _without(candidate, self._target.refuse_part)
            _apply(changed, taken)
            if taken is not candidate:
                raise PartlyApplied(
                    f"the fake target refuses a {self._target.refuse_part}",
                    changed="password" if self._target.refuse_part == "key" else "private_key",
                )
            if self._target.cut_after_send:
                self._target.cut_after_send -= 1
                raise ConnectionLost
        if self._late():
            raise TimedOutAfterSend
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:  # noqa: ARG002
        """Log in once with the credential."""
        if self._target.is_down or self._late():
            return Verdict(state=VerdictState.UNKNOWN, cause="unreachable", detail="the fake target does not answer")
        with self._target.lock:
            if self._target.throttle_probes:
                self._target.throttle_probes -= 1
                return Verdict(state=VerdictState.UNKNOWN, cause="throttled", detail="the fake target is busy")
        return self._look_at(credential)

    def metadata(self, account: Account) -> AccountMetadata:
        """Return what is known of the account."""
        self._answer("the look")
        found = self._target.accounts.get(account.login)
        return AccountMetadata(last_set=found.last_set, locked=found.is_locked) if found else AccountMetadata()

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield every account, in order of name."""
        self._answer("the look")
        for login, account in sorted(self._target.accounts.items()):
            yield Finding(kind="users", name=login, facts={"admin": account.is_admin, "locked": account.is_locked})

    def dependants(self) -> Iterator[Dependant | Unseen]:
        """Yield every service, in its order."""
        self._answer("the look")
        for service in self._target.services:
            yield Dependant(kind=service.kind, name=service.name, account=service.account)

    def update_dependant(self, dependant: Dependant, run_as: RunAs, fence: Fence) -> DependantOutcome:
        """Give a service the new password, and restart it with what depends on it."""
        self._answer("the update")
        fence()
        with self._target.lock:
            outcome = fake_services.update(self._target.services, self._live_password, dependant, run_as)
            if self._target.cut_updates:
                self._target.cut_updates -= 1
                return DependantOutcome(state=DependantState.UNKNOWN, cause="connection_lost")
        return outcome

    def close(self) -> None:
        """Nothing is open."""

    def _live_password(self, shown: str) -> str | None:
        """Return the password of the account that a service runs as."""
        accounts = (self._target.domain or self._target).accounts
        found = accounts.get(shown.rpartition("\\")[2].partition("@")[0])
        return found.password if found else None

    def _is_self(self, account: Account) -> bool:
        return self._rotator is not None and self._rotator.login == account.login

    def _late(self) -> bool:
        """Wait as the switch says; say whether the deadline came first."""
        if self._target.hang_seconds:
            time.sleep(min(self._target.hang_seconds, self._deadline.remaining()))
        return self._deadline.is_over

    def _answer(self, what: str) -> None:
        """Wait for the target.

        Raises:
            Unreachable: it is down, or too slow.
        """
        if self._target.is_down:
            raise Unreachable("the fake target is down", remedy="turn it on")
        self._late()
        self._deadline.check(what)

    def _changeable(self, account: Account) -> FakeAccount:
        """Return the account when the rotator may change it.

        Raises:
            Unsupported: there is no rotator, or no such account.
            Forbidden: the rotator is neither an admin nor the account itself.
        """
        if self._rotator is None:
            raise Unsupported("this session has no rotator, so it can only probe", remedy="give the resource an admin")
        found = self._target.accounts.get(account.login)
        if found is None:
            raise Unsupported(f"there is no account {account.login!r}", remedy="check the login in the user record")
        if not self._is_self(account) and not self._target.accounts[self._rotator.login].is_admin:
            raise Forbidden("the rotator may not change this account", remedy="make it an admin")
        return found

    def _look_at(self, credential: Credential) -> Verdict:
        with self._target.lock:
            self._target.logins += 1
            account = self._target.accounts.get(credential.login)
            if account is not None and account.is_locked:
                if self._target.hides_locks:
                    return Verdict(state=VerdictState.REFUSED, cause="wrong_credential")
                return Verdict(state=VerdictState.LOCKED, cause="locked")
            parts = [] if account is None else list(_parts(account, credential, has_grace=self._target.has_grace))
        if not parts or not any(parts):
            return Verdict(state=VerdictState.REFUSED, cause="wrong_credential", detail="the fake target refused it")
        return Verdict(state=VerdictState.ACCEPTED if all(parts) else VerdictState.PARTIAL)


def _parts(account: FakeAccount, credential: Credential, *, has_grace: bool) -> Iterator[bool]:
    """Yield for each part of the credential whether it logs in."""
    if credential.password is not None:
        taken = [account.password, *(account.former[-1:] if has_grace else [])]
        yield credential.password.reveal() in taken
    if credential.private_key is not None:
        public = public_of(credential.private_key)
        yield any(line.split()[:2] == public.split() for line in account.public_keys)


def _without(candidate: Candidate, part: str) -> Candidate:
    """Return the candidate without a part that is refused.

    Raises:
        Forbidden: nothing would be left of it.
    """
    has_password, has_key = candidate.password is not None, candidate.public_key is not None
    if not ((part == "password" and has_password) or (part == "key" and has_key)):
        return candidate
    if not (has_password and has_key):
        raise Forbidden(f"the fake target refuses a {part}", remedy="turn the switch off")
    return Candidate(password=candidate.password) if part == "key" else replace(candidate, password=None)


def _apply(account: FakeAccount, candidate: Candidate) -> None:
    if candidate.password is not None:
        if account.password is not None and account.password != candidate.password.reveal():
            account.former.append(account.password)
        account.password = candidate.password.reveal()
    if candidate.public_key is not None:
        comment = candidate.key_comment or ""
        kept = [line for line in account.public_keys if line.split()[2:] != [comment]]
        account.public_keys = [*kept, f"{candidate.public_key} {comment}".strip()]
    account.last_set = datetime.now(UTC)

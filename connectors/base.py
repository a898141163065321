"""The interface of a connector: it does I/O and reports; it never generates, stores, retries or decides.

A connector is stateless and shared between threads; a session belongs to one thread and one target.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from pam_jobs.errors import Effect, Unreachable, Unsupported
from pam_jobs.secret import SecretValue

__all__ = [
    "UNPROVABLE",
    "Account",
    "AccountMetadata",
    "Candidate",
    "Capability",
    "CommandResult",
    "Connector",
    "Credential",
    "Deadline",
    "Dependant",
    "DependantOutcome",
    "DependantState",
    "Fence",
    "Finding",
    "LoginGuard",
    "Preflight",
    "RunAs",
    "Service",
    "Session",
    "Target",
    "Unseen",
    "Verdict",
    "VerdictState",
]

Fence = Callable[[], None]
"""Called once, immediately before the first irreversible byte; raises ``LeaseLost`` or ``EpochConflict`` to forbid it."""

LoginGuard = Callable[[], AbstractContextManager[object]]
"""Entered before a login is made, and left when it has ended, by ``AuthRejected`` where the target refused it."""


class Capability(StrEnum):
    """What a connector can do; the contract suite tests each one it claims."""

    CHANGE = "change"  # set an account's password
    PROBE = "probe"  # log in with a credential
    KEYS = "keys"  # set an account's SSH key
    DISCOVER = "discover"  # list accounts of a target
    DEPENDANTS = "dependants"  # update services and tasks that run as an account
    METADATA = "metadata"  # read last-set, locked, disabled, expiry without a login as the account
    RUN_SCRIPT = "run_script"  # run a script on the machine itself


class Deadline:
    """An instant on the monotonic clock after which nothing new is started."""

    def __init__(self, seconds: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start the countdown now.

        Args:
            seconds: time allowed, greater than 0.
            monotonic: the clock, in seconds.
        """
        self._monotonic = monotonic
        self._end = monotonic() + seconds

    def remaining(self, cap_seconds: float | None = None) -> float:
        """Return the seconds left, never below 0.05 so that a driver's timeout stays valid.

        Args:
            cap_seconds: the largest answer wanted, such as a connect timeout.
        """
        left = max(0.05, self._end - self._monotonic())
        return left if cap_seconds is None else min(left, cap_seconds)

    @property
    def is_over(self) -> bool:
        """Say whether the time is used up."""
        return self._monotonic() >= self._end

    def check(self, what: str) -> None:
        """Stop before a step that has not begun.

        Raises:
            Unreachable: the time is used up; the step was not started, so nothing changed.
        """
        if self.is_over:
            raise Unreachable(
                f"the time limit ended before {what}", remedy="raise the job's time limit or look at the target's load"
            )


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to connect, from the resource record and the port mapping."""

    host: str
    port: int  # 1 to 65535
    protocol: str  # label of the port mapping: ssh, postgresql, …
    use_ssl: bool = False  # demand TLS with a verified certificate
    database: str | None = None  # connectDatabase of the resource
    host_keys: tuple[str, ...] = ()  # accepted SSH host keys, "type base64"; empty: see options["host_key_policy"]
    options: Mapping[str, str] = field(default_factory=dict)  # custom fields by label: Shell, Kerberos, …


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What logs in somewhere. At least one of password and private_key is present."""

    login: str
    password: SecretValue | None = None
    private_key: SecretValue | None = None  # PEM (OpenSSH or PKCS#8), unencrypted
    distinguished_name: str | None = None
    database: str | None = None  # connectDatabase of the user record
    guard: LoginGuard | None = field(default=None, repr=False, compare=False)

    def logging_in(self) -> AbstractContextManager[object]:
        """Return the context in which a rotator's new connection logs in; a kept one is taken without.

        What entering it raises says that the login must not be made now, and comes through ``Connector.open`` as it is.
        """
        return nullcontext() if self.guard is None else self.guard()


@dataclass(frozen=True, kw_only=True)
class Account:
    """The account whose credential is changed."""

    login: str
    record_uid: str
    distinguished_name: str | None = None
    database: str | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The value to set. At least one of password and private_key is present."""

    password: SecretValue | None = None
    private_key: SecretValue | None = None  # PEM, for the probe
    public_key: str | None = None  # "type base64", what goes to authorized_keys, without comment
    key_comment: str | None = None  # "keeper-security-<record uid>", marks the line that later rotations replace

    def credential(self, account: Account) -> Credential:
        """Return the candidate as a credential of the account."""
        return Credential(
            login=account.login,
            password=self.password,
            private_key=self.private_key,
            distinguished_name=account.distinguished_name,
            database=account.database,
        )


UNPROVABLE: Final = "unprovable"
"""Cause of an UNKNOWN verdict where no login can ever be tried from here: the target's answer to a change is all there is."""


class VerdictState(StrEnum):
    """The outcome of one login."""

    ACCEPTED = "accepted"  # every part of the credential logs in
    PARTIAL = "partial"  # some parts log in, others are refused (password yes, key no)
    REFUSED = "refused"  # the target said no to the credential itself
    LOCKED = "locked"  # the account is locked; says nothing of the credential
    UNKNOWN = "unknown"  # unreachable, throttled, cut off: says nothing


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a probe learned; ``cause`` is a stable code, ``detail`` a sentence without any secret."""

    state: VerdictState
    cause: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What is known before a change; nothing was changed to learn it."""

    server: str = ""  # software and version as the target tells
    may_change: bool = True
    is_self: bool = False  # the rotator and the account are the same
    account_exists: bool | None = None
    min_length: int | None = None  # of the target's password policy, where it can be read
    max_length: int | None = None
    forbidden_characters: str = ""
    forbidden_words: tuple[str, ...] = ()  # what a password does not hold, whatever its case, such as parts of names
    min_classes: int | None = None  # of capital letters, small letters, digits, others


@dataclass(frozen=True, kw_only=True)
class AccountMetadata:
    """What the target tells of an account without a login as it; None = the target does not tell."""

    last_set: datetime | None = None
    locked: bool | None = None
    disabled: bool | None = None
    expires: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Service:
    """What listens on a port, as recognised by its own protocol."""

    protocol: str
    banner: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)  # such as "host_key" of an SSH server


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing discovery saw."""

    kind: str  # users, machines, databases, directories
    name: str
    facts: Mapping[str, str | bool | int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """One thing discovery could not look at, and why."""

    what: str
    cause: str  # unreachable, refused, not_permitted, not_parsed, timed_out
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """How a command on the machine ended."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, kw_only=True)
class Dependant:
    """One object of a machine that runs as an account and keeps its password: a service, a task, a pool."""

    kind: str  # of pam_jobs.records.services.ServiceKind
    name: str
    account: str = ""  # as the machine shows it; "" where only the name is known


@dataclass(frozen=True, kw_only=True)
class RunAs:
    """The account whose password changed, and that password."""

    names: tuple[str, ...]  # how a machine may show the account; compared without regard to case
    password: SecretValue

    def is_meant(self, shown: str) -> bool:
        """Say whether what the machine shows is this account."""
        return shown.casefold() in {name.casefold() for name in self.names}


class DependantState(StrEnum):
    """What became of one dependant."""

    UPDATED = "updated"  # it has the password; it was not running and is left so, or takes it up by itself
    RESTARTED = "updated_and_restarted"  # it has the password and runs with it, as does what depends on it
    ALREADY = "already"  # it runs with the password; nothing was done
    NOT_STARTED = "not_started"  # it has the password, and did not come up again
    NOT_FOUND = "not_found"  # there is no such object on the machine
    OTHER_ACCOUNT = "not_running_as_user"  # it runs as somebody else, and was left alone
    REFUSED = "refused"  # the machine did not take the password; the object is as it was
    UNKNOWN = "unknown"  # the connection ended; updating it again is harmless


@dataclass(frozen=True, kw_only=True)
class DependantOutcome:
    """What became of one dependant; ``cause`` is a stable code, ``detail`` a sentence without any secret."""

    state: DependantState
    cause: str = ""
    detail: str = ""
    restarted: tuple[str, ...] = ()  # what was stopped and started again, in the order in which it was started


class Session(ABC):
    """One open connection to one target, as the rotator.

    Use it as a context manager. ``close()`` never raises.
    """

    @abstractmethod
    def preflight(self, account: Account) -> Preflight:
        """Learn whether a change would be allowed, changing nothing.

        Raises:
            Forbidden: the rotator may not change the account.
            Unsupported: the account does not exist, or cannot have such a credential.
            TargetError: anything else the target said.
        """

    @abstractmethod
    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the candidate on the target; setting the same value twice does no harm.

        Args:
            account: whose credential.
            candidate: the value, already durable in the ledger.
            fence: called immediately before the first irreversible byte.

        Returns:
            ``Effect.APPLIED``, when the target confirmed it.

        Raises:
            NotApplied: the target is certainly unchanged (its subclass says why).
            PartlyApplied: of password and key the one was changed, the other certainly not.
            EffectUnknown: it may have changed.
        """

    @abstractmethod
    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Try one fresh login with the credential; never raises for an answer of the target."""

    def returned_fields(self) -> Mapping[str, str | SecretValue]:
        """Return the custom fields, by label, that the change wants written to the user's record."""
        return {}

    def metadata(self, account: Account) -> AccountMetadata:  # noqa: ARG002
        """Return what the target tells of the account without a login as it."""
        return AccountMetadata()

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the accounts of the target, and what could not be looked at."""
        return iter(())

    def dependants(self) -> Iterator[Dependant | Unseen]:
        """Yield what runs on the machine as an account with a password, and what could not be looked at.

        Raises:
            Unsupported: the connector does not claim DEPENDANTS.
        """
        raise Unsupported("this target has no services that run as an account")

    def update_dependant(self, dependant: Dependant, run_as: RunAs, fence: Fence) -> DependantOutcome:  # noqa: ARG002
        """Give one dependant the account's new password; a running one is restarted with what depends on it.

        What runs as another account is left alone, what is stopped is left stopped, and the account keeps the spelling
        that the machine has. No right is granted. Doing it again is harmless.

        Args:
            dependant: kind and name.
            run_as: the account.
            fence: called immediately before the first irreversible byte.

        Returns:
            What became of it; also where the machine refused, or the connection ended.

        Raises:
            Unsupported: the connector does not claim DEPENDANTS, or not this kind.
            Unreachable: the machine is away; nothing was begun.
        """
        raise Unsupported("this target has no services that run as an account")

    def run(self, argv: list[str], stdin: bytes, deadline: Deadline) -> CommandResult:  # noqa: ARG002
        """Run one command on the machine with the bytes on its standard input.

        Raises:
            Unsupported: the connector does not claim RUN_SCRIPT.
            Unreachable: the command was not started.
            EffectUnknown: the connection ended before the command's exit code came.
        """
        raise Unsupported("commands cannot be run on this target")

    def upload(self, directory_hint: str, name: str, content: bytes) -> str:  # noqa: ARG002
        """Write a private file (0700) into a new private folder of the machine and return its path.

        Raises:
            Unsupported: the connector does not claim RUN_SCRIPT.
        """
        raise Unsupported("files cannot be put on this target")

    def remove(self, path: str) -> None:  # noqa: B027
        """Remove what ``upload`` wrote, with its folder; no error when it is gone already."""

    @abstractmethod
    def close(self) -> None:
        """End the connection; never raises."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Connector(ABC):
    """What a target's protocol is; registered by the entry point group ``pam_jobs.connectors``."""

    name: ClassVar[str]
    protocols: ClassVar[frozenset[str]]  # labels of the port mapping this connector answers to
    capabilities: ClassVar[frozenset[Capability]]
    is_windows: ClassVar[bool] = False  # commands on the machine are written as Windows splits them

    @abstractmethod
    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> Session:
        """Connect and log in as the rotator.

        Args:
            target: where.
            rotator: who changes; None opens a session that can only probe (no login is made).
            deadline: bounds every wait of the session.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """

    def keep_state(self, folder: Path) -> None:  # noqa: B027
        """Remember in this folder, beyond the process, what must not be forgotten: host keys that were first seen."""

    def close_idle(self) -> None:  # noqa: B027
        """Close the connections that are kept for later sessions, as at shutdown."""

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:  # noqa: ARG002
        """Return what listens there if it speaks this connector's protocol, without a login; else None."""
        return None

"""What an emulated Windows machine remembers: accounts with their rules, and what runs as them.

It is no Windows: it keeps the state that rotations touch and answers with Windows' own codes.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

__all__ = ["Code", "Component", "Directory", "Machine", "Policy", "Pool", "Refusal", "Service", "Task", "User"]


class Code(IntEnum):
    """Win32 error codes that the emulation uses."""

    OK = 0
    FILE_NOT_FOUND = 2
    ACCESS_DENIED = 5
    INVALID_PASSWORD = 86
    SERVICE_REQUEST_TIMEOUT = 1053
    DEPENDENT_SERVICES_RUNNING = 1051
    SERVICE_ALREADY_RUNNING = 1056
    INVALID_SERVICE_ACCOUNT = 1057
    SERVICE_DISABLED = 1058
    SERVICE_DOES_NOT_EXIST = 1060
    SERVICE_NOT_ACTIVE = 1062
    SERVICE_LOGON_FAILED = 1069
    NO_SUCH_USER = 1317
    LOGON_FAILURE = 1326
    ACCOUNT_RESTRICTION = 1327
    PASSWORD_EXPIRED = 1330
    ACCOUNT_DISABLED = 1331
    LOGON_TYPE_NOT_GRANTED = 1385
    NO_TRUST = 1355  # the domain does not exist or could not be contacted
    ACCOUNT_EXPIRED = 1793
    PASSWORD_MUST_CHANGE = 1907
    ACCOUNT_LOCKED_OUT = 1909
    USER_NOT_FOUND = 2221  # NERR_UserNotFound
    PASSWORD_REFUSED = 2245  # NERR_PasswordTooShort: length, complexity, history or age


TEXTS = {
    Code.FILE_NOT_FOUND: "The system cannot find the file specified",
    Code.ACCESS_DENIED: "Access is denied",
    Code.INVALID_PASSWORD: "The specified network password is not correct",
    Code.DEPENDENT_SERVICES_RUNNING: "A stop control has been sent to a service that other running services are dependent on",
    Code.SERVICE_ALREADY_RUNNING: "An instance of the service is already running",
    Code.INVALID_SERVICE_ACCOUNT: "The account name is invalid or does not exist, or the password is invalid for the account name specified",
    Code.SERVICE_DISABLED: "The service cannot be started, either because it is disabled or because it has no enabled devices associated with it",
    Code.SERVICE_DOES_NOT_EXIST: "The specified service does not exist as an installed service",
    Code.SERVICE_NOT_ACTIVE: "The service has not been started",
    Code.SERVICE_LOGON_FAILED: "The service did not start due to a logon failure",
    Code.LOGON_FAILURE: "The user name or password is incorrect",
    Code.USER_NOT_FOUND: "The user name could not be found",
    Code.PASSWORD_REFUSED: "The password does not meet the password policy requirements. "
    "Check the minimum password length, password complexity and password history requirements",
}


class Refusal(Exception):
    """Windows says no, with a code."""

    def __init__(self, code: Code, kind: str = "System.Runtime.InteropServices.COMException") -> None:
        self.code = code
        self.kind = kind
        self.text = TEXTS.get(code, f"Windows error {int(code)}") + "."
        super().__init__(self.text)


@dataclass(kw_only=True)
class Policy:
    """The rules for passwords and logons of the whole machine."""

    minimum_length: int = 0
    complexity: bool = True
    history: int = 0  # former passwords that are refused
    maximum_age_seconds: float = 42 * 86400
    minimum_age_seconds: float = 0.0  # for changes of one's own; an administrator's reset ignores it
    lockout_threshold: int = 10  # refused logons; 0: never locked
    lockout_seconds: float = 600.0

    def accepts(self, user: User, password: str) -> bool:
        """Say whether length and complexity are as they should be."""
        kinds = (str.isupper, str.islower, str.isdigit, lambda char: not char.isalnum(), _is_other_letter)
        varied = sum(any(kind(char) for char in password) for kind in kinds) >= 3
        parts = [user.login, *re.split(r"[,.\-\u2013_ #\t]+", user.full_name)]
        named = any(len(part) >= 3 and part.lower() in password.lower() for part in parts)
        return len(password) >= self.minimum_length and (not self.complexity or (varied and not named))


def _is_other_letter(char: str) -> bool:
    return char.isalpha() and not char.isupper() and not char.islower()


@dataclass(kw_only=True)
class User:
    """One account. ``login`` keeps its letters' case, and is found in any."""

    login: str
    password: str = field(repr=False)
    rid: int
    full_name: str = ""
    admin: bool = False
    remote: bool = False  # of Remote Management Users
    enabled: bool = True
    must_change: bool = False
    never_expires: bool = False
    may_change: bool = True
    network_logon: bool = True  # False: denied access to this computer from the network
    expires: float | None = None  # seconds since 1970
    last_set: float = field(default_factory=time.time)
    history: list[str] = field(default_factory=list, repr=False)  # newest last, without the present one
    failures: int = 0
    locked_until: float = 0.0

    @property
    def sid(self) -> str:
        """The account's security identifier."""
        return f"S-1-5-21-1004336348-1177238915-682003330-{self.rid}"


@dataclass(kw_only=True)
class Service:
    r"""A Windows service. ``account`` as Windows shows it: ``.\name``, ``DOMAIN\name``, ``LocalSystem``, a virtual one."""

    name: str
    account: str
    stored: str | None = field(default=None, repr=False)  # the password the service manager holds
    state: str = "Stopped"  # Running, Stopped
    start_mode: str = "Auto"  # Auto, Manual, Disabled
    needs: tuple[str, ...] = ()  # services that must run before it
    starts: int = 0  # how often it was started, for those who look
    started_at: float = 0.0  # seconds since 1970
    hangs: bool = False  # it does not answer a start in time (1053)


@dataclass(kw_only=True)
class Task:
    """A scheduled task."""

    path: str  # \folder\name
    account: str
    stored: str | None = field(default=None, repr=False)
    logon: str = "Password"  # Password, InteractiveToken, S4U, ServiceAccount, Group
    enabled: bool = True
    definition: str = ""  # whatever else it has: an update must leave it


@dataclass(kw_only=True)
class Pool:
    """An application pool of IIS."""

    name: str
    identity: str = "SpecificUser"  # or ApplicationPoolIdentity, NetworkService, LocalService, LocalSystem
    account: str = ""
    stored: str | None = field(default=None, repr=False)
    state: str = "Started"  # Started, Stopped
    recycles: int = 0


@dataclass(kw_only=True)
class Component:
    """A COM+ application, or a DCOM application by its AppID."""

    kind: str  # com_plus, dcom, com
    key: str  # application id
    name: str
    account: str
    stored: str | None = field(default=None, repr=False)
    is_running: bool = False
    starts: int = 0


class Directory(Protocol):
    """The directory of the domain that a controller serves, as programs on it ask it."""

    def search(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the result's code and text, and the entries found."""
        ...

    def reset(self, facts: dict[str, Any], password: str) -> dict[str, Any]:
        """Set a password, and other attributes with it, in one modification; return the result's code and text."""
        ...


@dataclass(kw_only=True)
class Machine:
    """The state of one emulated machine. Every reader and writer holds ``lock``."""

    name: str = "WIN-LAB"
    domain: str = ""  # NetBIOS name; empty: a workgroup
    controller: bool = False  # a domain controller: its accounts are the domain's
    version: str = "Microsoft Windows Server 2022 Standard 10.0.20348"
    has_local_accounts: bool = True  # the module with Set-LocalUser is there
    can_compile: bool = True  # False: Add-Type is refused, as in constrained language mode
    policy: Policy = field(default_factory=Policy)
    users: dict[str, User] = field(default_factory=dict)  # by lower-case login
    services: dict[str, Service] = field(default_factory=dict)  # by lower-case name
    tasks: dict[str, Task] = field(default_factory=dict)  # by lower-case path
    pools: dict[str, Pool] = field(default_factory=dict)
    components: dict[str, Component] = field(default_factory=dict)  # by kind and key
    restarts: dict[str, list[str]] = field(default_factory=dict)  # registry: service → what is to come up again
    files: dict[str, bytes] = field(default_factory=dict, repr=False)  # uploaded, by path
    events: list[str] = field(default_factory=list, repr=False)  # what process creation and script block logging write
    runs: list[dict[str, Any]] = field(default_factory=list, repr=False)  # scripts that were run, with what they read
    scripts: Callable[[str, bytes], tuple[int, str, str]] | None = field(default=None, repr=False)
    directory: Directory | None = field(default=None, repr=False)  # of a controller
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @contextmanager
    def changing(self) -> Iterator[Machine]:
        """Hold the lock; for tests that look and alter from the side."""
        with self.lock:
            yield self

    def add_user(self, login: str, password: str, **values: Any) -> User:
        """Create an account, without asking the policy."""
        with self.lock:
            user = User(login=login, password=password, rid=1000 + len(self.users), **values)
            self.users[login.lower()] = user
            return user

    def find(self, name: str) -> User | None:
        r"""Return the account that a name stands for: bare, ``.\``, with the machine's or the domain's name, or with ``@``."""
        bare = name
        if "\\" in name:
            prefix, _, bare = name.partition("\\")
            if prefix.upper() not in {".", "", self.name, self.domain.upper()}:
                return None
        elif "@" in name:
            bare, _, suffix = name.rpartition("@")
            if suffix.partition(".")[0].upper() not in {self.name, self.domain.upper()}:
                return None
        return self.users.get(bare.lower())

    def log_on(self, name: str, password: str | None, *, right: bool | None = None) -> Code:
        """Try one network logon and keep count of it.

        Args:
            name: as ``find`` takes it.
            password: the one given; None where a hash was compared elsewhere.
            right: the outcome of that comparison.
        """
        with self.lock:
            user = self.find(name)
            if user is None:
                return Code.LOGON_FAILURE
            now = time.time()
            if user.locked_until > now:
                return Code.ACCOUNT_LOCKED_OUT
            if not (right if right is not None else user.password == password):
                user.failures += 1
                if self.policy.lockout_threshold and user.failures >= self.policy.lockout_threshold:
                    user.locked_until = now + self.policy.lockout_seconds
                return Code.LOGON_FAILURE
            return self._restriction(user, now) or self._welcome(user)

    def _restriction(self, user: User, now: float) -> Code:
        """Return what keeps out somebody with the right password."""
        if not user.enabled:
            return Code.ACCOUNT_DISABLED
        if user.expires is not None and user.expires <= now:
            return Code.ACCOUNT_EXPIRED
        if not user.password:
            return Code.ACCOUNT_RESTRICTION  # blank passwords log on at the console only
        if user.must_change:
            return Code.PASSWORD_MUST_CHANGE
        if self.is_expired(user):
            return Code.PASSWORD_EXPIRED
        return Code.OK if user.network_logon else Code.LOGON_TYPE_NOT_GRANTED

    @staticmethod
    def _welcome(user: User) -> Code:
        user.failures = 0
        return Code.OK

    def is_expired(self, user: User) -> bool:
        """Say whether the password is older than the policy allows."""
        age = self.policy.maximum_age_seconds
        return bool(age) and not user.never_expires and user.last_set + age <= time.time()

    def set_password(self, user: User, password: str) -> None:
        """Set a password as an administrator does; history and minimum age are for changes of one's own.

        Raises:
            Refusal: length or complexity are against it.
        """
        if not self.policy.accepts(user, password) or len(password) > 127:
            raise Refusal(Code.PASSWORD_REFUSED)
        user.history.append(user.password)
        user.password = password
        user.last_set = time.time()
        user.must_change = False
        user.failures = 0

    def change_password(self, user: User, old: str, new: str) -> None:
        """Change a password as its owner does.

        Raises:
            Refusal: the old one is wrong, the account may not, or the policy is against it.
        """
        if user.password != old:
            raise Refusal(Code.INVALID_PASSWORD)
        if not user.may_change:
            raise Refusal(Code.ACCESS_DENIED)
        kept = self.policy.history
        former = {user.password, *user.history[-kept:]} if kept else set()
        if new in former or user.last_set + self.policy.minimum_age_seconds > time.time():
            raise Refusal(Code.PASSWORD_REFUSED)
        self.set_password(user, new)

    def stored_logs_on(self, account: str, stored: str | None) -> bool:
        """Say whether a stored password logs its account on; accounts of the system need none."""
        short = account.rpartition("\\")[2].lower().replace(" ", "")
        if short in {"localsystem", "system", "localservice", "networkservice"} or account.upper().startswith("NT "):
            return True
        return stored is not None and self.log_on(account, stored) is Code.OK

    def service(self, name: str) -> Service:
        """Return a service by its name.

        Raises:
            Refusal: there is none.
        """
        found = self.services.get(name.lower())
        if found is None:
            raise Refusal(Code.SERVICE_DOES_NOT_EXIST)
        return found

    def dependants_of(self, service: Service) -> list[Service]:
        """Return the services that need this one."""
        return [
            each for each in self.services.values() if service.name.lower() in {need.lower() for need in each.needs}
        ]

    def start_service(self, name: str) -> None:
        """Start a service, and before it what it needs; one that runs already is left.

        Raises:
            Refusal: it does not start, such as with 1069 when the stored password is not the account's.
        """
        service = self.service(name)
        if service.state == "Running":
            raise Refusal(Code.SERVICE_ALREADY_RUNNING)
        if service.start_mode == "Disabled":
            raise Refusal(Code.SERVICE_DISABLED)
        for need in service.needs:
            if self.service(need).state != "Running":
                self.start_service(need)
        if not self.stored_logs_on(service.account, service.stored):
            raise Refusal(Code.SERVICE_LOGON_FAILED)
        if service.hangs:
            raise Refusal(Code.SERVICE_REQUEST_TIMEOUT)
        service.state = "Running"
        service.starts += 1
        service.started_at = time.time()

    def stop_service(self, name: str, *, with_dependants: bool = False) -> list[str]:
        """Stop a service and return the names of what was stopped, in order.

        Raises:
            Refusal: it does not run, or others that run need it.
        """
        service = self.service(name)
        if service.state != "Running":
            raise Refusal(Code.SERVICE_NOT_ACTIVE)
        stopped: list[str] = []
        for other in self.dependants_of(service):
            if other.state == "Running":
                if not with_dependants:
                    raise Refusal(Code.DEPENDENT_SERVICES_RUNNING)
                stopped += self.stop_service(other.name, with_dependants=True)
        service.state = "Stopped"
        return [*stopped, service.name]

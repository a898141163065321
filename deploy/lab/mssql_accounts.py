"""What the emulated SQL Server keeps: logins, databases with users of their own, the policy of passwords, and who gets in."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from dataclasses import dataclass, field

from pysqlbridge.tds.result import QueryError

from deploy.lab.emulated import Settings

__all__ = ["Account", "Accounts", "Database", "password_hash", "refuse", "set_password", "validated"]

_SYSTEM = ("master", "tempdb")


@dataclass(kw_only=True)
class Account:
    """A login, or a user of a database; a name is told apart without regard to case."""

    name: str
    password: str | None = None  # None: a Windows login, or a user of a login
    kind: str = "SQL_LOGIN"
    is_disabled: bool = False
    policy: bool = True
    expiration: bool = False
    must_change: bool = False
    is_expired: bool = False
    failures: int = 0
    is_locked: bool = False
    set_at: float = field(default_factory=time.time)
    changes: int = 0
    former: list[str] = field(default_factory=list)
    rights: set[str] = field(default_factory=set)


@dataclass(kw_only=True)
class Database:
    """A database; a contained one has users with passwords of their own."""

    name: str
    contained: bool = False
    online: bool = True
    read_only: bool = False
    users: dict[str, Account] = field(default_factory=dict)


def refuse(number: int, text: str, severity: int = 16, state: int = 1) -> QueryError:
    """Return an error of the server."""
    return QueryError(text, number=number, severity=severity, state=state)


def validated(password: str, name: str) -> str:
    """Apply the policy of Windows: length, three of four kinds, not the name.

    Raises:
        QueryError: it refuses the password.
    """
    start = (
        "Password validation failed. The password does not meet the operating system policy requirements because it is "
    )
    if len(password) > 128:
        raise refuse(15117, start.replace("operating system policy", "operating system policy") + "too long.")
    if len(password) < 8:
        raise refuse(15116, start + "too short.")
    kinds = sum(bool(re.search(kind, password)) for kind in (r"[a-z]", r"[A-Z]", r"\d", r"[^A-Za-z0-9]"))
    if kinds < 3 or (len(name) > 2 and name.casefold() in password.casefold()):
        raise refuse(15118, start + "not complex enough.")
    return password


class Accounts:
    """What the server keeps; one lock around everything."""

    def __init__(self, settings: Settings) -> None:
        """Begin with the administrator alone."""
        self.lock = threading.RLock()
        admin = Account(name=settings.admin_login, password=settings.admin_password, rights={"CONTROL SERVER"})
        self.logins = {admin.name.casefold(): admin}
        self.databases = {name: Database(name=name) for name in _SYSTEM}
        for name, how in settings.options.get("databases", {}).items():
            self.databases[name.casefold()] = Database(name=name, **how)
        self.lockout = int(settings.options.get("lockout", 5))
        self.windows_only = bool(settings.options.get("windows_only"))
        self.history = int(settings.options.get("history", 0))
        self.locks: dict[str, int] = {}
        self.freed = threading.Condition(self.lock)
        self.log = settings.log_path.open("a", encoding="utf-8")

    def admit(self, user: str, password: str, database: str) -> tuple[str, list[tuple[int, int, str]]]:
        """Return the database of a login, or the errors (number, severity, text) that refuse it."""
        failed = (18456, 14, f"Login failed for user '{user}'.")
        place = self.databases.get((database or "master").casefold())
        if place is not None and place.contained and place.online:
            inside = place.users.get(user.casefold())
            if inside is not None and inside.password is not None:
                return place.name, [] if inside.password == password else [failed]
        login = self.logins.get(user.casefold())
        if login is None or login.password is None or self.windows_only:
            return "", [failed]
        refusal = self._check(login, password)
        if refusal:
            return "", [refusal]
        if place is None or not place.online or not self._may_enter(login, place):
            text = f'Cannot open database "{database}" requested by the login. The login failed.'
            return "", [(4060, 11, text), failed]
        return place.name, []

    def _check(self, login: Account, password: str) -> tuple[int, int, str] | None:
        start = f"Login failed for user '{login.name}'"
        if login.is_locked:
            more = " because the account is currently locked out. The system administrator can unlock it."
            return 18486, 14, start + more
        if login.password != password:
            login.failures += 1
            login.is_locked = login.policy and login.failures >= self.lockout
            return 18456, 14, start + "."
        login.failures = 0
        if login.is_disabled:
            return 18470, 14, start + ". Reason: The account is disabled."
        if login.is_expired:
            return 18487, 14, start + ".  Reason: The password of the account has expired."
        if login.must_change:
            return 18488, 14, start + ".  Reason: The password of the account must be changed."
        return None

    def _may_enter(self, login: Account, place: Database) -> bool:
        return place.name in _SYSTEM or "CONTROL SERVER" in login.rights or login.name.casefold() in place.users


def set_password(account: Account, password: str) -> None:
    """Set an account's password, now."""
    account.former.append(password)
    account.password, account.set_at = password, time.time()
    account.changes += 1


def password_hash(account: Account) -> str:
    """Return what the catalog shows in the place of a password."""
    made = hashlib.sha512(f"{account.changes}{account.password}".encode("utf-16-le")).hexdigest()
    return f"0x0200{made.upper()}"

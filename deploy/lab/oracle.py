"""An emulated Oracle Database: a listener and a login that the real thin driver takes, users and profiles, nothing else.

It knows ``ALTER USER`` with ``REPLACE``, what profiles refuse, locked and expired users, a new password at the login, common
users, and the views about them. Codes and sentences of errors are the vendor's. There is no engine behind it.
"""

from __future__ import annotations

import re
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from deploy.lab import catalog
from deploy.lab.catalog import Cell, Table
from deploy.lab.emulated import EmulatedServer, Settings
from deploy.lab.emulated import start as start_emulated
from deploy.lab.oracle_wire import (
    CONNECT,
    DATA,
    Challenge,
    Gone,
    Reader,
    Wire,
    error,
    parameters,
    protocol_answer,
    rows,
    status,
    types_answer,
    warning,
)

__all__ = ["start"]

_PIGGYBACK, _PROTOCOL, _TYPES, _FUNCTION = 17, 1, 2, 3
_PHASE_ONE, _PHASE_TWO, _EXECUTE, _CLOSE_CURSORS = 118, 115, 94, 105
_NAME = r'"([^"]+)"'
_IDENTIFIED = re.compile(
    rf"(ALTER|CREATE)\s+USER\s+{_NAME}\s+IDENTIFIED\s+(?:BY\s+{_NAME}(?:\s+REPLACE\s+{_NAME})?|(EXTERNALLY))",
    re.IGNORECASE,
)
_STATE = re.compile(
    rf"ALTER\s+USER\s+{_NAME}\s+(ACCOUNT\s+LOCK|ACCOUNT\s+UNLOCK|PASSWORD\s+EXPIRE|PROFILE\s+(\w+))", re.IGNORECASE
)
_GRANT = re.compile(rf"GRANT\s+([A-Z_ ]+?)\s+TO\s+{_NAME}", re.IGNORECASE)
_DROP = re.compile(rf"DROP\s+USER\s+{_NAME}", re.IGNORECASE)
_SECRET = re.compile(r'((?:BY|REPLACE)\s+)"[^"]*"', re.IGNORECASE)
_NOBODY = "\0"
_MAY_LOOK = ("DBA", "SELECT_CATALOG_ROLE")


class _Refusal(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, f"ORA-{code:05}: {text}\n"


@dataclass(kw_only=True)
class _User:
    name: str
    password: str | None  # None: identified externally
    is_locked: bool = False
    expired: str = ""  # "EXPIRED" or "EXPIRED(GRACE)"
    profile: str = "DEFAULT"
    is_common: bool = False
    failures: int = 0
    changes: int = 0
    changed: float = field(default_factory=time.time)
    former: list[str] = field(default_factory=list)
    rights: set[str] = field(default_factory=set)

    @property
    def status(self) -> str:
        parts = [
            self.expired,
            "LOCKED(TIMED)" if self.is_locked and self.failures else "LOCKED" if self.is_locked else "",
        ]
        return " & ".join(part for part in parts if part) or "OPEN"


class _Database:
    """What the database keeps; one lock around everything."""

    def __init__(self, settings: Settings) -> None:
        self.lock = threading.RLock()
        admin = _User(name=settings.admin_login, password=settings.admin_password, rights={"DBA"})
        self.users = {admin.name: admin}
        self.profiles: dict[str, dict[str, Any]] = {"DEFAULT": {}, **settings.options.get("profiles", {})}
        self.service = str(settings.options.get("service", "labpdb"))
        self.log = settings.log_path.open("a", encoding="utf-8")
        for name in settings.options.get("common", ()):
            self.users[name] = _User(name=name, password=settings.admin_password, is_common=True)

    def rule(self, user: _User, name: str, default: int = 0) -> int:
        return int(self.profiles[user.profile].get(name, default))

    def check_new(self, user: _User, password: str) -> None:
        if len(password.encode()) > 30:
            raise _Refusal(972, "identifier is too long")
        least = self.rule(user, "min_length")
        if least and len(password) < least:
            raise _Refusal(28003, f"password verification for the specified password failed: shorter than {least}")
        reuse = self.rule(user, "reuse_max")
        if reuse and password in [*user.former, user.password][-reuse:]:
            raise _Refusal(28007, "the password cannot be reused")

    def set_password(self, user: _User, password: str) -> None:
        if user.password is not None:
            user.former.append(user.password)
        user.password, user.expired, user.changed = password, "", time.time()
        user.changes += 1


class _Handler(socketserver.BaseRequestHandler):
    """One client."""

    database: ClassVar[_Database]

    def handle(self) -> None:
        """Answer until the client leaves."""
        self._wire = Wire(self.request)
        self._me: _User | None = None
        self._challenge: Challenge | None = None
        self._name = ""
        try:
            while self._packet():
                pass
        except (Gone, OSError, IndexError):
            return

    def _packet(self) -> bool:
        kind, body = self._wire.receive()
        if kind == CONNECT:
            service = re.search(rb"\(SERVICE_NAME=([^)]*)\)", body, re.IGNORECASE)
            if service is None or service[1].decode().lower() != self.database.service:
                self._wire.refuse(12514)
                return False
            self._wire.accept()
            return True
        reader = Reader(body[2:])
        if kind != DATA or reader.is_done:
            return False
        message = reader.byte()
        while message == _PIGGYBACK:
            function = reader.byte()
            reader.raw(2)
            if function != _CLOSE_CURSORS:
                return False
            for _ in range(reader.number()):
                reader.number()
            message = reader.byte()
        answers: dict[int, Callable[[], bytes]] = {_PROTOCOL: protocol_answer, _TYPES: types_answer}
        self._wire.answer(self._function(reader) if message == _FUNCTION else answers[message]())
        return True

    def _function(self, reader: Reader) -> bytes:
        function = reader.byte()
        reader.byte()  # number of the call
        try:
            with self.database.lock:
                if function in {_PHASE_ONE, _PHASE_TWO}:
                    return self._login(function, reader)
                if function == _EXECUTE:
                    return self._execute(reader)
        except _Refusal as refusal:
            return error(refusal.code, refusal.text)
        return status()

    def _login(self, phase: int, reader: Reader) -> bytes:
        reader.byte()
        reader.number()
        reader.number()  # mode
        reader.byte()
        count = reader.number()
        reader.raw(2)
        name = reader.text().decode()
        given: dict[str, str] = {}
        for _ in range(count):
            key, value = reader.long_text().decode(), reader.long_text().decode()
            reader.number()
            given[key] = value
        user = self._known(name)
        if phase == _PHASE_ONE:
            # a user that is not there gets a challenge that nothing answers
            self._challenge = Challenge(password=user.password if user and user.password else _NOBODY)
            return parameters(self._challenge.pairs())
        return self._admit(user, given)

    def _known(self, name: str) -> _User | None:
        stored = name[1:-1] if name.startswith('"') and name.endswith('"') else name.upper()
        return self.database.users.get(stored)

    def _admit(self, user: _User | None, given: Mapping[str, str]) -> bytes:
        challenge = self._challenge or Challenge(password=_NOBODY)
        if user is not None and user.is_locked:
            raise _Refusal(28000, "The account is locked.")
        if user is None or challenge.opened(given["AUTH_SESSKEY"], given["AUTH_PASSWORD"]) != user.password:
            if user is not None:
                user.failures += 1
                user.is_locked = user.failures >= self.database.rule(user, "failed_attempts", 10)
            raise _Refusal(1017, "invalid username/password; logon denied")
        user.failures = 0
        if "AUTH_NEWPASSWORD" in given:
            new = challenge.opened(given["AUTH_SESSKEY"], given["AUTH_NEWPASSWORD"]) or ""
            self.database.check_new(user, new)
            self.database.set_password(user, new)
        if user.expired == "EXPIRED":
            raise _Refusal(28001, "the password has expired")
        self._me = user
        told = [("AUTH_VERSION_NO", str(19 << 24 | 3 << 16), 0), ("AUTH_SVR_RESPONSE", challenge.proof(), 0)]
        told += [("AUTH_SESSION_ID", "12", 0), ("AUTH_SERIAL_NUM", "34", 0), ("AUTH_INSTANCENAME", "lab", 0)]
        told += [("AUTH_SC_SERVICE_NAME", self.database.service, 0), ("AUTH_MAX_OPEN_CURSORS", "300", 0)]
        told += [("AUTH_SC_DBUNIQUE_NAME", "lab", 0), ("AUTH_MAX_IDEN_LENGTH", "128", 0)]
        grace = warning(28002, "ORA-28002: the password will expire within 7 days") if user.expired else b""
        return grace + parameters(told)

    def _execute(self, reader: Reader) -> bytes:
        if self._me is None:
            raise _Refusal(1012, "not logged on")
        statement, values = reader.statement()
        shown = _SECRET.sub(r'\1"***"', statement)
        self.database.log.write(f"{self._me.name}: {shown}\n")
        self.database.log.flush()
        if statement.lstrip()[:6].upper() == "SELECT":
            return self._select(statement, values)
        for form, action in (
            (_IDENTIFIED, self._identified), (_STATE, self._state), (_GRANT, self._grant), (_DROP, self._drop),
        ):  # fmt: skip
            if match := form.fullmatch(statement.strip()):
                action(self._me, match)
                return error(0)
        if statement.upper().startswith("ALTER SESSION SET"):
            return error(0)
        raise _Refusal(900, "invalid SQL statement")

    def _identified(self, me: _User, match: re.Match[str]) -> None:
        verb, name, password, old, external = match[1].upper(), match[2], match[3], match[4], match[5]
        may = "DBA" in me.rights or f"{verb} USER" in me.rights
        user = self.database.users.get(name)
        if not may and not (user is me and verb == "ALTER"):
            raise _Refusal(1031, "insufficient privileges")
        if verb == "CREATE":
            if user is not None:
                raise _Refusal(1920, f"user name '{name}' conflicts with another user or role name")
            self.database.users[name] = _User(name=name, password=None if external else password)
            return
        if user is None:
            raise _Refusal(1918, f"user '{name}' does not exist")
        if user.is_common:
            raise _Refusal(65066, "The specified changes must apply to all containers.")
        if old is None and not may and self.database.rule(user, "min_length"):
            raise _Refusal(28221, "REPLACE not specified")
        if old is not None and old != user.password:
            raise _Refusal(28008, "invalid old password")
        self.database.check_new(user, password)
        self.database.set_password(user, password)

    def _state(self, me: _User, match: re.Match[str]) -> None:
        self._demand(me)
        user, words = self.database.users[match[1]], match[2].upper().split()
        if words[0] == "PROFILE":
            user.profile = match[3].upper()
        elif words[0] == "PASSWORD":
            user.expired = "EXPIRED(GRACE)" if self.database.rule(user, "grace_days") else "EXPIRED"
        else:
            user.is_locked, user.failures = words[1] == "LOCK", 0

    def _grant(self, me: _User, match: re.Match[str]) -> None:
        self._demand(me)
        self.database.users[match[2]].rights.add(match[1].upper())

    def _drop(self, me: _User, match: re.Match[str]) -> None:
        self._demand(me)
        self.database.users.pop(match[1], None)

    @staticmethod
    def _demand(me: _User) -> None:
        if "DBA" not in me.rights:
            raise _Refusal(1031, "insufficient privileges")

    def _select(self, statement: str, values: Sequence[str]) -> bytes:
        names = re.findall(r"= :(\w+)", statement)
        try:
            columns, found = catalog.run(
                statement, "oracle", self._tables(), self._functions(), dict(zip(names, values, strict=False))
            )
        except ValueError as reason:
            code = 942 if "no such table" in str(reason) else 904
            raise _Refusal(code, f"table or view does not exist, or {reason}") from None
        return rows(columns, found)

    def _tables(self) -> dict[str, Table]:
        me = self._me or _User(name="", password=None)
        rights = {"ALTER USER", *me.rights} if "DBA" in me.rights else me.rights
        tables = {
            "dual": Table(columns=("dummy",), rows=[("X",)]),
            "session_privs": Table(columns=("privilege",), rows=[(right,) for right in sorted(rights)]),
            "user_users": Table(columns=("username", "account_status"), rows=[(me.name, me.status)]),
        }
        if me.rights & set(_MAY_LOOK):
            columns = ("username", "account_status", "authentication_type", "profile", "common", "expiry_date",
                       "password_change_date", "oracle_maintained", "password_versions")  # fmt: skip
            everybody = [
                (each.name, each.status, "EXTERNAL" if each.password is None else "PASSWORD", each.profile,
                 "YES" if each.is_common else "NO", None, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(each.changed)), "N",
                 f"12C {each.changes}")
                for each in self.database.users.values()
            ]  # fmt: skip
            limits = [
                (name, "PASSWORD_VERIFY_FUNCTION", "ORA12C_VERIFY_FUNCTION" if rules.get("min_length") else "NULL")
                for name, rules in self.database.profiles.items()
            ]
            tables["dba_users"] = Table(columns=columns, rows=everybody)
            tables["dba_profiles"] = Table(columns=("profile", "resource_name", "limit"), rows=limits)
        return tables

    def _functions(self) -> dict[str, Callable[..., Cell]]:
        context = {"SESSION_USER": self._me.name if self._me else "", "CON_NAME": "LABPDB", "DATABASE_ROLE": "PRIMARY"}
        return {"SYS_CONTEXT": lambda _, name: context[str(name)]}


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def start(folder: Path, **options: Any) -> EmulatedServer:
    """Start a new emulated database with the administrator ``LABADMIN`` and the service ``labpdb``.

    Args:
        folder: an existing or new folder.
        options: ``service``; ``profiles`` (name to ``min_length``, ``reuse_max``, ``failed_attempts``, ``grace_days``);
            ``common`` (names of common users).

    Raises:
        LabError: it did not start.
    """
    return start_emulated(folder, "oracle", login="LABADMIN", options=options)


def main(path: Path) -> None:
    """Listen until the process is ended."""
    settings = Settings.read(path)
    _Handler.database = _Database(settings)
    with _Listener(("127.0.0.1", settings.port), _Handler) as listener:
        listener.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""An emulated SQL Server: the wire is real TDS 7.4 with TLS, logins and their policies are kept here, nothing else.

It knows SQL logins, users contained in databases, ``ALTER LOGIN`` and ``ALTER USER`` with all that they may refuse, and
the catalog views about them. Numbers and sentences of errors are the vendor's. There is no engine behind it.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pysqlbridge.server as bridge
from pysqlbridge.certificate import Certificate
from pysqlbridge.tds.connection import Connection, ConnectionState
from pysqlbridge.tds.login import deobfuscate_password
from pysqlbridge.tds.result import Column, Integer, NVarChar, Query, QueryResult
from pysqlbridge.tds.token import DoneStatus, done
from pysqlbridge.tds.token import error as error_token

from deploy.lab import catalog
from deploy.lab.catalog import Cell, Table
from deploy.lab.emulated import EmulatedServer, Settings
from deploy.lab.emulated import start as start_emulated
from deploy.lab.mssql_accounts import Account, Accounts, password_hash, refuse, set_password, validated

__all__ = ["start"]

_NAME = r"(?:\[((?:[^\]]|\]\])+)\]|([A-Za-z_#][\w#$@]*))"
_TEXT = r"N?'((?:[^']|'')*)'"
_OPTION = rf"""\s*(?:,\s*)?(?:(MUST_CHANGE|UNLOCK|HASHED)|OLD_PASSWORD\s*=\s*{_TEXT}|(CHECK_POLICY|CHECK_EXPIRATION)\s*=\s*(ON|OFF))"""
_PRINCIPAL = re.compile(
    rf"(CREATE|ALTER)\s+(LOGIN|USER)\s+{_NAME}\s+WITH\s+(?:PASSWORD\s*=\s*{_TEXT})?((?:{_OPTION})*)", re.IGNORECASE
)
_STATE = re.compile(rf"ALTER\s+LOGIN\s+{_NAME}\s+(ENABLE|DISABLE)", re.IGNORECASE)
_WINDOWS = re.compile(rf"CREATE\s+LOGIN\s+{_NAME}\s+FROM\s+WINDOWS", re.IGNORECASE)
_MAPPED = re.compile(rf"CREATE\s+USER\s+{_NAME}\s+FOR\s+LOGIN\s+{_NAME}", re.IGNORECASE)
_DROP = re.compile(rf"DROP\s+(LOGIN|USER)\s+{_NAME}", re.IGNORECASE)
_GRANT = re.compile(rf"(GRANT|REVOKE)\s+([A-Z ]+?)\s+(?:TO|FROM)\s+{_NAME}", re.IGNORECASE)
_LOCK = re.compile(
    rf"DECLARE\s+@held\s+int;\s*EXEC\s+@held\s*=\s*sp_getapplock\s+@Resource\s*=\s*{_TEXT},.*?@LockTimeout\s*=\s*(\d+);"
    r"\s*SELECT\s+@held\s+AS\s+held", re.IGNORECASE | re.DOTALL,
)  # fmt: skip
_UNLOCK = re.compile(rf"EXEC\s+sp_releaseapplock\s+@Resource\s*=\s*{_TEXT}[^;]*", re.IGNORECASE)
_USE = re.compile(rf"USE\s+{_NAME}", re.IGNORECASE)
_SET = re.compile(r"SET\s+\w+\s+-?\w+", re.IGNORECASE)
_of_thread = threading.local()
_SECRET = re.compile(r"PASSWORD", re.IGNORECASE)


class _Session:
    """One connection: answers its batches, statement by statement."""

    def __init__(self, server: Accounts, identity: int, login: str, database: str) -> None:
        self._server = server
        self._identity = identity
        self.login = login
        self._database = server.databases[database.casefold()]
        self._is_contained = self._database.contained and (
            (user := self._database.users.get(login.casefold())) is not None and user.password is not None
        )
        self._forms: list[tuple[re.Pattern[str], Callable[[re.Match[str]], QueryResult | None]]] = [
            (_SET, lambda _: None), (_USE, self._use), (_PRINCIPAL, self._principal), (_STATE, self._state),
            (_WINDOWS, self._windows), (_MAPPED, self._mapped), (_DROP, self._drop), (_GRANT, self._grant),
            (_LOCK, self._take_lock), (_UNLOCK, self._free_lock),
        ]  # fmt: skip

    def answer(self, batch: str) -> QueryResult:
        """Run a batch and return what its last question found.

        Raises:
            QueryError: a statement was refused; those before it were run.
        """
        shown = "*PASSWORD" + "-" * 40 if _SECRET.search(batch) else batch  # as the real server's own traces do
        self._server.log.write(f"{self.login} {self._database.name}: {shown}\n")
        self._server.log.flush()
        result = QueryResult(columns=[], rows=[])
        rest = batch.strip(" ;\r\n\t")
        with self._server.lock:
            while rest:
                if rest[:6].upper() == "SELECT":
                    return self._select(rest)
                for form, action in self._forms:
                    if match := form.match(rest):
                        result = action(match) or result
                        rest = rest[match.end() :]
                        if rest and not rest.lstrip(" \r\n\t").startswith(";"):
                            raise refuse(102, f"Incorrect syntax near '{rest.split()[0]}'.", 15)
                        rest = rest.strip(" ;\r\n\t")
                        break
                else:
                    raise refuse(102, f"Incorrect syntax near '{rest.split()[0]}'.", 15)
        return result

    def leave(self) -> None:
        """Let go of what the connection held."""
        with self._server.lock:
            for name in [name for name, owner in self._server.locks.items() if owner == self._identity]:
                del self._server.locks[name]
            self._server.freed.notify_all()

    @property
    def _rights(self) -> set[str]:
        if self._is_contained:
            return self._database.users[self.login.casefold()].rights
        return self._server.logins[self.login.casefold()].rights

    def _may(self, *rights: str) -> bool:
        return bool({"CONTROL SERVER", *rights} & self._rights)

    def _use(self, match: re.Match[str]) -> None:
        name = _name(match, 1)
        found = self._server.databases.get(name.casefold())
        if found is None or not found.online:
            raise refuse(911, f"Database '{name}' does not exist. Make sure that the name is entered correctly.")
        self._database = found

    def _principal(self, match: re.Match[str]) -> None:
        verb, kind, name = match[1].upper(), match[2].upper(), _name(match, 3)
        options = [each.groups() for each in re.finditer(_OPTION, match[6] or "", re.IGNORECASE)]
        words = {word.upper() for word, *_ in options if word}
        switches = {switch.upper(): value.upper() == "ON" for _, _, switch, value in options if switch}
        old = next((_text(text) for _, text, *_ in options if text is not None), None)
        password = _text(match[5]) if match[5] is not None else None
        if kind == "USER":
            self._user(verb, name, password, old)
        elif verb == "CREATE":
            self._create_login(name, password, words, switches)
        else:
            self._alter_login(name, password, old, words, switches)

    def _create_login(self, name: str, password: str | None, words: set[str], switches: Mapping[str, bool]) -> None:
        self._demand("ALTER ANY LOGIN")
        if name.casefold() in self._server.logins:
            raise refuse(15025, f"The server principal '{name}' already exists.")
        policy = switches.get("CHECK_POLICY", True)
        kept = validated(password or "", name) if policy else password
        self._server.logins[name.casefold()] = Account(
            name=name, password=kept, policy=policy, expiration=switches.get("CHECK_EXPIRATION", False),
            must_change="MUST_CHANGE" in words,
        )  # fmt: skip

    def _alter_login(
        self, name: str, password: str | None, old: str | None, words: set[str], switches: Mapping[str, bool]
    ) -> None:
        login = self._server.logins.get(name.casefold())
        is_own = not self._is_contained and name.casefold() == self.login.casefold()
        needs = () if login and "CONTROL SERVER" in login.rights else ("ALTER ANY LOGIN",)
        if login is None or not (self._may(*needs) or (is_own and old is not None and not words and not switches)):
            text = f"Cannot alter the login '{name}', because it does not exist or you do not have permission."
            raise refuse(15151, text)
        if password is not None:
            if old is not None and old != login.password:
                raise refuse(15211, "The old (current) password did not match.")
            if login.policy:
                validated(password, login.name)
                if old is not None and password in login.former[-self._server.history :][: self._server.history]:
                    text = "Password validation failed. The password cannot be used at this time."
                    raise refuse(15115, text)
            set_password(login, password)
            login.must_change = "MUST_CHANGE" in words
            login.is_expired = False
        if "UNLOCK" in words:
            login.is_locked, login.failures = False, 0
        login.policy = switches.get("CHECK_POLICY", login.policy)
        login.expiration = switches.get("CHECK_EXPIRATION", login.expiration)

    def _user(self, verb: str, name: str, password: str | None, old: str | None) -> None:
        users = self._database.users
        if not self._database.contained:
            raise refuse(33233, "You can only create a user with a password in a contained database.")
        if verb == "CREATE":
            self._demand("ALTER ANY USER")
            if name.casefold() in users:
                raise refuse(15023, f"User, group, or role '{name}' already exists in the current database.")
            users[name.casefold()] = Account(name=name, password=validated(password or "", name), kind="SQL_USER")
            return
        user = users.get(name.casefold())
        is_own = self._is_contained and name.casefold() == self.login.casefold()
        if user is None or not (self._may("ALTER ANY USER") or (is_own and old is not None)):
            text = f"Cannot alter the user '{name}', because it does not exist or you do not have permission."
            raise refuse(15151, text)
        if self._database.read_only:
            raise refuse(3906, f'Failed to update database "{self._database.name}" because the database is read-only.')
        if old is not None and old != user.password:
            raise refuse(15211, "The old (current) password did not match.")
        set_password(user, validated(password or "", name))

    def _state(self, match: re.Match[str]) -> None:
        self._demand("ALTER ANY LOGIN")
        self._login(_name(match, 1)).is_disabled = match[3].upper() == "DISABLE"

    def _windows(self, match: re.Match[str]) -> None:
        self._demand("ALTER ANY LOGIN")
        name = _name(match, 1)
        self._server.logins[name.casefold()] = Account(name=name, kind="WINDOWS_LOGIN")

    def _mapped(self, match: re.Match[str]) -> None:
        self._demand("ALTER ANY USER")
        self._database.users[_name(match, 3).casefold()] = Account(name=_name(match, 1), kind="SQL_USER")

    def _drop(self, match: re.Match[str]) -> None:
        self._demand("ALTER ANY LOGIN" if match[1].upper() == "LOGIN" else "ALTER ANY USER")
        place = self._server.logins if match[1].upper() == "LOGIN" else self._database.users
        place.pop(_name(match, 2).casefold(), None)

    def _grant(self, match: re.Match[str]) -> None:
        self._demand()
        name = _name(match, 3)
        holder = self._database.users.get(name.casefold()) if "USER" in match[2].upper() else None
        rights = (holder or self._login(name)).rights
        (rights.add if match[1].upper() == "GRANT" else rights.discard)(match[2].upper())

    def _take_lock(self, match: re.Match[str]) -> QueryResult:
        name = _text(match[1])
        end = time.monotonic() + int(match[2]) / 1000
        while self._server.locks.get(name, self._identity) != self._identity:
            if not self._server.freed.wait(max(0.0, end - time.monotonic())):
                return _rows(["held"], [[-1]])
        self._server.locks[name] = self._identity
        return _rows(["held"], [[0]])

    def _free_lock(self, match: re.Match[str]) -> None:
        self._server.locks.pop(_text(match[1]), None)
        self._server.freed.notify_all()

    def _select(self, statement: str) -> QueryResult:
        try:
            columns, rows = catalog.run(statement, "tsql", self._tables(), self._functions())
        except ValueError as error:
            raise refuse(208, f"Invalid object name or syntax: {error}") from None
        return _rows(columns, rows)

    def _tables(self) -> dict[str, Table]:
        sees_all = self._may("ALTER ANY LOGIN", "VIEW ANY DEFINITION")
        seen = [each for key, each in self._server.logins.items() if sees_all or key in {self.login.casefold(), "sa"}]
        numbers = {key: number for number, key in enumerate(self._server.logins, 1)}
        principals = [
            (numbers[each.name.casefold()], each.name, "S" if each.kind == "SQL_LOGIN" else "U", each.kind)
            for each in seen
        ]
        sql = [
            (numbers[each.name.casefold()], each.name, int(each.is_disabled), int(each.policy), int(each.expiration),
             password_hash(each) if self._may() else None)
            for each in seen if each.kind == "SQL_LOGIN"
        ]  # fmt: skip
        users = [
            (each.name, each.kind, "DATABASE" if each.password is not None else "INSTANCE", each.changes)
            for each in self._database.users.values()
        ]
        return {
            "sys.server_principals": Table(columns=("principal_id", "name", "type", "type_desc"), rows=principals),
            "sys.sql_logins": Table(
                columns=("principal_id", "name", "is_disabled", "is_policy_checked", "is_expiration_checked", "password_hash"),
                rows=sql,
            ),
            "sys.database_principals": Table(
                columns=("name", "type_desc", "authentication_type_desc", "modify_date"), rows=users
            ),
        }  # fmt: skip

    def _functions(self) -> dict[str, Callable[..., Cell]]:
        properties: dict[str, Cell] = {
            "ProductVersion": "16.0.1000.6", "Edition": "Emulated Edition (64-bit)", "EngineEdition": 3,
            "IsIntegratedSecurityOnly": int(self._server.windows_only),
        }  # fmt: skip
        read_only = self._database.read_only
        return {
            "SERVERPROPERTY": properties.get, "ORIGINAL_LOGIN": lambda: self.login, "SUSER_SNAME": lambda: self.login,
            "DB_NAME": lambda: self._database.name, "USER_NAME": lambda: self.login if self._is_contained else "dbo",
            "QUOTENAME": lambda name: "[" + str(name).replace("]", "]]") + "]",
            "HAS_PERMS_BY_NAME": lambda _, __, right: int(self._may(str(right))),
            "IS_SRVROLEMEMBER": lambda _, name: int("CONTROL SERVER" in self._login(str(name)).rights),
            "LOGINPROPERTY": self._property, "GETUTCDATE": lambda: _iso(time.time()),
            "DATABASEPROPERTYEX": lambda *_: "READ_ONLY" if read_only else "READ_WRITE",
        }  # fmt: skip

    def _property(self, name: Cell, what: Cell) -> Cell:
        login = self._login(str(name))
        if login.password is None:
            return None
        values: dict[str, Cell] = {
            "IsLocked": int(login.is_locked), "IsExpired": int(login.is_expired),
            "IsMustChange": int(login.must_change), "PasswordLastSetTime": _iso(login.set_at),
            "DaysUntilExpiration": 42 if login.expiration else None,
        }  # fmt: skip
        return values[str(what)]

    def _login(self, name: str) -> Account:
        found = self._server.logins.get(name.casefold())
        if found is None:
            raise refuse(15007, f"'{name}' is not a valid login or you do not have permission.")
        return found

    def _demand(self, *rights: str) -> None:
        if not self._may(*rights):
            raise refuse(15247, "User does not have permission to perform this action.")


class _Connection(Connection):  # type: ignore[misc]  # the package is not typed
    """A connection whose logins and questions are answered here."""

    server: Accounts
    numbers = iter(range(1, 1 << 62))

    def __init__(self, *arguments: Any, **named: Any) -> None:
        named["query_handler"] = self._ask
        super().__init__(*arguments, **named)
        self._ours: _Session | None = None
        _of_thread.connection = self

    def _answer_sql_login(self, responses: list[bytes]) -> bool:
        asked = self._login
        with self.server.lock:
            place, errors = self.server.admit(asked.user_name, deobfuscate_password(asked.password), asked.database)
        if not errors:
            self._database = place
            self._ours = _Session(self.server, next(self.numbers), asked.user_name, place)
            self._finish_login(responses)
            return True
        said = [
            error_token(number, text, server=self._server_name, severity=severity, tds_version=self._tds_version)
            for number, severity, text in errors
        ]
        self._send(responses, b"".join(said) + done(status=DoneStatus.ERROR, tds_version=self._tds_version))
        self._state = ConnectionState.FAILED
        return True

    def _ask(self, query: Query) -> QueryResult:
        if self._ours is None:
            raise refuse(18456, "Login failed.", 14)
        return self._ours.answer(query.sql)

    def leave(self) -> None:
        """Let go of what the connection held."""
        if self._ours is not None:
            self._ours.leave()


class _Handler(bridge._Handler):  # type: ignore[misc]  # noqa: SLF001 - the package has no other way to hear of an end
    """A client's thread; at its end the connection's locks are free."""

    def finish(self) -> None:
        connection = getattr(_of_thread, "connection", None)
        if connection is not None:
            connection.leave()
        super().finish()


def _name(match: re.Match[str], group: int) -> str:
    return str(match[group] or match[group + 1]).replace("]]", "]")


def _text(raw: str) -> str:
    return raw.replace("''", "'")


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _rows(columns: list[str], rows: Any) -> QueryResult:
    """Return a result; a column of numbers alone is one of numbers."""
    rows = [list(row) for row in rows]
    kinds = [
        Integer(8) if rows and all(isinstance(row[place], int) for row in rows) else NVarChar(4000)
        for place in range(len(columns))
    ]
    told = [
        [
            value if isinstance(kind, Integer) or value is None else str(value)
            for value, kind in zip(row, kinds, strict=True)
        ]
        for row in rows
    ]
    return QueryResult(columns=[Column(name, kind) for name, kind in zip(columns, kinds, strict=True)], rows=told)


def start(folder: Path, **options: Any) -> EmulatedServer:
    """Start a new emulated server with the administrator ``sa``.

    Args:
        folder: an existing or new folder.
        options: ``databases`` (name to ``{"contained": true, "read_only": …, "online": …}``), ``lockout`` (failures until
            a login with a policy is locked), ``history`` (former passwords refused), ``windows_only``, ``certificate``
            and ``key`` (files in PEM; its own certificate when absent).

    Raises:
        LabError: it did not start.
    """
    return start_emulated(folder, "mssql", login="sa", options=options)


def main(path: Path) -> None:
    """Listen until the process is ended."""
    settings = Settings.read(path)
    certificate = None
    if "certificate" in settings.options:
        pems = [Path(settings.options[name]).read_bytes() for name in ("certificate", "key")]
        certificate = Certificate(cert_pem=pems[0], key_pem=pems[1])
    _Connection.server = Accounts(settings)
    bridge.Connection, bridge._Handler = _Connection, _Handler  # noqa: SLF001
    bridge.serve("127.0.0.1", settings.port, certificate)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

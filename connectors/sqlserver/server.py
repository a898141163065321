"""What a SQL Server says of itself and of one account, asked before a change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from connectors.base import Deadline
from connectors.sqlserver.link import Link
from connectors.sqlserver.quoting import literal

__all__ = [
    "Principal",
    "Server",
    "contained_user",
    "contained_users",
    "lock_batch",
    "logins",
    "look_at",
    "server_login",
    "unlock_batch",
]

_LOOK = """SELECT CAST(SERVERPROPERTY(N'ProductVersion') AS nvarchar(60)) AS version,
CAST(SERVERPROPERTY(N'Edition') AS nvarchar(100)) AS edition, CAST(SERVERPROPERTY(N'EngineEdition') AS int) AS engine,
CAST(SERVERPROPERTY(N'IsIntegratedSecurityOnly') AS int) AS windows_only, ORIGINAL_LOGIN() AS login, DB_NAME() AS db,
HAS_PERMS_BY_NAME(NULL, NULL, N'ALTER ANY LOGIN') AS may_alter, HAS_PERMS_BY_NAME(NULL, NULL, N'CONTROL SERVER') AS controls,
CONVERT(varchar(19), GETUTCDATE(), 126) AS utc, CONVERT(varchar(19), GETDATE(), 126) AS here"""

_LOGIN = """SELECT p.name AS name, p.type_desc AS kind, CAST(s.is_disabled AS int) AS disabled,
CAST(s.is_policy_checked AS int) AS policy, CAST(LOGINPROPERTY(p.name, N'IsLocked') AS int) AS locked,
CAST(LOGINPROPERTY(p.name, N'IsExpired') AS int) AS expired, CAST(LOGINPROPERTY(p.name, N'IsMustChange') AS int) AS must_change,
CONVERT(varchar(19), CAST(LOGINPROPERTY(p.name, N'PasswordLastSetTime') AS datetime), 126) AS last_set,
CAST(LOGINPROPERTY(p.name, N'DaysUntilExpiration') AS int) AS days, IS_SRVROLEMEMBER(N'sysadmin', p.name) AS is_sysadmin
FROM sys.server_principals AS p LEFT JOIN sys.sql_logins AS s ON s.principal_id = p.principal_id"""

_USER = """SELECT p.name AS name, p.type_desc AS kind, p.authentication_type_desc AS authentication,
HAS_PERMS_BY_NAME(QUOTENAME(DB_NAME()), N'DATABASE', N'ALTER ANY USER') AS may_alter, USER_NAME() AS me,
CAST(DATABASEPROPERTYEX(DB_NAME(), N'Updateability') AS nvarchar(20)) AS updateability
FROM sys.database_principals AS p WHERE p.name = """

_CONTAINED = """SELECT p.name AS name FROM sys.database_principals AS p
WHERE p.authentication_type_desc = N'DATABASE' ORDER BY p.name"""


@dataclass(frozen=True, kw_only=True)
class Server:
    """What was learned at the beginning of a session."""

    title: str
    is_azure: bool  # Azure SQL Database: no logins beside those of its master
    windows_only: bool
    login: str  # the rotator's
    database: str  # the rotator's
    may_alter: bool  # any login
    controls: bool  # the server, members of sysadmin included
    ahead: timedelta  # of the server's local time, in which it tells dates


@dataclass(frozen=True, kw_only=True)
class Principal:
    """A login of the server, or a user contained in a database."""

    name: str
    kind: str  # SQL_LOGIN, WINDOWS_LOGIN, SQL_USER …
    is_contained: bool = False
    is_disabled: bool = False
    has_policy: bool = False
    is_locked: bool = False
    is_expired: bool = False
    must_change: bool = False
    last_set: datetime | None = None
    days: int | None = None  # until the password expires
    is_sysadmin: bool = False
    may_alter: bool = False  # of a contained user: the rotator may change users of its database
    is_own: bool = False  # of a contained user
    is_read_only: bool = False  # of a contained user: its database is

    @property
    def has_password(self) -> bool:
        """Say whether this server keeps its password."""
        return self.kind == "SQL_LOGIN" or self.is_contained


def look_at(link: Link, deadline: Deadline) -> Server:
    """Ask the server; changes nothing.

    Raises:
        ServerRefusal, DriverFailure, TimeoutError: of the connection.
    """
    version, edition, engine, windows_only, login, database, alters, controls, utc, here = link.query(_LOOK, deadline)[
        0
    ]
    return Server(
        title=f"SQL Server {version}, {edition}", is_azure=engine == 5, windows_only=windows_only == 1, login=str(login),
        database=str(database), may_alter=alters == 1 or controls == 1, controls=controls == 1,
        ahead=datetime.fromisoformat(here) - datetime.fromisoformat(utc),
    )  # fmt: skip


def server_login(link: Link, name: str, server: Server, deadline: Deadline) -> Principal | None:
    """Return the login of this name as the rotator sees it; None when it sees none.

    Raises:
        ServerRefusal, DriverFailure, TimeoutError: of the connection.
    """
    rows = link.query(f"{_LOGIN} WHERE p.name = {literal(name)}", deadline)
    return _login(rows[0], server) if rows else None


def logins(link: Link, server: Server, deadline: Deadline) -> list[Principal]:
    """Return the SQL logins that the rotator sees, without those of the server itself.

    Raises:
        ServerRefusal, DriverFailure, TimeoutError: of the connection.
    """
    found = [_login(row, server) for row in link.query(f"{_LOGIN} WHERE p.type = N'S' ORDER BY p.name", deadline)]
    return [each for each in found if not each.name.startswith("##")]


def contained_user(link: Link, name: str, deadline: Deadline) -> Principal | None:
    """Return the user of this name in the link's database, when it has its password there.

    Raises:
        ServerRefusal, DriverFailure, TimeoutError: of the connection.
    """
    rows = link.query(_USER + literal(name), deadline)
    if not rows or rows[0][2] != "DATABASE":
        return None
    name, kind, _, may_alter, me, updateability = rows[0]
    return Principal(
        name=name, kind=kind, is_contained=True, may_alter=may_alter == 1, is_own=me == name,
        is_read_only=updateability == "READ_ONLY",
    )  # fmt: skip


def contained_users(link: Link, deadline: Deadline) -> list[str]:
    """Return the names of the users that have their password in the link's database.

    Raises:
        ServerRefusal, DriverFailure, TimeoutError: of the connection.
    """
    return [str(row[0]) for row in link.query(_CONTAINED, deadline)]


def _login(row: list[object], server: Server) -> Principal:
    name, kind, disabled, policy, locked, expired, must_change, last_set, days, is_sysadmin = row
    told = datetime.fromisoformat(str(last_set)) - server.ahead if last_set else None
    return Principal(
        name=str(name), kind=str(kind), is_disabled=disabled == 1, has_policy=policy == 1, is_locked=locked == 1,
        is_expired=expired == 1, must_change=must_change == 1, is_sysadmin=is_sysadmin == 1,
        last_set=told.replace(tzinfo=UTC) if told else None, days=days if isinstance(days, int) else None,
    )  # fmt: skip


def lock_batch(name: str, milliseconds: int) -> str:
    """Return the batch that waits for the lock on an account's name, and tells whether it is held."""
    return (
        f"SET LOCK_TIMEOUT {milliseconds}; DECLARE @held int; EXEC @held = sp_getapplock @Resource = {literal(name)}, "
        f"@LockMode = N'Exclusive', @LockOwner = N'Session', @LockTimeout = {milliseconds}; SELECT @held AS held"
    )


def unlock_batch(name: str) -> str:
    """Return the batch that ends the lock of ``lock_batch``."""
    return f"SET LOCK_TIMEOUT -1; EXEC sp_releaseapplock @Resource = {literal(name)}, @LockOwner = N'Session'"

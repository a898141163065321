"""What an Oracle database says of itself and of one user, asked before a change."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from connectors.base import Deadline
from connectors.oracle.errors import ServerRefusal
from connectors.oracle.link import Link

__all__ = ["Database", "User", "find_user", "look_at", "shortest", "users"]

_LOOK = """SELECT SYS_CONTEXT('USERENV', 'SESSION_USER') AS me, SYS_CONTEXT('USERENV', 'CON_NAME') AS container,
SYS_CONTEXT('USERENV', 'DATABASE_ROLE') AS role, (SELECT COUNT(*) FROM session_privs WHERE privilege = 'ALTER USER') AS may
FROM dual"""
_COLUMNS = """SELECT username AS name, account_status AS status, authentication_type AS authentication, profile AS profile,
common AS common, TO_CHAR(expiry_date, 'YYYY-MM-DD"T"HH24:MI:SS') AS expires,
TO_CHAR(password_change_date, 'YYYY-MM-DD"T"HH24:MI:SS') AS changed FROM dba_users"""
_OWN = "SELECT username AS name, account_status AS status FROM user_users"
_FUNCTION = """SELECT limit AS name FROM dba_profiles
WHERE profile = :name AND resource_name = 'PASSWORD_VERIFY_FUNCTION'"""
_LENGTHS = {"ORA12C_VERIFY_FUNCTION": 8, "ORA12C_STRONG_VERIFY_FUNCTION": 9, "ORA12C_STIG_VERIFY_FUNCTION": 15,
            "VERIFY_FUNCTION_11G": 8, "VERIFY_FUNCTION": 4}  # fmt: skip
_NO_TABLE = 942
_FIRST_LONG = 23  # version from which on a password may have 1024 bytes in place of 30


@dataclass(frozen=True, kw_only=True)
class Database:
    """What was learned at the beginning of a session."""

    title: str
    me: str
    container: str
    is_primary: bool
    may_alter: bool  # other users
    longest: int  # bytes of a password


@dataclass(frozen=True, kw_only=True)
class User:
    """One user as the rotator sees it."""

    name: str
    status: str  # OPEN, LOCKED, EXPIRED(GRACE) …
    authentication: str = "PASSWORD"
    profile: str = ""
    is_common: bool = False
    expires: datetime | None = None
    changed: datetime | None = None


def look_at(link: Link, deadline: Deadline) -> Database:
    """Ask the database; changes nothing.

    Raises:
        ServerRefusal, DriverFailure, TimeoutError: of the connection.
    """
    me, container, role, may = link.query(_LOOK, (), deadline)[0]
    major = int(re.match(r"\d*", link.version)[0] or 0)  # type: ignore[index]  # it matches the empty text, too
    return Database(
        title=f"Oracle Database {link.version}, container {container}", me=str(me), container=str(container),
        is_primary=str(role) == "PRIMARY", may_alter=int(may) > 0, longest=1024 if major >= _FIRST_LONG else 30,
    )  # fmt: skip


def find_user(link: Link, name: str, deadline: Deadline) -> User | None:
    """Return the user of this name; None when there is none, or none that the rotator may see.

    Raises:
        ServerRefusal, DriverFailure, TimeoutError: of the connection.
    """
    try:
        rows = link.query(f"{_COLUMNS} WHERE username = :name", (name,), deadline)
    except ServerRefusal as refusal:
        if refusal.code != _NO_TABLE:
            raise
        rows = [row for row in link.query(_OWN, (), deadline) if row[0] == name]
    return _user(rows[0]) if rows else None


def users(link: Link, deadline: Deadline) -> list[User]:
    """Return the users that have a password here, without those that the database brings along.

    Raises:
        ServerRefusal, DriverFailure, TimeoutError: of the connection.
    """
    return [
        _user(row) for row in link.query(f"{_COLUMNS} WHERE oracle_maintained = 'N' ORDER BY username", (), deadline)
    ]


def shortest(link: Link, user: User, deadline: Deadline) -> int | None:
    """Return the length that the profile's verify function demands, where it is one of the database's own.

    Raises:
        ServerRefusal, DriverFailure, TimeoutError: of the connection.
    """
    if not user.profile:
        return None
    try:
        rows = link.query(_FUNCTION, (user.profile,), deadline)
    except ServerRefusal as refusal:
        if refusal.code != _NO_TABLE:
            raise
        return None
    return _LENGTHS.get(str(rows[0][0])) if rows else None


def _user(row: tuple[object, ...]) -> User:
    name, status, *more = (str(cell) if cell is not None else "" for cell in row)
    if not more:
        return User(name=name, status=status)
    authentication, profile, common, expires, changed = more
    return User(
        name=name, status=status, authentication=authentication, profile=profile, is_common=common == "YES",
        expires=_when(expires), changed=_when(changed),
    )  # fmt: skip


def _when(text: str) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None

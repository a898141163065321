"""Which user of which database a record means, and what it may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connectors.base import Target
from pam_jobs.errors import Unsupported

__all__ = ["User", "grants", "user_of"]

_ADMIN = "admin"
_NEVER_IN_DATABASES = frozenset('/\\. "$*<>:|?\0')
_DATABASE_BYTES = 63


@dataclass(frozen=True, kw_only=True)
class User:
    """A user, who belongs to one database."""

    name: str
    database: str

    def __str__(self) -> str:
        return self.name if self.database == _ADMIN else f"{self.name}@{self.database}"

    @property
    def identity(self) -> dict[str, str]:
        """Return how commands name the user."""
        return {"user": self.name, "db": self.database}


def user_of(login: str, database: str | None, target: Target) -> User:
    """Return the user that a record means.

    Args:
        login: ``user``, or ``user@database`` where the record names no database itself.
        database: connectDatabase of the record.
        target: whose ``authSource``, then connectDatabase, are the database of logins that name none.

    Raises:
        Unsupported: it is no user whose password this server keeps.
    """
    name = login
    if not database:
        before, at, after = login.rpartition("@")
        if at and before and _is_database(after):
            name, database = before, after
    database = database or target.options.get("authsource") or target.database or _ADMIN
    if database == "$external":
        raise Unsupported(
            "users of $external have no password on this server", remedy="rotate the password where it is kept"
        )
    if not name or "\0" in name or not _is_database(database):
        raise Unsupported("the login is no name of a user", remedy="write user, or user@database")
    return User(name=name, database=database)


def grants(privileges: Any, action: str, database: str) -> bool:
    """Say whether what ``connectionStatus`` tells of a login's rights has an action on a database."""
    for each in privileges if isinstance(privileges, list) else []:
        resource = each.get("resource") if isinstance(each, Mapping) else None
        if not isinstance(resource, Mapping) or action not in (each.get("actions") or []):
            continue
        if resource.get("anyResource") or (resource.get("db") in {"", database} and resource.get("collection") == ""):
            return True
    return False


def _is_database(text: str) -> bool:
    return 0 < len(text.encode(errors="replace")) <= _DATABASE_BYTES and not _NEVER_IN_DATABASES & set(text)

"""What a MySQL or MariaDB server says of itself, and of what the rotator may do there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from connectors.base import Deadline
from connectors.mysql.link import Link

__all__ = ["Server", "look_at", "name_of"]

_WHO = "SELECT CURRENT_USER(), USER(), VERSION(), @@version_comment"
_SEEN_AS = "SELECT host FROM information_schema.processlist WHERE id = CONNECTION_ID()"
_VARIABLES = """SHOW GLOBAL VARIABLES WHERE Variable_name IN (
'read_only', 'super_read_only', 'strict_password_validation', 'simple_password_check_minimal_length',
'validate_password.length', 'validate_password_length', 'default_password_lifetime')"""
_RULES = """SELECT COUNT(*) FROM information_schema.plugins
WHERE plugin_type IN ('PASSWORD VALIDATION', 'VALIDATE PASSWORD') AND plugin_status = 'ACTIVE'"""


@dataclass(frozen=True, kw_only=True)
class Server:
    """What was learned at the beginning of a session."""

    user: str  # the account that the rotator's login reached
    host: str
    seen_as: tuple[str, ...]  # the gateway's address and, where the server looks names up, its name
    title: str  # software and version
    is_mariadb: bool
    is_read_only: bool
    may_create_users: bool  # and so set the passwords of others
    has_rules: bool  # for passwords, which a hash would pass by
    refuses_hashes: bool  # while it has rules
    min_length: int | None
    lifetime_days: int


def look_at(link: Link, deadline: Deadline) -> Server:
    """Ask the server; changes nothing.

    Raises:
        ServerRefusal, TimeoutError, pymysql.err.MySQLError: of the connection.
    """
    current, client, version, comment = (str(cell) for cell in link.query(_WHO, (), deadline)[0])
    variables = {str(row[0]): str(row[1]) for row in link.query(_VARIABLES, (), deadline)}
    user, host = name_of(current)
    address = str(link.query(_SEEN_AS, (), deadline)[0][0]).rpartition(":")[0]
    names = dict.fromkeys(part for part in (address, name_of(client)[1]) if part)
    grants = [str(row[0]) for row in link.query("SHOW GRANTS", (), deadline)]
    is_mariadb = "mariadb" in f"{version} {comment}".casefold()
    lengths = [variables[name] for name in variables if name.endswith("length")]
    return Server(
        user=user, host=host, seen_as=tuple(names), is_mariadb=is_mariadb,
        title=f"{'MariaDB' if is_mariadb else 'MySQL'} {version.removeprefix('5.5.5-')}",
        is_read_only="ON" in {variables.get("read_only"), variables.get("super_read_only")},
        may_create_users=any(_gives_create_user(grant) for grant in grants),
        has_rules=link.query(_RULES, (), deadline)[0][0] > 0 or any(name.startswith("validate") for name in variables),
        refuses_hashes=variables.get("strict_password_validation") == "ON",
        min_length=max((int(text) for text in lengths if text.isdigit()), default=None),
        lifetime_days=int(variables.get("default_password_lifetime", "0")),
    )  # fmt: skip


def name_of(text: str) -> tuple[str, str]:
    """Return user and host of what ``CURRENT_USER()`` and ``USER()`` answer; the user may contain ``@``."""
    user, _, host = text.rpartition("@")
    return user, host


def _gives_create_user(grant: str) -> bool:
    """Say whether a line of ``SHOW GRANTS`` lets its user change others, or may do so through a role."""
    rights = re.match(r"GRANT (.+?) ON \*\.\* TO ", grant)
    if rights is None:
        return False
    return bool({"ALL PRIVILEGES", "CREATE USER"} & {right.strip() for right in rights[1].split(",")})

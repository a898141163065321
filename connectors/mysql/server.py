"""What a MySQL or MariaDB server says of itself, and of what the rotator may do there."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from connectors.base import Deadline
from connectors.mysql.errors import ServerRefusal
from connectors.mysql.link import Link

__all__ = ["Server", "look_at", "name_of", "rights_on_all", "roles_of"]

_FIRST_WITH_TWO = (8, 0, 14)
_OTHERS = frozenset({"ALL PRIVILEGES", "CREATE USER"})
_OWN = _OTHERS | {"APPLICATION_PASSWORD_ADMIN"}
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
    keeps_two: bool  # passwords of an account: the former beside the present one
    may_keep_own: bool  # the rotator may have two itself
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
    is_mariadb = "mariadb" in f"{version} {comment}".casefold()
    rights = _rights(link, deadline, is_mariadb=is_mariadb)
    numbers = tuple(int(text) for text in re.findall(r"\d+", version)[:3])
    lengths = [variables[name] for name in variables if name.endswith("length")]
    return Server(
        user=user, host=host, seen_as=tuple(names), is_mariadb=is_mariadb,
        title=f"{'MariaDB' if is_mariadb else 'MySQL'} {version.removeprefix('5.5.5-')}",
        is_read_only="ON" in {variables.get("read_only"), variables.get("super_read_only")},
        may_create_users=bool(_OTHERS & rights),
        keeps_two=not is_mariadb and numbers >= _FIRST_WITH_TWO, may_keep_own=bool(_OWN & rights),
        has_rules=link.query(_RULES, (), deadline)[0][0] > 0 or any(name.startswith("validate") for name in variables),
        refuses_hashes=variables.get("strict_password_validation") == "ON",
        min_length=max((int(text) for text in lengths if text.isdigit()), default=None),
        lifetime_days=int(variables.get("default_password_lifetime", "0")),
    )  # fmt: skip


def name_of(text: str) -> tuple[str, str]:
    """Return user and host of what ``CURRENT_USER()`` and ``USER()`` answer; the user may contain ``@``."""
    user, _, host = text.rpartition("@")
    return user, host


def _rights(link: Link, deadline: Deadline, *, is_mariadb: bool) -> set[str]:
    """Return the rights on everything that the rotator has, and take on the roles that it needs for them.

    MySQL lets a session have all of its roles at once, MariaDB one of them.
    """
    grants = [str(row[0]) for row in link.query("SHOW GRANTS", (), deadline)]
    rights = rights_on_all(grants)
    roles = [role for grant in grants for role in roles_of(grant)]
    if rights & _OTHERS or not roles:
        return rights
    if not is_mariadb:
        link.query("SET ROLE ALL", (), deadline)
        used = ", ".join("%s@%s" for _ in roles)
        names = [part for role in roles for part in role]
        return rights_on_all(
            [str(row[0]) for row in link.query(f"SHOW GRANTS FOR CURRENT_USER() USING {used}", names, deadline)]
        )
    for name, _ in roles:
        with contextlib.suppress(ServerRefusal):
            link.query("SET ROLE %s", (name,), deadline)
            found = rights | rights_on_all([str(row[0]) for row in link.query("SHOW GRANTS", (), deadline)])
            if found & _OTHERS:
                return found
    return rights


def rights_on_all(grants: list[str]) -> set[str]:
    """Return the rights on everything in lines of ``SHOW GRANTS``, whoever of them has them."""
    found = [re.match(r"GRANT (.+?) ON \*\.\* TO ", grant) for grant in grants]
    return {right.strip() for match in found if match for right in match[1].split(",")}


def roles_of(grant: str) -> list[tuple[str, str]]:
    """Return names and hosts of the roles that a line of ``SHOW GRANTS`` gives."""
    match = re.match(r"GRANT ((?:`(?:[^`]|``)*`(?:@`[^`]*`)?,? ?)+) TO ", grant)
    parts = re.findall(r"`((?:[^`]|``)*)`(?:@`([^`]*)`)?", match[1]) if match else []
    return [(name.replace("``", "`"), host or "%") for name, host in parts]

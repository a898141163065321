"""What is asked of a PostgreSQL server, what its answers mean, and the one statement that changes something."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, Self

from psycopg import sql

from pam_jobs.errors import Forbidden, Locked, Unsupported

__all__ = ["PREFLIGHT", "ROLES", "ROLE_STATE", "VERIFIERS", "Standing", "alter_role", "lock_number"]

_FIRST_ADMIN_OPTION_VERSION: Final = 160000

PREFLIGHT: Final = """
SELECT r.oid IS NOT NULL, r.rolcanlogin, r.rolvaliduntil < now(), r.rolsuper, r.rolreplication,
       r.oid IS NOT NULL AND d.oid IS NOT NULL AND has_database_privilege(r.oid, d.oid, 'CONNECT'),
       r.rolname = session_user, session_user, me.rolsuper, me.rolcreaterole,
       r.oid IS NOT NULL AND pg_has_role(session_user, r.oid, 'MEMBER WITH ADMIN OPTION'),
       pg_is_in_recovery(), pooled.it, current_setting('server_version'), current_setting('password_encryption'),
       current_setting('scram_iterations', true),
       CASE WHEN current_setting('is_superuser') = 'on'
            THEN concat_ws(',', current_setting('shared_preload_libraries'),
                           current_setting('session_preload_libraries'), current_setting('local_preload_libraries'))
            ELSE (SELECT string_agg(setting, ',') FROM pg_settings WHERE name LIKE '%_preload_libraries') END,
       current_setting('passwordcheck.min_password_length', true),
       pg_postmaster_start_time()::text, extract(epoch FROM pg_conf_load_time())::text, extract(epoch FROM now())::text
FROM pg_roles me CROSS JOIN (SELECT pg_backend_pid()::text <> $3 AS it) AS pooled
LEFT JOIN pg_roles r ON r.rolname = $1
LEFT JOIN pg_database d ON d.datname = CASE WHEN pooled.it THEN current_database() ELSE $2 END
WHERE me.rolname = session_user
"""
"""Login, database, and the process that the login named (``Standing`` has the columns)."""

ROLE_STATE: Final = """
SELECT rolcanlogin, rolvaliduntil < now(),
       CASE WHEN isfinite(rolvaliduntil) THEN extract(epoch FROM rolvaliduntil)::text END
FROM pg_roles WHERE rolname = $1
"""
ROLES: Final = """
SELECT rolname, rolsuper, rolcreaterole, rolreplication,
       CASE WHEN isfinite(rolvaliduntil) THEN to_char(rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') END
FROM pg_roles WHERE rolcanlogin ORDER BY rolname
"""
VERIFIERS: Final = """
SELECT rolname, CASE WHEN rolpassword IS NULL THEN 'none' WHEN rolpassword LIKE 'SCRAM-SHA-256$%' THEN 'scram-sha-256'
                     ELSE 'md5' END FROM pg_authid WHERE rolcanlogin
"""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A role, the rotator and the server, as the columns of ``PREFLIGHT`` tell of them; texts are empty where they are NULL."""

    exists: bool
    may_log_in: bool
    has_expired: bool
    is_superuser: bool
    replicates: bool
    may_connect: bool  # to the database, which there is
    is_self: bool
    me: str  # who the server takes the rotator for
    rotator_is_superuser: bool
    rotator_creates_roles: bool
    rotator_has_admin_option: bool  # on the role
    is_standby: bool
    is_pooled: bool
    version: str
    encryption: str
    iterations: str
    libraries: str  # that the server loads
    min_length: str  # of passwordcheck
    started: str  # the server
    loaded: str  # its settings, in seconds since 1970
    seen: str  # this, in seconds since 1970

    @classmethod
    def of(cls, row: Sequence[str | None]) -> Self:
        """Return what a row tells."""
        named = zip(fields(cls), row, strict=True)
        values: dict[str, bool | str] = {
            each.name: text == "t" if each.type == "bool" else text or "" for each, text in named
        }
        return cls(**values)  # type: ignore[arg-type]

    def refuse_what_cannot_log_in(self, login: str) -> None:
        """Return where the role is one that can log in with a new password.

        Raises:
            Unsupported: there is none, it may not log in, or the server takes no change.
            Locked: its password has expired.
        """
        if self.is_standby:
            raise Unsupported("the server is a read-only standby", remedy="point the resource record at the primary")
        if not self.exists:
            raise Unsupported(f"there is no role {login!r}", remedy="check the login in the user record")
        if not self.may_log_in:
            raise Unsupported(f"role {login!r} may not log in", remedy="ALTER ROLE … LOGIN, or remove the rotation")
        if self.has_expired:
            raise Locked(f"the password of role {login!r} has expired", remedy="ALTER ROLE … VALID UNTIL")

    def refuse_what_is_not_allowed(self, login: str, database: str, server_version: int) -> None:
        """Return where the rotator may change the role, and the role may connect to the database.

        Raises:
            Unsupported: the role may not.
            Forbidden: the rotator may not.
        """
        if not self.may_connect:
            raise Unsupported(
                f"role {login!r} cannot connect to database {database!r}",
                remedy="set connectDatabase to one that the role can connect to",
            )
        is_modern = server_version >= _FIRST_ADMIN_OPTION_VERSION
        has_right = self.rotator_has_admin_option if is_modern else not self.replicates
        may_manage = self.rotator_creates_roles and not self.is_superuser and has_right
        if not (self.rotator_is_superuser or self.is_self or may_manage):
            remedy = "make the rotator a superuser, or give it CREATEROLE and ADMIN OPTION on the role"
            raise Forbidden(f"the rotator may not change role {login!r}", remedy=remedy)


def alter_role(login: str, verifier: str | None) -> bytes:
    """Return the statement that stores a verifier; ``ALTER ROLE`` takes no bound values, so this is the one quoting.

    Args:
        login: any name, quoted as an identifier.
        verifier: the stored form of the password, quoted as a literal; None for no password.
    """
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal(verifier))
    return statement.as_bytes(None)


def lock_number(login: str) -> int:
    """Return the advisory lock of a role: 64 bits that no other role is likely to share."""
    digest = hashlib.sha256(b"pam-jobs role\0" + login.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)

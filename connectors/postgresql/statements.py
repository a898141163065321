"""What is asked of a PostgreSQL server, and the one statement that changes something."""

from __future__ import annotations

import hashlib
from typing import Final

from psycopg import sql

__all__ = ["PREFLIGHT", "ROLES", "ROLE_STATE", "VERIFIERS", "alter_role", "lock_number"]

PREFLIGHT: Final = """
SELECT r.oid IS NOT NULL, r.rolcanlogin, r.rolvaliduntil < now(), r.rolsuper, r.rolreplication,
       r.rolname = session_user, me.rolsuper, me.rolcreaterole, pg_is_in_recovery(),
       current_setting('server_version'), current_setting('password_encryption'),
       coalesce(current_setting('scram_iterations', true), ''),
       r.oid IS NOT NULL AND pg_has_role(session_user, r.oid, 'MEMBER WITH ADMIN OPTION'),
       d.oid IS NOT NULL, r.oid IS NOT NULL AND d.oid IS NOT NULL AND has_database_privilege(r.oid, d.oid, 'CONNECT'),
       pooled.it, session_user,
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

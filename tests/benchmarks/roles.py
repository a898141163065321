"""The accounts that benchmarks rotate."""

from __future__ import annotations

import secrets

from psycopg import sql

from tests.benchmarks.bare import BareTarget

__all__ = ["make_roles"]


def make_roles(target: BareTarget, prefix: str, count: int) -> dict[str, str]:
    """Create roles on the server and return their names and passwords."""
    roles = {f"{prefix}{number:03}": secrets.token_urlsafe(12) for number in range(count)}
    with target.connect() as connection:
        for role, password in roles.items():
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
            )
    return roles

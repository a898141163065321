"""What each role, and each scope of an API token, may do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

__all__ = ["PERMISSIONS_OF_ROLE", "PERMISSIONS_OF_SCOPE", "Permission", "Role", "Scope", "permissions"]


class Role(StrEnum):
    """A user's role."""

    ADMIN = "admin"  # everything
    OPERATOR = "operator"  # everything but users and audit sinks
    AUDITOR = "auditor"  # reads jobs, metrics and the audit log


class Permission(StrEnum):
    """One thing that a route asks for."""

    VAULT = "vault"  # folders, records, files
    APPLICATIONS = "applications"
    GATEWAYS = "gateways"
    CONFIGURE_ROTATION = "configure_rotation"
    ROTATE = "rotate"  # submit and cancel jobs
    JOBS_READ = "jobs_read"
    DISCOVER = "discover"
    AUDIT_READ = "audit_read"
    SIEM = "siem"
    USERS = "users"
    METRICS_READ = "metrics_read"


class Scope(StrEnum):
    """What an API token may be used for."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    AUDIT_READ = "audit:read"
    METRICS_READ = "metrics:read"


PERMISSIONS_OF_ROLE: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.ADMIN: frozenset(Permission),
    Role.OPERATOR: frozenset(Permission) - {Permission.SIEM, Permission.USERS},
    Role.AUDITOR: frozenset({Permission.JOBS_READ, Permission.AUDIT_READ, Permission.METRICS_READ}),
}

PERMISSIONS_OF_SCOPE: Final[Mapping[Scope, frozenset[Permission]]] = {
    Scope.JOBS_READ: frozenset({Permission.JOBS_READ}),
    Scope.JOBS_WRITE: frozenset({Permission.JOBS_READ, Permission.ROTATE, Permission.DISCOVER}),
    Scope.AUDIT_READ: frozenset({Permission.AUDIT_READ}),
    Scope.METRICS_READ: frozenset({Permission.METRICS_READ}),
}


def permissions(role: str, scopes: Iterable[str] | None) -> frozenset[Permission]:
    """Return what a request may do: all that the role allows, or of it what a token's scopes name.

    Args:
        role: of the user.
        scopes: of the API token; None for a signed-in user.
    """
    allowed = PERMISSIONS_OF_ROLE[Role(role)]
    if scopes is None:
        return allowed
    named: frozenset[Permission] = frozenset().union(*(PERMISSIONS_OF_SCOPE[Scope(scope)] for scope in scopes))
    return allowed & named

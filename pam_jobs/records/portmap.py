"""Port mapping: which protocol a resource's port speaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pam_jobs.errors import InvalidInput

__all__ = ["DATABASE_TYPES", "PROTOCOLS", "STANDARD_PORTS", "PortMapping", "protocol_for"]

PROTOCOLS: Final = (
    *("ssh", "winrm", "ldap", "ldaps", "postgresql", "mysql", "mariadb", "mssql", "oracle", "mongodb"),
    *("redis", "rabbitmq", "rdp", "vnc", "telnet", "http", "https", "kubernetes", "elasticsearch", "clickhouse"),
)
"""Labels that a port mapping may use; the first twelve rotate, the others are for connections."""

STANDARD_PORTS: Final[Mapping[int, str]] = {
    22: "ssh",
    389: "ldap",
    636: "ldaps",
    1433: "mssql",
    1521: "oracle",
    3306: "mysql",
    5432: "postgresql",
    5985: "winrm",
    5986: "winrm",
    6379: "redis",
    15671: "rabbitmq",
    15672: "rabbitmq",
    27017: "mongodb",
}

DATABASE_TYPES: Final = (
    "postgresql",
    "postgresql-flexible",
    "mysql",
    "mysql-flexible",
    "mariadb",
    "mariadb-flexible",
    "mssql",
    "oracle",
    "mongodb",
    "redis",
    "rabbitmq",
)

_ALIASES: Final = {"sql-server": "mssql", "sqlserver": "mssql", "postgres": "postgresql"}
_WIRE: Final = {"mariadb": "mysql"}  # labels that speak one protocol
_BY_TYPE: Final = {
    "pamMachine": frozenset({"ssh", "winrm"}),
    "pamDatabase": frozenset({"postgresql", "mysql", "mariadb", "mssql", "oracle", "mongodb", "redis", "rabbitmq"}),
    "pamDirectory": frozenset({"ldap", "ldaps", "winrm", "ssh"}),
}


@dataclass(frozen=True)
class PortMapping:
    """The ports a configuration names itself; they go before the standard ones."""

    labels: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> PortMapping:
        """Return the mapping written as one ``PORT=LABEL`` a line; blank lines do not count.

        Raises:
            InvalidInput: a line is not of that form, or names a port a second time.
        """
        labels: dict[int, str] = {}
        for line in (text or "").splitlines():
            if line.strip():
                port, label = _entry(line.strip())
                if port in labels:
                    raise InvalidInput(
                        f"the port mapping names port {port} twice ({labels[port]} and {label})",
                        remedy="keep one line for each port",
                    )
                labels[port] = label
        return cls(labels)

    def to_text(self) -> str:
        """Return the mapping as the configuration record holds it."""
        return "\n".join(f"{port}={label}" for port, label in self.labels.items())


def protocol_for(
    port: int | None,
    mapping: PortMapping | None = None,
    record_type: str | None = None,
    database_type: str | None = None,
) -> str:
    """Return the label of the protocol that the resource's port speaks, such as ``ssh`` or ``postgresql``.

    Args:
        port: the resource's port, 1 to 65535.
        mapping: of the configuration; its lines go before the standard ports.
        record_type: of the resource, to refuse a protocol it cannot have.
        database_type: of the resource, to tell MariaDB from MySQL and to refuse a contradiction.

    Raises:
        InvalidInput: no port, a port nobody mapped, or one that contradicts the record.
    """
    family = (database_type or "").strip().casefold().removesuffix("-flexible")
    if port is None:
        raise InvalidInput("the resource has no port", remedy="set the port of the resource's record")
    mapped = (mapping or PortMapping()).labels.get(port)
    label = mapped or STANDARD_PORTS.get(port)
    if label is None:
        raise InvalidInput(
            f"port {port} is not mapped to a protocol",
            remedy=f"add the line {port}={family or _likely(record_type)} to the configuration's port mapping",
        )
    if family and record_type in (None, "pamDatabase"):
        if _WIRE.get(label, label) != _WIRE.get(family, family):
            raise InvalidInput(
                f"port {port} speaks {label} but the record's databaseType is {database_type}",
                remedy=f"add the line {port}={family} to the configuration's port mapping, or correct the databaseType",
            )
        return label if mapped else family
    allowed = _BY_TYPE.get(record_type or "")
    if allowed is not None and label not in allowed:
        raise InvalidInput(
            f"port {port} speaks {label}, which a {record_type} cannot have",
            remedy=f"correct the record's port, or add the line {port}={_likely(record_type)} to the port mapping",
        )
    return label


def _likely(record_type: str | None) -> str:
    return {"pamDatabase": "postgresql", "pamDirectory": "ldaps"}.get(record_type or "", "ssh")


def _entry(line: str) -> tuple[int, str]:
    number, equals, name = (part.strip() for part in line.partition("="))
    if not equals or not (number.isascii() and number.isdigit()):
        raise InvalidInput(f"{line!r} is not a port mapping", remedy="write PORT=LABEL, such as 2222=ssh")
    if len(number) > 5 or not 1 <= int(number) <= 65535:
        raise InvalidInput(f"{number} in the port mapping is not a port", remedy="use a number from 1 to 65535")
    label = _ALIASES.get(name.casefold(), name.casefold())
    if label not in PROTOCOLS:
        raise InvalidInput(
            f"the port mapping gives port {number} the unknown label {name!r}",
            remedy="use one of " + ", ".join(sorted(PROTOCOLS)),
        )
    return int(number), label

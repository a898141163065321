"""Which connectors there are, and which of them a target gets, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from connectors.base import Connector
from pam_jobs.errors import ConfigurationError, Unsupported

__all__ = ["BUILT_IN", "GROUP", "ConnectorRegistry"]

GROUP = "pam_jobs.connectors"

BUILT_IN = {
    "postgresql": "connectors.postgresql.connector:PostgresqlConnector",
    "mysql": "connectors.mysql.connector:MysqlConnector",
    "linux": "connectors.linux.connector:LinuxConnector",
    "network": "connectors.network.connector:NetworkConnector",
    "mongodb": "connectors.mongodb.connector:MongodbConnector",
    "rabbitmq": "connectors.rabbitmq.connector:RabbitmqConnector",
    "redis": "connectors.redis.connector:RedisConnector",
    "activedirectory": "connectors.activedirectory.connector:ActiveDirectoryConnector",
    "activedirectory-winrm": "connectors.activedirectory.winrm:ActiveDirectoryWinrmConnector",
    "openldap": "connectors.openldap.connector:OpenldapConnector",
    "oracle": "connectors.oracle.connector:OracleConnector",
    "sqlserver": "connectors.sqlserver.connector:SqlserverConnector",
    "macos": "connectors.macos.connector:MacosConnector",
    "winrm": "connectors.windows.connector:WinrmConnector",
    "windows-ssh": "connectors.windows.connector:WindowsSshConnector",
}
"""Our own, so that a source tree whose entry points are stale works too."""

_DIRECTORIES = {
    "": ("activedirectory", "openldap"),  # the first looks, and passes on what is none
    "active_directory": ("activedirectory", "activedirectory-winrm"),
    "openldap": ("openldap",),
}

_CHAINS: dict[str, dict[str, tuple[str, ...]]] = {
    "ssh": {
        "": ("linux",),
        "linux": ("linux",),
        "macos": ("macos",),
        "windows": ("windows-ssh",),
        **dict.fromkeys(("cisco ios xe", "ios xe", "ios-xe", "network"), ("network",)),
    },
    "winrm": {"": ("winrm", "windows-ssh"), "active_directory": ("activedirectory-winrm",)},
    "postgresql": {"": ("postgresql",)},
    "ldap": _DIRECTORIES,
    "ldaps": _DIRECTORIES,
    "mysql": {"": ("mysql",)},
    "mongodb": {"": ("mongodb",)},
    "rabbitmq": {"": ("rabbitmq",)},
    "redis": {"": ("redis",)},
    "mariadb": {"": ("mysql",)},
    "mssql": {"": ("sqlserver",)},
    "oracle": {"": ("oracle",)},
}
"""By protocol, then by operating system or kind of directory, in lower case; "" is every other one.

Names without a connector are left out.
"""


class ConnectorRegistry:
    """The connectors of a process: one instance of each, made when first asked for, shared by every thread."""

    def __init__(self, points: Iterable[EntryPoint] | None = None, *, state_folder: Path | None = None) -> None:
        """Collect what there is; nothing is imported yet.

        Args:
            points: entry points to use in place of the installed ones.
            state_folder: an existing folder where connectors remember beyond the process; None: they do not.

        Raises:
            ConfigurationError: two different connectors have one name.
        """
        self._values = dict(BUILT_IN)
        for point in entry_points(group=GROUP) if points is None else points:
            if self._values.setdefault(point.name, point.value) != point.value:
                raise ConfigurationError(
                    f"there are two connectors named {point.name!r}: {self._values[point.name]} and {point.value}",
                    remedy="uninstall one of the packages, or rename its entry point",
                )
        self._made: dict[str, Connector] = {}
        self._state_folder = state_folder

    def names(self) -> list[str]:
        """Return the names of all connectors, in alphabetical order."""
        return sorted(self._values)

    def by_name(self, name: str) -> Connector:
        """Return the connector of this name.

        Raises:
            Unsupported: there is none, or its driver is not installed.
            ConfigurationError: what the entry point names is no connector of this name.
        """
        if name not in self._made:
            # Two threads may both make one; the first one stored is the one that everybody gets.
            self._made.setdefault(name, self._load(name))
        return self._made[name]

    def chain_for(self, protocol: str, kind: str | None = None) -> list[Connector]:
        """Return the connectors for a target, the first to be tried first.

        Args:
            protocol: label of the port mapping, such as "ssh".
            kind: operating system or kind of directory, as on the resource record; None or unknown gives the protocol's
                usual chain.

        Raises:
            Unsupported: no connector speaks the protocol.
        """
        wanted = _CHAINS.get(protocol, {})
        names = wanted.get((kind or "").lower(), wanted.get("", ()))
        chain = [self.by_name(name) for name in names[:1]]
        for name in names[1:]:
            with contextlib.suppress(Unsupported):  # its driver is not installed: the first way does not need it
                chain.append(self.by_name(name))
        if not chain:
            chain = [connector for connector in self._others() if protocol in connector.protocols]
        if not chain:
            raise Unsupported(
                f"no connector speaks {protocol!r}",
                remedy=f"map the port to one of {', '.join(sorted(_CHAINS))}, or install the connector's package",
            )
        return chain

    def recognisers(self) -> list[Connector]:
        """Return the connectors that can tell what listens on a port; one whose driver is missing is left out."""
        found = []
        for name in self.names():
            try:
                connector = self.by_name(name)
            except Unsupported:
                continue
            if type(connector).recognise is not Connector.recognise:
                found.append(connector)
        return found

    def close_idle(self) -> None:
        """Close the kept connections of every connector, as at shutdown."""
        for connector in self._made.values():
            connector.close_idle()

    def _others(self) -> list[Connector]:
        return [self.by_name(name) for name in self.names() if name not in BUILT_IN]

    def _load(self, name: str) -> Connector:
        if name not in self._values:
            raise Unsupported(f"there is no connector {name!r}", remedy=f"use one of {', '.join(self.names())}")
        module, _, attribute = self._values[name].partition(":")
        try:
            kind = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            remedy = f"install the extra pam-jobs[{name}], or the package that brings {error.name}"
            raise Unsupported(f"connector {name!r} lacks its driver {error.name!r}", remedy=remedy) from error
        if not (isinstance(kind, type) and issubclass(kind, Connector) and kind.name == name):
            raise ConfigurationError(
                f"{self._values[name]} is no connector named {name!r}", remedy="fix its entry point"
            )
        connector = kind()
        if self._state_folder is not None:
            connector.keep_state(self._state_folder)
        return connector

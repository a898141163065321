"""Which targets the lab knows; a new one joins with one line here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from deploy.lab.packages import missing
from deploy.lab.processes import end

__all__ = ["TARGETS", "LabTarget"]


@dataclass(frozen=True, kw_only=True)
class LabTarget:
    """A target of the lab: a module of this package with ``start(folder)``, which returns the running server.

    The module may have ``stop(folder)``, ``obstacles()`` (why it cannot run here) and ``packages()`` (of Debian, that are
    not there yet).
    """

    name: str  # of its folder in the lab's folder, too
    module: str
    product: str  # what runs, as people call it
    emulated: bool = False  # it speaks the protocol, and is not the vendor's
    hosted: bool = False  # threads of the process that starts it, which therefore stays

    def start(self, folder: Path) -> Any:
        """Start it; its state is in the folder.

        Raises:
            LabError: it did not start.
        """
        return self._load().start(folder)

    def stop(self, folder: Path) -> None:
        """Stop what runs in the folder; harmless when nothing does."""
        if self.hosted:
            end(folder, self.name)
            return
        stop = getattr(self._load(), "stop", None)
        if stop is not None:
            stop(folder)

    def packages(self) -> list[str]:
        """Return the Debian packages that it lacks here."""
        ask = getattr(self._load(), "packages", None)
        return ask() if ask is not None else []

    def obstacles(self) -> list[str]:
        """Return why it cannot run here; empty when it can."""
        ask = getattr(self._load(), "obstacles", None)
        return ask() if ask is not None else []

    def _load(self) -> ModuleType:
        return import_module(f"deploy.lab.{self.module}")


TARGETS: Final = (
    LabTarget(name="postgresql", module="postgres", product="PostgreSQL"),
    LabTarget(name="mariadb", module="mariadb", product="MariaDB"),
    LabTarget(name="redis", module="redis", product="Redis or Valkey"),
    LabTarget(name="rabbitmq", module="rabbitmq", product="RabbitMQ"),
    LabTarget(name="openldap", module="openldap", product="OpenLDAP"),
    LabTarget(name="samba", module="samba", product="Active Directory (Samba)"),
    LabTarget(name="ssh", module="sshd", product="Linux over SSH"),
    LabTarget(name="macos", module="macos", product="macOS over SSH", emulated=True),
    LabTarget(name="mongodb", module="mongodb", product="MongoDB (SecantusDB)", emulated=True),
    LabTarget(name="mssql", module="mssql", product="SQL Server", emulated=True),
    LabTarget(name="mysql8", module="mysql8", product="MySQL 8", emulated=True),
    LabTarget(name="oracle", module="oracle", product="Oracle Database", emulated=True),
    LabTarget(name="ios_xe", module="ios_xe", product="Cisco IOS XE", emulated=True),
    LabTarget(
        name="saas", module="saas", product="Okta, Snowflake and other online services", emulated=True, hosted=True
    ),
    LabTarget(name="windows", module="windows", product="Windows over WinRM and SSH", emulated=True, hosted=True),
)
"""In the order of the table."""


def packages_of_all(targets: tuple[LabTarget, ...] = TARGETS) -> list[str]:
    """Return the Debian packages that these targets lack here, each once."""
    wanted = [*missing(), *(package for target in targets for package in target.packages())]
    return list(dict.fromkeys(wanted))

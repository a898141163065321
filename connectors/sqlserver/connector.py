"""SQL Server: passwords of SQL logins, and of users contained in a database."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import ClassVar

from connectors.base import Capability, Credential, Deadline, Service, Target
from connectors.kept import KeepingConnector, KeptConnections
from connectors.sqlserver.link import CONNECT_SECONDS, Drivers, Link, Login
from connectors.sqlserver.quoting import checked_database, checked_name, checked_password
from connectors.sqlserver.session import DEFAULT_DATABASE, SqlserverSession
from connectors.sqlserver.wire import read_prelogin
from connectors.tls import tls_mode
from pam_jobs.errors import PolicyRefused, Unsupported

__all__ = ["SqlserverConnector"]

_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,253}")  # it goes into a file of FreeTDS
_LOOPBACK = re.compile(r"127\.[0-9.]+|::1|localhost", re.IGNORECASE)


class SqlserverConnector(KeepingConnector[Link]):
    """SQL Server 2012 and newer, Azure SQL Managed Instance, Azure SQL Database."""

    name: ClassVar[str] = "sqlserver"
    protocols: ClassVar[frozenset[str]] = frozenset({"mssql"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CHANGE, Capability.PROBE, Capability.DISCOVER, Capability.METADATA}
    )

    def __init__(self, kept: KeptConnections[Link] | None = None, drivers: Drivers | None = None) -> None:
        """Start with no connection.

        Args:
            kept: where rotators' connections wait for their next session; a small one when absent.
            drivers: where the driver's processes wait for a login; its own, ended by ``close_idle``, when absent.
        """
        self.kept = kept or KeptConnections(
            is_usable=Link.is_idle, close=Link.close, max_total=16, max_per_key=8
        )  # fewer than elsewhere: each one is a process
        self._drivers = drivers or Drivers()
        self._owns_drivers = drivers is None

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> SqlserverSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return SqlserverSession(self, target, rotator, deadline).connect()

    def close_idle(self) -> None:
        """Close the kept connections and end the waiting processes, as at shutdown."""
        super().close_idle()
        if self._owns_drivers:
            self._drivers.close_idle()

    def login(self, target: Target, credential: Credential, deadline: Deadline) -> Link:
        """Log in once, with TLS unless the record says ``disable``.

        Raises:
            ServerRefusal: the server refused the login.
            DriverFailure: no connection, or no TLS as it is demanded.
            TimeoutError: no answer in time.
            Unsupported: credential, host or TLS options cannot be used.
        """
        if not credential.password:
            raise Unsupported("the credential has no password", remedy="add one to its record")
        if not _HOST.fullmatch(target.host):
            raise Unsupported(f"{target.host!r} is no host name", remedy="correct the resource record")
        try:
            password = checked_password(credential.password.reveal())
        except PolicyRefused as error:
            raise Unsupported(error.message, remedy="correct the password in the record") from None
        mode = self._mode(target)
        database = credential.database or DEFAULT_DATABASE
        login = Login(
            host=target.host, port=target.port, user=checked_name(credential.login), password=password,
            database=checked_database(database), encryption="request" if mode == "disable" else "require",
            ca=_ca(target) if mode.startswith("verify") else "", checks_name=mode == "verify-full",
        )  # fmt: skip
        return Link.connect(self._drivers, login, Deadline(deadline.remaining(CONNECT_SECONDS)))

    def is_private(self, target: Target) -> bool:
        """Say whether statements may hold a secret: by TLS, or on this very machine."""
        return self._mode(target) != "disable" or _LOOPBACK.fullmatch(target.host) is not None

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it answers as SQL Server does, without a login."""
        try:
            version, speaks_tls = read_prelogin(host, port, deadline)
        except (OSError, ValueError):
            return None
        return Service(protocol="mssql", banner=f"SQL Server {version}", facts={"tls": "yes" if speaks_tls else "no"})

    @staticmethod
    def _mode(target: Target) -> str:
        return tls_mode(target) or "require"  # every server speaks TLS


def _ca(target: Target) -> str:
    """Return the file of the CAs that may have signed the server's certificate.

    Raises:
        Unsupported: there is no such file.
    """
    given = target.options.get("ssl_ca")
    path = given or ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    if "\n" in path or not Path(path).is_file():
        raise Unsupported(f"the CA's file {path!r} cannot be used", remedy="correct ssl_ca in the resource record")
    return path

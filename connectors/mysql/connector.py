"""MySQL and MariaDB: passwords of accounts, set as hashes made here wherever the server takes them."""

from __future__ import annotations

from typing import ClassVar

from connectors.base import Capability, Credential, Deadline, Service, Target
from connectors.kept import KeepingConnector, KeptConnections
from connectors.mysql.accounts import parse_login
from connectors.mysql.link import CONNECT_SECONDS, Link, Login
from connectors.mysql.session import MysqlSession
from connectors.mysql.wire import read_greeting
from connectors.tls import TlsContexts, tls_mode
from pam_jobs.errors import Unsupported

__all__ = ["MysqlConnector"]


class MysqlConnector(KeepingConnector[Link]):
    """MySQL 5.7 and newer, MariaDB 10.4 and newer, on premises or managed."""

    name: ClassVar[str] = "mysql"
    protocols: ClassVar[frozenset[str]] = frozenset({"mysql", "mariadb"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CHANGE, Capability.PROBE, Capability.DISCOVER, Capability.METADATA}
    )

    def __init__(self, kept: KeptConnections[Link] | None = None) -> None:
        """Start with no connection.

        Args:
            kept: where rotators' connections wait for their next session; one with the usual bounds when absent.
        """
        self.kept = kept or KeptConnections(is_usable=Link.is_idle, close=Link.close)
        self._contexts = TlsContexts()

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> MysqlSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return MysqlSession(self, target, rotator, deadline).connect()

    def login(self, target: Target, credential: Credential, deadline: Deadline) -> Link:
        """Log in once, with TLS wherever the server speaks it.

        Raises:
            ServerRefusal: the server refused the login.
            TimeoutError: no answer in time.
            Unsupported: the credential has no password, or the target's TLS options cannot be used.
            pymysql.err.MySQLError, OSError: no connection.
        """
        if not credential.password:
            raise Unsupported("the credential has no password", remedy="add one to its record")
        mode = tls_mode(target)
        login = Login(
            host=target.host, port=target.port, user=parse_login(credential.login).user,
            password=credential.password.reveal().encode(),
            context=None if mode == "disable" else self._contexts.of(mode or "require", target.options),
            needs_tls=bool(mode),
        )  # fmt: skip
        return Link.connect(login, Deadline(deadline.remaining(CONNECT_SECONDS)))

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it greets as MySQL does, without a login."""
        try:
            greeting = read_greeting(host, port, deadline)
        except (OSError, ValueError):
            return None
        is_mariadb = "mariadb" in greeting.version.casefold()
        name = "MariaDB" if is_mariadb else "MySQL"
        facts = {"tls": "yes" if greeting.speaks_tls else "no"} if greeting.version else {}
        return Service(
            protocol=name.casefold(), banner=f"{name} {greeting.version.removeprefix('5.5.5-')}".strip(), facts=facts
        )

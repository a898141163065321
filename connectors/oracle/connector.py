"""Oracle Database: passwords of users, by the thin driver."""

from __future__ import annotations

import re
from typing import ClassVar

from connectors.base import Capability, Credential, Deadline, Service, Target
from connectors.kept import KeepingConnector, KeptConnections
from connectors.options import is_wanted
from connectors.oracle.link import CONNECT_SECONDS, Link, Login
from connectors.oracle.quoting import stored_name
from connectors.oracle.session import OracleSession
from connectors.oracle.wire import is_oracle
from connectors.tls import TlsContexts, tls_mode
from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["OracleConnector"]

_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,253}")  # they go into a connect descriptor
_SERVICE = re.compile(r"[A-Za-z0-9_.$#-]{1,255}")
_LOOPBACK = re.compile(r"127\.[0-9.]+|::1|localhost", re.IGNORECASE)
_CLEAR = "Allow Clear Text"


class OracleConnector(KeepingConnector[Link]):
    """Oracle Database 12.1 and newer, on premises or managed."""

    name: ClassVar[str] = "oracle"
    protocols: ClassVar[frozenset[str]] = frozenset({"oracle"})
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

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> OracleSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return OracleSession(self, target, rotator, deadline).connect()

    def login(
        self, target: Target, credential: Credential, deadline: Deadline, *, new_password: SecretValue | None = None
    ) -> Link:
        """Log in once, with TLS where the record demands it: a port of Oracle speaks either TLS or not.

        Raises:
            ServerRefusal: database or listener refused the login.
            DriverFailure, OSError: no connection, or no TLS as it is demanded.
            TimeoutError: no answer in time.
            Unsupported: credential, host, service or TLS options cannot be used.
        """
        if not credential.password:
            raise Unsupported("the credential has no password", remedy="add one to its record")
        service = target.database or ""
        if not _HOST.fullmatch(target.host) or not _SERVICE.fullmatch(service):
            raise Unsupported(
                "host and connectDatabase do not name an Oracle service",
                remedy="set connectDatabase of the resource record to the service's name, such as orclpdb1",
            )
        mode = tls_mode(target)
        login = Login(
            host=target.host, port=target.port, service=service, user=stored_name(credential.login),
            password=credential.password.reveal(), new_password=new_password.reveal() if new_password else None,
            context=self._contexts.of(mode, target.options) if mode not in {"", "disable"} else None,
        )  # fmt: skip
        return Link.connect(login, Deadline(deadline.remaining(CONNECT_SECONDS)))

    def check_private(self, target: Target) -> None:
        """Make sure that a statement may hold a secret.

        Raises:
            Unsupported: it would cross the network in clear, and the record does not allow that.
        """
        is_private = tls_mode(target) not in {"", "disable"} or _LOOPBACK.fullmatch(target.host)
        if not is_private and not is_wanted(target.options, _CLEAR):
            raise Unsupported(
                "ALTER USER would carry the password across the network in clear",
                remedy=f"use a TLS port and turn TLS on in the resource record, or set its custom field {_CLEAR} to TRUE",
            )

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it answers as a listener does, without a login."""
        try:
            return Service(protocol="oracle", banner="Oracle listener") if is_oracle(host, port, deadline) else None
        except OSError:
            return None

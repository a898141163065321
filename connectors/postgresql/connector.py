"""PostgreSQL: passwords of roles, set as verifiers so that the server never hears the secret."""

from __future__ import annotations

from typing import ClassVar

from connectors.base import (
    Capability,
    Credential,
    Deadline,
    Service,
    Target,
)
from connectors.kept import KeepingConnector, KeptConnections
from connectors.postgresql.errors import ServerRefusal
from connectors.postgresql.link import Link
from connectors.postgresql.session import PostgresqlSession
from connectors.postgresql.way_in import KnownWays, Way
from connectors.postgresql.wire import CONNECT_SECONDS, asks_for_tls, is_postgresql, proof_asked
from connectors.tls import TlsContexts

__all__ = ["PostgresqlConnector"]


class PostgresqlConnector(KeepingConnector[Link]):
    """PostgreSQL 9.4 and newer, on premises or managed."""

    name: ClassVar[str] = "postgresql"
    protocols: ClassVar[frozenset[str]] = frozenset({"postgresql"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CHANGE, Capability.PROBE, Capability.DISCOVER, Capability.METADATA}
    )

    def __init__(self, kept: KeptConnections[Link] | None = None) -> None:
        """Start with no connection.

        Args:
            kept: where rotators' connections wait for their next session; one with the usual bounds when absent.
        """
        self.kept = kept or KeptConnections(is_usable=Link.is_idle, close=Link.close)
        self.ways = KnownWays()
        self._speaks_tls: dict[tuple[str, int], bool] = {}
        self._tls = TlsContexts()

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> PostgresqlSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return PostgresqlSession(self, target, rotator, deadline).connect()

    def login(self, target: Target, parameters: dict[str, str], deadline: Deadline) -> Link:
        """Log in once, with TLS wherever the server speaks it.

        libpq's own ``sslmode=prefer`` would repeat a refused login without TLS: two failures for one, and the second
        in the clear. So the mode is settled first and remembered for each server.

        Raises:
            ServerRefusal: the login failed.
            TimeoutError: no answer in time.
        """
        deadline = Deadline(deadline.remaining(CONNECT_SECONDS))
        try:
            return Link.connect({**parameters, "sslmode": self._mode(target, deadline)}, deadline)
        except ServerRefusal as refusal:
            if not refusal.used_password:  # the server may have changed its mind on TLS
                self._speaks_tls.pop((target.host, target.port), None)
            raise

    def way(self, target: Target, login: str, database: str, deadline: Deadline) -> Way:
        """Return what the server's rules see of a login.

        Raises:
            ServerRefusal, TimeoutError: it could not be asked whether it speaks TLS.
        """
        return target.host, target.port, self._mode(target, deadline), login, database

    def proof_asked(self, target: Target, login: str, database: str, deadline: Deadline) -> int:
        """Return which proof the server would want of this login from here; see ``wire.proof_asked``.

        Raises:
            ServerRefusal: the server does not go on with such a login.
            TimeoutError: no answer in time.
            Unsupported: a file for TLS cannot be used.
        """
        with_tls = self._mode(target, deadline) != "disable"
        # The certificate is the login's affair: nothing secret is sent here, and the answer can only stop a change.
        tls = self._tls.of("require", {}) if with_tls else None
        return proof_asked((target.host, target.port), login, database, tls, deadline)

    def _mode(self, target: Target, deadline: Deadline) -> str:
        asked = target.options.get("sslmode") or ("verify-full" if target.use_ssl else "")
        if asked:
            return asked
        place = (target.host, target.port)
        if place not in self._speaks_tls:
            self._speaks_tls[place] = asks_for_tls(target.host, target.port, deadline)
        return "require" if self._speaks_tls[place] else "disable"

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it answers as PostgreSQL does, without a login."""
        try:
            speaks_tls = asks_for_tls(host, port, deadline)
            if not is_postgresql(host, port, deadline):
                return None
        except (OSError, ServerRefusal):
            return None
        return Service(protocol="postgresql", banner="PostgreSQL", facts={"tls": "yes" if speaks_tls else "no"})

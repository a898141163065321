"""PostgreSQL: passwords of roles, set as verifiers so that the server never hears the secret."""

from __future__ import annotations

from typing import ClassVar

from connectors.base import (
    Capability,
    Connector,
    Credential,
    Deadline,
    Service,
    Target,
)
from connectors.kept import KeptConnections
from connectors.postgresql.errors import ServerRefusal
from connectors.postgresql.link import Link
from connectors.postgresql.session import PostgresqlSession
from connectors.postgresql.wire import CONNECT_SECONDS, asks_for_tls, is_postgresql

__all__ = ["PostgresqlConnector"]


class PostgresqlConnector(Connector):
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
        self.kept: KeptConnections[Link] = kept or KeptConnections(is_usable=Link.is_idle, close=Link.close)
        self._speaks_tls: dict[tuple[str, int], bool] = {}

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> PostgresqlSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        session = PostgresqlSession(self, target, rotator, deadline)
        session.connect()
        return session

    def close_idle(self) -> None:
        """Close the kept connections, as at shutdown."""
        self.kept.close_idle()

    def login(self, target: Target, parameters: dict[str, str], deadline: Deadline) -> Link:
        """Log in once, with TLS wherever the server speaks it.

        libpq's own ``sslmode=prefer`` would repeat a refused login without TLS: two failures for one, and the second
        in the clear. So the mode is settled first and remembered for each server.

        Raises:
            ServerRefusal: the login failed.
            TimeoutError: no answer in time.
        """
        asked = target.options.get("sslmode") or ("verify-full" if target.use_ssl else "")
        deadline = Deadline(deadline.remaining(CONNECT_SECONDS))
        if asked:
            return Link.connect({**parameters, "sslmode": asked}, deadline)
        place = (target.host, target.port)
        if place not in self._speaks_tls:
            self._speaks_tls[place] = asks_for_tls(target.host, target.port, deadline)
        mode = "require" if self._speaks_tls[place] else "disable"
        try:
            return Link.connect({**parameters, "sslmode": mode}, deadline)
        except ServerRefusal as refusal:
            if not refusal.used_password:  # the server may have changed its mind on TLS
                self._speaks_tls.pop(place, None)
            raise

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it answers as PostgreSQL does, without a login."""
        try:
            speaks_tls = asks_for_tls(host, port, deadline)
            if not is_postgresql(host, port, deadline):
                return None
        except (OSError, ServerRefusal):
            return None
        return Service(protocol="postgresql", banner="PostgreSQL", facts={"tls": "yes" if speaks_tls else "no"})

"""MongoDB: passwords of users, who each belong to one database."""

from __future__ import annotations

import ssl
from typing import ClassVar

from connectors.base import Capability, Credential, Deadline, Service, Target
from connectors.kept import KeepingConnector, KeptConnections
from connectors.mongodb.accounts import user_of
from connectors.mongodb.errors import FAILURES, Garbled, ServerRefusal
from connectors.mongodb.link import CONNECT_SECONDS, Link
from connectors.mongodb.scram import check_password
from connectors.mongodb.session import MongodbSession
from connectors.tls import TlsContexts, tls_mode
from pam_jobs.errors import PolicyRefused, Unsupported

__all__ = ["MongodbConnector"]

_LOOK_SECONDS = 3.0
_HANDSHAKE_SECONDS = 1.5  # a server without TLS waits for the end of what it takes for a message
_WRONG = 18


class MongodbConnector(KeepingConnector[Link]):
    """MongoDB 4.2 and newer: standalone, primary of a replica set, or router of a sharded cluster."""

    name: ClassVar[str] = "mongodb"
    protocols: ClassVar[frozenset[str]] = frozenset({"mongodb"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CHANGE, Capability.PROBE, Capability.DISCOVER}
    )

    def __init__(self, kept: KeptConnections[Link] | None = None) -> None:
        """Start with no connection.

        Args:
            kept: where rotators' connections wait for their next session; one with the usual bounds when absent.
        """
        self.kept = kept or KeptConnections(is_usable=Link.is_idle, close=Link.close)
        self._contexts = TlsContexts()
        self._speaks_tls: dict[tuple[str, int], bool] = {}

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> MongodbSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return MongodbSession(self, target, rotator, deadline).connect()

    def login(self, target: Target, credential: Credential, deadline: Deadline) -> Link:
        """Log in once, over TLS wherever the port speaks it.

        Raises:
            Unsupported: the credential is none for this server, or the target's options cannot be used.
            ServerRefusal: the server refused the login.
            Garbled, BSONError, OSError: no connection.
        """
        if not credential.password:
            raise Unsupported("the credential has no password", remedy="add one to its record")
        user = user_of(credential.login, credential.database, target)
        try:
            check_password(credential.password.reveal())
        except PolicyRefused:  # no server can have taken it
            raise ServerRefusal(code=_WRONG, text="this can be nobody's password here") from None
        deadline = Deadline(deadline.remaining(CONNECT_SECONDS))
        link = Link.connect(target.host, target.port, self._context(target, deadline), deadline)
        try:
            link.log_in(user.name, user.database, credential.password)
        except BaseException:
            link.close()
            raise
        return link

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it says hello as MongoDB does, in clear or over TLS, without a login."""
        deadline = Deadline(deadline.remaining(_LOOK_SECONDS))
        try:
            speaks_tls, hello = self._greeted(host, port, deadline)
        except (*FAILURES, Unsupported):
            return None
        if "maxWireVersion" not in hello:
            return None
        facts = {"tls": "yes" if speaks_tls else "no"}
        if hello.get("setName"):
            facts["replica_set"] = str(hello["setName"])
        return Service(protocol="mongodb", banner="MongoDB", facts=facts)

    def _context(self, target: Target, deadline: Deadline) -> ssl.SSLContext | None:
        mode = tls_mode(target)
        place = (target.host, target.port)
        if not mode:
            if place not in self._speaks_tls:
                self._speaks_tls[place] = self._greeted(*place, deadline)[0]
            mode = "require" if self._speaks_tls[place] else "disable"
        return None if mode == "disable" else self._contexts.of(mode, target.options)

    def _greeted(self, host: str, port: int, deadline: Deadline) -> tuple[bool, dict[str, object]]:
        """Return whether the port speaks TLS, and what the server says of itself.

        Raises:
            ServerRefusal, Garbled, BSONError, OSError: it says nothing.
        """
        for context in (None, self._contexts.of("require", {})):
            limit = Deadline(deadline.remaining(_HANDSHAKE_SECONDS if context else _LOOK_SECONDS))
            try:
                link = Link.connect(host, port, context, limit)
                try:
                    return context is not None, link.hello()
                finally:
                    link.close()
            except (Garbled, ConnectionResetError, ssl.SSLError, TimeoutError) as error:
                if context is not None:
                    raise Garbled from error
        raise Garbled

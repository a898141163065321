"""Redis and Valkey: passwords of users, set as hashes, written down, on every server that belongs together."""

from __future__ import annotations

import contextlib
import ssl
from typing import ClassVar

from connectors.base import Capability, Credential, Deadline, Service, Target
from connectors.kept import KeepingConnector, KeptConnections
from connectors.redis.errors import Garbled, ServerRefusal
from connectors.redis.link import CONNECT_SECONDS, Link
from connectors.redis.session import RedisSession
from connectors.redis.users import check_login
from connectors.redis.wire import text_of
from connectors.tls import TlsContexts, tls_mode
from pam_jobs.errors import Unsupported

__all__ = ["RedisConnector"]

_LOOK_SECONDS = 3.0  # a Redis server answers a PING at once
_HANDSHAKE_SECONDS = 1.5  # a server without TLS waits for the end of what it takes for a command
_ANSWERS = frozenset({"NOAUTH", "NOPERM", "LOADING", "MISCONF", "MASTERDOWN", "BUSY"})


class RedisConnector(KeepingConnector[Link]):
    """Redis 6 and newer, Valkey; of older ones the one password that all clients have."""

    name: ClassVar[str] = "redis"
    protocols: ClassVar[frozenset[str]] = frozenset({"redis"})
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
        self._speaks_tls: dict[tuple[str, int], bool] = {}

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> RedisSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return RedisSession(self, target, rotator, deadline).connect()

    def login(self, target: Target, credential: Credential, deadline: Deadline) -> Link:
        """Log in once, over TLS wherever the port speaks it.

        Raises:
            Unsupported: the credential is none for this server, or the target's options cannot be used.
            ServerRefusal: the server refused the login.
            Garbled, OSError: no connection.
        """
        if not credential.password:
            raise Unsupported("the credential has no password", remedy="add one to its record")
        check_login(credential.login)
        deadline = Deadline(deadline.remaining(CONNECT_SECONDS))
        link = self._connected(target, deadline)
        try:
            link.log_in(credential.login, credential.password)
        except BaseException:
            link.close()
            raise
        return link

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it answers a PING as Redis does, in clear or over TLS, without a login."""
        deadline = Deadline(deadline.remaining(_LOOK_SECONDS))
        try:
            speaks_tls = _asks_for_tls(host, port, deadline)
            context = self._contexts.of("require", {}) if speaks_tls else None
            answer = _pinged(host, port, context, deadline)
        except (Garbled, OSError, Unsupported):
            return None
        if not answer:
            return None
        return Service(protocol="redis", banner=answer, facts={"tls": "yes" if speaks_tls else "no"})

    def _connected(self, target: Target, deadline: Deadline) -> Link:
        mode = tls_mode(target)
        place = (target.host, target.port)
        if not mode:
            if place not in self._speaks_tls:
                self._speaks_tls[place] = _asks_for_tls(*place, deadline)
            mode = "require" if self._speaks_tls[place] else "disable"
        context = None if mode == "disable" else self._contexts.of(mode, target.options)
        try:
            return Link.connect(*place, context, deadline)
        except BaseException:
            self._speaks_tls.pop(place, None)
            raise


def _asks_for_tls(host: str, port: int, deadline: Deadline) -> bool:
    """Say whether the port speaks TLS: it then answers a PING in clear with an alert, or ends the connection.

    Raises:
        Garbled: what listens there answers with something else.
        OSError: nobody answers.
    """
    link = Link.connect(host, port, None, deadline)
    try:
        link.ask("PING")
    except ServerRefusal:
        return False
    except (Garbled, ConnectionResetError):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            Link.connect(host, port, context, Deadline(deadline.remaining(_HANDSHAKE_SECONDS))).close()
        except (ssl.SSLError, TimeoutError):
            raise Garbled from None
        return True
    finally:
        link.close()
    return False


def _pinged(host: str, port: int, context: ssl.SSLContext | None, deadline: Deadline) -> str:
    """Return what software answers a PING, "" when it is another one.

    Raises:
        Garbled, OSError: no answer.
    """
    link = Link.connect(host, port, context, deadline)
    with contextlib.closing(link):
        try:
            reply = text_of(link.ask("PING"))
        except ServerRefusal as refusal:
            known = refusal.code in _ANSWERS or "max number of clients" in refusal.text
            protects = refusal.code == "DENIED" and "protected mode" in refusal.text
            old = refusal.text.startswith("operation not permitted")
            return "Redis" if known or protects or old else ""
    return "Redis" if reply == "PONG" else ""

"""RabbitMQ: passwords of the broker's own users, set as salted hashes through the management API."""

from __future__ import annotations

import http.client
import ipaddress
import ssl
from typing import ClassVar

from connectors.base import Capability, Credential, Deadline, Service, Target
from connectors.kept import KeepingConnector, KeptConnections
from connectors.rabbitmq.amqp import greeting_of
from connectors.rabbitmq.api import CONNECT_SECONDS, Api, speaks_tls
from connectors.rabbitmq.errors import ApiRefusal, Garbled
from connectors.rabbitmq.session import RabbitmqSession
from connectors.tls import TlsContexts, tls_mode
from pam_jobs.errors import Unsupported

__all__ = ["RabbitmqConnector"]

_LOOK_SECONDS = 3.0
_NOBODY = Credential(login="")


class RabbitmqConnector(KeepingConnector[Api]):
    """RabbitMQ 3.8 and newer with its management plugin."""

    name: ClassVar[str] = "rabbitmq"
    protocols: ClassVar[frozenset[str]] = frozenset({"rabbitmq"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CHANGE, Capability.PROBE, Capability.DISCOVER}
    )

    def __init__(self, kept: KeptConnections[Api] | None = None) -> None:
        """Start with no connection.

        Args:
            kept: where rotators' connections wait for their next session; one with the usual bounds when absent.
        """
        self.kept = kept or KeptConnections(is_usable=Api.is_idle, close=Api.close, idle_seconds=30)
        self._contexts = TlsContexts()
        self._speaks_tls: dict[tuple[str, int], bool] = {}

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> RabbitmqSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return RabbitmqSession(self, target, rotator, deadline).connect()

    def connect(self, target: Target, credential: Credential, deadline: Deadline) -> Api:
        """Connect to the management API, over TLS wherever the port speaks it; nothing is asked yet.

        Raises:
            Unsupported: the password would travel in clear, or the target's options cannot be used.
            OSError: no connection.
        """
        context = self.context(target, target.port, deadline)
        if context is None and not self.may_be_clear(target):
            raise Unsupported(
                "the management API speaks HTTP, so that passwords would travel in clear",
                remedy="turn its TLS on, or set the custom field sslmode to disable",
            )
        return Api.connect(target.host, target.port, context, credential, deadline)

    def may_be_clear(self, target: Target) -> bool:
        """Say whether passwords may travel without TLS: on this machine, or where the record says so."""
        return tls_mode(target) == "disable" or _is_local(target.host)

    def context(self, target: Target, port: int, deadline: Deadline) -> ssl.SSLContext | None:
        """Return how TLS is checked on a port of the target; None where it has none, and the record demands none.

        Raises:
            Unsupported: the target's options cannot be used.
            OSError: nobody answers.
        """
        mode = tls_mode(target)
        place = (target.host, port)
        if not mode:
            if place not in self._speaks_tls:
                self._speaks_tls[place] = speaks_tls(*place, Deadline(deadline.remaining(CONNECT_SECONDS)))
            mode = "require" if self._speaks_tls[place] else "disable"
        return None if mode == "disable" else self._contexts.of(mode, target.options)

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it answers as the management API or as AMQP, in clear or over TLS, without a login."""
        deadline = Deadline(deadline.remaining(_LOOK_SECONDS))
        try:
            context = self._contexts.of("require", {}) if speaks_tls(host, port, deadline) else None
        except (OSError, Unsupported):
            return None
        facts = {"tls": "no" if context is None else "yes"}
        if _is_management(host, port, context, deadline):
            return Service(protocol="rabbitmq", banner="RabbitMQ management", facts=facts)
        try:
            greeting = greeting_of(host, port, context, deadline)
        except (OSError, Garbled):
            return None
        if greeting.product != "RabbitMQ":
            return None
        return Service(protocol="rabbitmq", banner=f"RabbitMQ {greeting.version}, AMQP", facts=facts)


def _is_management(host: str, port: int, context: ssl.SSLContext | None, deadline: Deadline) -> bool:
    """Say whether RabbitMQ's management API answers: it asks nobody's login how it may be asked."""
    try:
        api = Api.connect(host, port, context, _NOBODY, deadline)
    except OSError:
        return False
    try:
        told = api.get("auth")
    except (ApiRefusal, Garbled, OSError, http.client.HTTPException):
        return False
    finally:
        api.close()
    return isinstance(told, dict) and not {"enable_uaa", "oauth_enabled"}.isdisjoint(told)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

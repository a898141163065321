"""Network devices over SSH: Cisco IOS XE, and any other whose record says what to type."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from connectors.base import Capability, Credential, Deadline, Service, Target
from connectors.kept import KeepingConnector, KeptConnections
from connectors.linux.connector import LinuxConnector
from connectors.network.dialogue import FIELD, DialogueSession
from connectors.network.ios_xe import IosXeSession
from connectors.network.session import NetworkSession
from connectors.network.terminal import Terminal
from connectors.ssh.link import SshLink
from connectors.ssh.recognise import is_cisco, look_at_ssh

__all__ = ["NetworkConnector"]

_LOGINS_PER_DEVICE = 3  # a device has few lines (vty), and people need one too


class NetworkConnector(KeepingConnector[Terminal]):
    """Cisco IOS XE; with the custom field ``Dialogue``, any device with a command line."""

    name: ClassVar[str] = "network"
    protocols: ClassVar[frozenset[str]] = frozenset({"ssh"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CHANGE, Capability.PROBE, Capability.DISCOVER}
    )

    def __init__(self, kept: KeptConnections[Terminal] | None = None) -> None:
        """Start with no connection and no known device.

        Args:
            kept: where rotators' command lines wait for their next session; few and briefly, when absent.
        """
        self.kept = kept or KeptConnections(
            is_usable=Terminal.is_idle, close=Terminal.close, max_per_key=1, idle_seconds=30
        )
        self._ssh = LinuxConnector(
            handshakes_per_host=_LOGINS_PER_DEVICE, pauses=()
        )  # for its way to log in: gates, host keys

    def keep_state(self, folder: Path) -> None:
        """Remember in this folder which key each device had when it was first seen."""
        self._ssh.keep_state(folder)

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> NetworkSession:
        """Connect as the rotator, over a kept command line where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        kind = DialogueSession if target.options.get(FIELD, "").strip() else IosXeSession
        return kind(self, target, rotator, deadline).connect()

    def login(self, target: Target, credential: Credential, deadline: Deadline) -> SshLink:
        """Return a new connection on which the credential is logged in.

        Raises:
            TargetError: refused for a reason that is certain, such as ``HostKeyMismatch``.
            Exception: one of ``FAILURES`` of ``connectors.ssh.errors``.
        """
        return self._ssh.login(target, credential, deadline)

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the device when its SSH names itself as Cisco's, without a login."""
        service = look_at_ssh(host, port, deadline)
        if service is None or not is_cisco(service):
            return None
        facts = {**service.facts, "os": "cisco ios xe"}
        return Service(protocol="ssh", banner=service.banner, facts=facts)

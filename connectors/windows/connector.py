"""Windows machines: passwords of their accounts and scripts on them, over WinRM or over SSH."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from connectors.base import Capability, Credential, Deadline, Service, Target
from connectors.kept import KeepingConnector, KeptConnections
from connectors.linux.connector import LinuxConnector
from connectors.ssh.recognise import is_windows, look_at_ssh
from connectors.windows.errors import FAILURES
from connectors.windows.link import Link, WindowsSshLink
from connectors.windows.session import WindowsSession
from connectors.windows.winrm_link import Endpoint, WinrmLink, offers
from pam_jobs.errors import TargetError, Unsupported

__all__ = ["WindowsSshConnector", "WinrmConnector"]

_CAPABILITIES: Final = frozenset({
    Capability.CHANGE, Capability.PROBE, Capability.DISCOVER, Capability.METADATA, Capability.RUN_SCRIPT,
    Capability.DEPENDANTS,
})  # fmt: skip


def _kept() -> KeptConnections[Link]:
    return KeptConnections(is_usable=lambda link: link.is_alive(), close=lambda link: link.close())


class WinrmConnector(KeepingConnector[Link]):
    """Windows over WinRM."""

    name: ClassVar[str] = "winrm"
    protocols: ClassVar[frozenset[str]] = frozenset({"winrm"})
    capabilities: ClassVar[frozenset[Capability]] = _CAPABILITIES
    is_windows: ClassVar[bool] = True

    def __init__(self, kept: KeptConnections[Link] | None = None) -> None:
        """Start with no connection.

        Args:
            kept: where rotators' connections wait for their next session; one with the usual bounds when absent.
        """
        self.kept = kept or _kept()

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> WindowsSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return WindowsSession(self.kept, WinrmLink.connect, target, rotator, deadline).connect()

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it offers logins to WinRM, without one."""
        for use_ssl in (False, True):
            options = {"tls_verify": "none"}  # looking is not trusting: nothing is sent
            try:
                endpoint = Endpoint.of(Target(host=host, port=port, protocol="winrm", use_ssl=use_ssl, options=options))
                told = offers(endpoint, deadline)
            except (*FAILURES, TargetError):
                continue
            if told is not None and told[1] & {"negotiate", "kerberos", "basic"}:
                facts = {
                    "os": "windows",
                    "tls": "yes" if endpoint.is_secure else "no",
                    "logins": ", ".join(sorted(told[1])),
                }
                return Service(protocol="winrm", banner=told[0], facts=facts)
        return None


class WindowsSshConnector(KeepingConnector[Link]):
    """Windows over OpenSSH."""

    name: ClassVar[str] = "windows-ssh"
    protocols: ClassVar[frozenset[str]] = frozenset({"ssh"})
    capabilities: ClassVar[frozenset[Capability]] = _CAPABILITIES
    is_windows: ClassVar[bool] = True

    def __init__(self, kept: KeptConnections[Link] | None = None) -> None:
        """Start with no connection and no known host; see ``WinrmConnector``."""
        self.kept = kept or _kept()
        self._ssh = LinuxConnector()  # for its way to log in: gates, host keys

    def keep_state(self, folder: Path) -> None:
        """Remember in ``known_hosts`` of this folder which key each server had when it was first seen."""
        self._ssh.keep_state(folder)

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> WindowsSession:
        """Connect as the rotator, over a kept connection where there is one.

        On a machine whose port is WinRM's it goes to the port of the custom field ``SSH Port``, and nowhere without one:
        whoever blocks WinRM must not get the password sent to an SSH server that nobody named.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return WindowsSession(self.kept, self._login, _on_ssh(target), rotator, deadline).connect()

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it is OpenSSH for Windows, without a login."""
        service = look_at_ssh(host, port, deadline)
        if service is None or not is_windows(service):
            return None
        return replace(service, facts={**service.facts, "os": "windows"})

    def _login(self, target: Target, credential: Credential, deadline: Deadline) -> Link:
        return WindowsSshLink(self._ssh.login(target, credential, deadline), target.options.get("Shell"))


def _on_ssh(target: Target) -> Target:
    if target.protocol == "ssh":
        return target
    port = target.options.get("ssh_port", "").strip()
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise Unsupported(
            "the resource names no port of SSH beside WinRM",
            remedy="add the custom field 'SSH Port' to the resource, if it runs OpenSSH",
        )
    return Target(
        host=target.host, port=int(port), protocol="ssh", host_keys=target.host_keys, options=target.options,
        database=target.database,
    )  # fmt: skip

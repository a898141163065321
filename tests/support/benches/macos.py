"""Bench of macOS: a real sshd with emulated commands."""

from __future__ import annotations

from connectors.base import Credential, Target
from connectors.macos.connector import MacosConnector
from deploy.lab import SshServer
from tests.support.benches.linux import LinuxBench


class MacosBench(LinuxBench):
    emulated = True

    def __init__(self, server: SshServer, how: str, *, admin: Credential | None = None) -> None:
        super().__init__(server, how, admin=admin)
        self.name = f"macos, {how}"
        self.connector = MacosConnector()
        self.target = Target(host=server.host, port=server.port, protocol="ssh", host_keys=(server.host_key,))

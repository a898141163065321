"""macOS over SSH: passwords by ``sysadminctl`` or ``passwd``, keys in ``authorized_keys``, scripts on the machine."""

from __future__ import annotations

from typing import ClassVar

from connectors.base import Capability, Credential, Deadline, Target
from connectors.linux.connector import LinuxConnector
from connectors.macos.session import MacSession

__all__ = ["MacosConnector"]


class MacosConnector(LinuxConnector):
    """Macs with Remote Login switched on."""

    name: ClassVar[str] = "macos"
    capabilities: ClassVar[frozenset[Capability]] = LinuxConnector.capabilities

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> MacSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return MacSession(self.kept, self.login, target, rotator, deadline).connect()

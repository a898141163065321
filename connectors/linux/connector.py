"""Linux over SSH: passwords by ``chpasswd`` or ``passwd``, keys in ``authorized_keys``, scripts on the machine."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from connectors.base import Capability, Credential, Deadline, Service, Target
from connectors.kept import KeepingConnector, KeptConnections
from connectors.linux.session import LinuxSession
from connectors.ssh.errors import TurnedAway
from connectors.ssh.gate import LoginGate
from connectors.ssh.keys import HostKeys
from connectors.ssh.link import SshLink
from connectors.ssh.recognise import is_cisco, is_windows, look_at_ssh
from pam_jobs.errors import Unreachable

__all__ = ["LinuxConnector"]

_HANDSHAKES_PER_HOST = 8  # sshd drops logins at random from the tenth unfinished one on (MaxStartups 10:30:100)
_PAUSES = (0.2, 0.4, 0.8, 1.6)  # seconds before a server that turned a connection away is asked again


class LinuxConnector(KeepingConnector[SshLink]):
    """Linux machines with OpenSSH and the shadow tools."""

    name: ClassVar[str] = "linux"
    protocols: ClassVar[frozenset[str]] = frozenset({"ssh"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset({
        Capability.CHANGE, Capability.PROBE, Capability.KEYS, Capability.DISCOVER, Capability.METADATA,
        Capability.RUN_SCRIPT,
    })  # fmt: skip

    def __init__(
        self,
        kept: KeptConnections[SshLink] | None = None,
        *,
        handshakes_per_host: int = _HANDSHAKES_PER_HOST,
        pauses: Sequence[float] = _PAUSES,
    ) -> None:
        """Start with no connection and no known host.

        Args:
            kept: where rotators' connections wait for their next session; one with the usual bounds when absent.
            handshakes_per_host: logins under way to one server at a time, at least 1.
            pauses: seconds, about, before each further connection to a server that turned one away unheard.
        """
        self.kept = kept or KeptConnections(is_usable=SshLink.is_alive, close=SshLink.close)
        self.host_keys = HostKeys()
        self._handshakes_per_host = handshakes_per_host
        self._pauses = tuple(pauses)
        self._gates: dict[tuple[str, int], LoginGate] = {}
        self._lock = threading.Lock()

    def keep_state(self, folder: Path) -> None:
        """Remember in ``known_hosts`` of this folder which key each server had when it was first seen."""
        self.host_keys.keep_in(folder / "known_hosts")

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> LinuxSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return LinuxSession(self.kept, self.login, target, rotator, deadline).connect()

    def login(self, target: Target, credential: Credential, deadline: Deadline) -> SshLink:
        """Return a new connection on which the credential is logged in.

        A server that is too busy to listen (MaxStartups) has looked at nobody: it is asked again, by fewer at a time.

        Raises:
            TargetError: refused for a reason that is certain, such as ``HostKeyMismatch``.
            Exception: one of ``ssh_errors.FAILURES``.
        """
        for pause in self._pauses:
            with contextlib.suppress(TurnedAway):
                return self._log_in(target, credential, deadline)
            time.sleep(deadline.remaining(pause * (0.5 + secrets.randbelow(1000) / 1000)))
            deadline.check("the server listened")
        return self._log_in(target, credential, deadline)

    def _log_in(self, target: Target, credential: Credential, deadline: Deadline) -> SshLink:
        with self._gate(target, deadline):
            link = SshLink.connect(target, self.host_keys, deadline)
            try:
                link.log_in(credential, deadline)
                link.settle(deadline)
            except BaseException:
                link.close()
                raise
        return link

    @contextlib.contextmanager
    def _gate(self, target: Target, deadline: Deadline) -> Iterator[None]:
        """Let so many at a time through to one server.

        Raises:
            Unreachable: the time limit came before the turn.
        """
        with self._lock:
            gate = self._gates.setdefault((target.host, target.port), LoginGate(self._handshakes_per_host))
        if not gate.enter(deadline.remaining()):
            raise Unreachable("too many logins to this machine are under way", remedy="raise the job's time limit")
        turned_away = False
        try:
            yield
        except TurnedAway:
            turned_away = True
            raise
        finally:
            gate.leave(turned_away=turned_away)

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service with its software and host key when it speaks SSH, without a login."""
        service = look_at_ssh(host, port, deadline)
        return None if service is None or is_windows(service) or is_cisco(service) else service

"""A command line behind SSH: lines go out, and text comes back up to something that was expected."""

from __future__ import annotations

import contextlib
import re

import paramiko

from connectors.base import Deadline
from connectors.ssh.link import SshLink

__all__ = ["Terminal"]

_MOST = 1 << 20  # characters of one answer
_MORE = re.compile(r"[ \r\n]*-{1,3} ?\(?more\)?.{0,40}-{1,3}[ \b\r]*\Z", re.IGNORECASE)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x00")


class Terminal:
    """One shell of one login; belongs to one thread at a time."""

    def __init__(self, link: SshLink, deadline: Deadline) -> None:
        """Open the device's command line.

        Raises:
            TimeoutError, EOFError, OSError, paramiko.SSHException: the device opened none.
        """
        self.link = link
        self.prompt = ""  # the last one seen
        self._deadline = deadline
        self._channel: paramiko.Channel = link.shell(deadline)

    def use(self, deadline: Deadline) -> None:
        """Bound what follows by another deadline."""
        self._deadline = deadline

    def send(self, line: str) -> None:
        """Type a line.

        Raises:
            TimeoutError, OSError: it was not sent, or not whole.
        """
        self._bound()
        self._channel.sendall(line.encode() + b"\r")

    def expect(self, pattern: re.Pattern[str]) -> str:
        """Return what came, up to where the pattern matches its end; pages are turned.

        Raises:
            TimeoutError: it did not come in time.
            EOFError: the device ended the session.
        """
        text = ""
        while True:
            self._bound()
            data = self._channel.recv(65536)
            if not data:
                raise EOFError("the device ended the session")
            text = _CONTROL.sub("", text + data.decode(errors="replace"))
            if len(text) > _MOST:
                raise EOFError("the device does not stop talking")
            if _MORE.search(text):
                text = _MORE.sub("\n", text)
                self._channel.sendall(b" ")
                continue
            found = pattern.search(text)
            if found is not None and not self._channel.recv_ready():
                self.prompt = found[0].strip()
                return text[: found.start()].replace("\r", "")

    def ask(self, line: str, pattern: re.Pattern[str]) -> str:
        """Type a line and return what came, without the echo of the line.

        Raises:
            TimeoutError, EOFError, OSError, paramiko.SSHException: no answer.
        """
        self.send(line)
        text = self.expect(pattern).lstrip("\n")
        return text.removeprefix(line).strip("\n")

    def is_idle(self) -> bool:
        """Say whether the session lives and the device said nothing unasked."""
        return bool(self.link.is_alive() and not self._channel.closed and not self._channel.recv_ready())

    def close(self) -> None:
        """End the session; never raises."""
        with contextlib.suppress(Exception):
            self._channel.close()
        self.link.close()

    def _bound(self) -> None:
        if self._deadline.is_over:
            raise TimeoutError("the device did not answer in time")
        self._channel.settimeout(self._deadline.remaining())

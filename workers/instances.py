"""Remembers which instances ran on this machine, so that a new one can take the place of one that was killed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pam_jobs.errors import ConfigurationError

__all__ = ["InstanceFile"]


@dataclass(frozen=True)
class InstanceFile:
    """A folder with one small file for each instance that runs from one configuration on this machine."""

    folder: Path

    def dead(self) -> dict[str, Path]:
        """Return the instances whose processes are gone, each with its file; ``forget`` them once the router knows."""
        found = {}
        for path in self.folder.glob("*.json") if self.folder.is_dir() else []:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                data = json.loads(path.read_text())
                if data["host"] == socket.gethostname() and _started(int(data["pid"])) != data["started"]:
                    found[str(data["instance"])] = path
        return found

    def forget(self, dead: Iterable[Path]) -> None:
        """Delete the files of dead instances, but the one that has this process's id and so is its own by now."""
        for path in dead:
            if path != self._own:
                with contextlib.suppress(OSError):
                    path.unlink()

    def add(self, instance: str) -> None:
        """Take note of this process.

        Raises:
            ConfigurationError: the folder cannot be written.
        """
        body = {
            "instance": instance,
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "host": socket.gethostname(),
        }
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                json.dump(body, stream)
        except OSError as error:
            raise ConfigurationError(
                f"{self.folder} cannot be written ({error.strerror})", remedy="give the gateway a writable folder"
            ) from None

    def remove(self) -> None:
        """Forget this process, which ends in order."""
        with contextlib.suppress(OSError):
            self._own.unlink()

    @property
    def _own(self) -> Path:
        return self.folder / f"{os.getpid()}.json"


def _started(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when it does not run."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in {"Z", "X"} else int(fields[19])

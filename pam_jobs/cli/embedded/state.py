"""The data folder of embedded mode: what lies where, who holds it, and what runs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pam_jobs.client.profile import write_json
from pam_jobs.errors import ConfigurationError, StateError

__all__ = ["DataFolder", "Lock", "Settings", "free_port", "port_is_free"]

_SOCKET_PATH_LIMIT = 100  # the kernel's is 108, with the ending zero


@dataclass(frozen=True)
class DataFolder:
    """The folder that holds all state of one embedded system; its owner alone can enter it."""

    path: Path

    @property
    def database(self) -> Path:
        """The control plane's database."""
        return self.path / "control.db"

    @property
    def database_url(self) -> str:
        """The database as SQLAlchemy names it."""
        return f"sqlite:///{quote(str(self.database))}"

    @property
    def keys(self) -> Path:
        """The router's keys and TLS files."""
        return self.path / "keys"

    @property
    def ca(self) -> Path:
        """The CA of the router's certificate."""
        return self.keys / "tls" / "ca.pem"

    @property
    def logs(self) -> Path:
        """One log file a process."""
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """Lock, process ids and state."""
        return self.path / "run"

    @property
    def broker(self) -> Path:
        """The broker's append-only file and settings."""
        return self.path / "broker"

    @property
    def broker_socket(self) -> Path:
        """The broker's unix socket; in the temporary folder when the path here is too long for one."""
        near = self.broker / "broker.sock"
        if len(str(near)) <= _SOCKET_PATH_LIMIT:
            return near
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"pam-{os.getuid()}-{name}" / "broker.sock"

    @property
    def broker_url(self) -> str:
        """The broker as kombu names it."""
        return f"redis+socket://{self.broker_socket}"

    @property
    def gateway_config(self) -> Path:
        """The identity of the embedded gateway."""
        return self.path / "gateway" / "gateway-config.json"

    @property
    def flower_password_file(self) -> Path:
        """The file with Flower's password."""
        return self.path / "client" / "flower-password"

    @property
    def passphrase_file(self) -> Path:
        """The file with the first user's passphrase, where it was generated."""
        return self.path / "client" / "passphrase"

    @property
    def state_file(self) -> Path:
        """What runs, written by the supervisor."""
        return self.run / "state.json"

    def prepare(self) -> None:
        """Make the folder and what is in it, or accept what stands.

        Raises:
            ConfigurationError: others can enter it, it is somebody else's, or it cannot be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = self.path.stat()
        except OSError as error:
            raise ConfigurationError(
                f"the data folder {self.path} cannot be made ({error.strerror})", remedy="name another by --data-dir"
            ) from None
        if about.st_uid != os.getuid():
            raise ConfigurationError(
                f"the data folder {self.path} belongs to somebody else", remedy="name another by --data-dir"
            )
        if stat.S_IMODE(about.st_mode) & 0o077:
            if any(self.path.iterdir()) and not (self.run / "settings.json").exists():
                raise ConfigurationError(
                    f"the folder {self.path} is in use for something else and others can enter it",
                    remedy="name an empty or new folder by --data-dir",
                )
            raise ConfigurationError(
                f"others can enter the data folder {self.path}", remedy=f"run `chmod 700 {self.path}`"
            )
        parts = [self.logs, self.run, self.broker, self.gateway_config.parent, self.path / "client", self.path / "work"]
        for part in parts:
            part.mkdir(mode=0o700, exist_ok=True)
        self._prepare_socket_folder()

    def _prepare_socket_folder(self) -> None:
        folder = self.broker_socket.parent
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
            raise ConfigurationError(
                f"{folder} is not a folder of yours alone", remedy="remove it, or choose a shorter --data-dir"
            )

    def read_state(self) -> dict[str, Any]:
        """Return what the supervisor wrote last, empty when nothing ever ran."""
        try:
            content = json.loads(self.state_file.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_state(self, content: Mapping[str, Any]) -> None:
        """Replace the state in one step."""
        write_json(self.state_file, content)


class Lock:
    """Held by the one supervisor of a data folder; the kernel lets it go when the process ends, however it ends."""

    def __init__(self, folder: DataFolder) -> None:
        self._path = folder.run / "lock"
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock.

        Raises:
            StateError: another supervisor has it.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StateError(
                f"it is running already with the data folder {self._path.parent.parent}",
                remedy="look at `pam status`, or stop it with `pam down`",
            ) from None
        self._descriptor = descriptor

    def inherit(self, descriptor: int) -> None:
        """Take over the lock that the process before us took."""
        self._descriptor = descriptor
        os.set_inheritable(descriptor, False)

    @property
    def descriptor(self) -> int:
        """The open file that holds the lock."""
        if self._descriptor is None:
            raise StateError("the lock is not held")
        return self._descriptor

    def is_free(self) -> bool:
        """Say whether nobody holds it; the answer may be old at once."""
        try:
            self.take()
        except StateError:
            return False
        except OSError:
            return True
        self.release()
        return True

    def release(self) -> None:
        """Let it go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is chosen at the first start and stays: addresses that others have written down."""

    port: int  # of the router
    flower_port: int

    @classmethod
    def choose(cls, folder: DataFolder, port: int | None, flower_port: int | None) -> Settings:
        """Return the ports: those asked for, else those of the last start, else free ones.

        Raises:
            ConfigurationError: a port is taken by somebody else.
        """
        path = folder.run / "settings.json"
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            known = {}
        first = port or known.get("port") or free_port()
        second = flower_port or known.get("flower_port") or free_port(avoid=first)
        for number, option in ((first, "--port"), (second, "--flower-port")):
            if not port_is_free(number):
                raise ConfigurationError(
                    f"port {number} is used by another program", remedy=f"stop that one, or choose another by {option}"
                )
        chosen = cls(port=first, flower_port=second)
        write_json(path, asdict(chosen))
        return chosen


def free_port(avoid: int = 0) -> int:
    """Return a loopback port that nobody listens on now, outside the range that outgoing connections get."""
    for _ in range(200):
        port = 10_000 + secrets.randbelow(20_000)
        if port != avoid and port_is_free(port):
            return port
    raise ConfigurationError("no free port was found", remedy="name one by --port and --flower-port")


def port_is_free(port: int) -> bool:
    """Say whether a server could listen on the loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

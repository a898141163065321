"""A full disk for one process: it and its children may write no byte to a file until there is space again.

The limit on a file's size is a process's own, so nothing else on the machine notices and nothing has to be mounted.
"""

from __future__ import annotations

import pwd
import subprocess
from pathlib import Path

from deploy.lab.processes import Process, drop


def fill(process: Process) -> None:
    """Let every write of the process and of its children to a file fail."""
    _limit(process, "0")


def free(process: Process) -> None:
    """Let the process and its children write again."""
    _limit(process, "unlimited")


def is_alive(process: Process) -> bool:
    """Say whether the process or a child of it runs."""
    return process.is_running or bool(_children(process.pid))


def _limit(process: Process, most_bytes: str) -> None:
    for pid in (process.pid, *_children(process.pid)):
        try:
            owner = pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid)
        except FileNotFoundError:
            continue  # it ended meanwhile
        # Its own user may set it; root may do that for others only with a right that containers rarely have.
        argv = ["prlimit", "--pid", str(pid), f"--fsize={most_bytes}:"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, **drop(owner))
        assert done.returncode == 0 or not Path(f"/proc/{pid}").exists(), done.stderr


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found

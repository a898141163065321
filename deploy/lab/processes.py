"""Server processes of the lab: start, remember and stop exactly those, never by name."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "LabError",
    "Process",
    "clear",
    "end",
    "free_port",
    "new_password",
    "noted_in",
    "place",
    "port_is_open",
    "spawn",
    "unprivileged_user",
    "write_private",
]


_ledger: ContextVar[Path | None] = ContextVar("ledger", default=None)


class LabError(RuntimeError):
    """The lab could not be brought up; the text says what is missing and what to do."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process of ours. The start time guards against a process id that the system gave to somebody else."""

    pid: int
    started: int  # clock ticks since boot, from /proc/PID/stat; 0 where there is no /proc

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the process that has this id now."""
        return cls(pid=pid, started=_stat(pid)[1])

    @property
    def is_running(self) -> bool:
        """Say whether this very process still runs (a zombie does not, once the last of its threads has ended too)."""
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG)[0] == self.pid:
                return False
        state, started = _stat(self.pid)
        if state in {"", "X"} or started != self.started:
            return False
        return state != "Z" or _has_threads(self.pid)  # they hold its files and connections open

    def stop(self, *signals: signal.Signals, seconds_each: float = 10.0) -> None:
        """Send each signal in turn until the process has ended; SIGKILL is always the last.

        Args:
            signals: what to try first, such as ``SIGINT`` for PostgreSQL's fast shutdown.
            seconds_each: how long to wait after each one.
        """
        for number in (*signals, signal.SIGKILL):
            if not self.is_running:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            end = time.monotonic() + seconds_each
            while self.is_running and time.monotonic() < end:
                time.sleep(0.02)

    def comes_up(self, is_ready: Callable[[], bool], *, seconds: float, stop: signal.Signals = signal.SIGTERM) -> bool:
        """Wait until it is ready, and say whether it is; one that is not in time is stopped.

        Args:
            is_ready: asked some fifty times a second.
            seconds: how long to wait.
            stop: what ends it.
        """
        limit = time.monotonic() + seconds
        while self.is_running and time.monotonic() < limit:
            if is_ready():
                return True
            time.sleep(0.02)
        self.stop(stop)
        return False

    def listens(self, *ports: int, seconds: float, host: str = "127.0.0.1") -> bool:
        """Wait until connections are accepted on all ports, and say whether they are; see ``comes_up``."""
        return self.comes_up(lambda: all(port_is_open(host, port) for port in ports), seconds=seconds)

    def save(self, path: Path) -> None:
        """Write the process to a file for a later ``down``."""
        write_private(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Process | None:
        """Return the process a file tells of, or None without a file."""
        if not path.exists():
            return None
        data = json.loads(path.read_text())
        return cls(pid=int(data["pid"]), started=int(data["started"]))


def _stat(pid: int) -> tuple[str, int]:
    """Return state letter and start time; ("", 0) when there is no such process."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return "", 0
        return "S", 0
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", 0
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _has_threads(pid: int) -> bool:
    """Say whether threads of a process are left whose first one has ended."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except OSError:
        return False


def spawn(
    argv: Sequence[str],
    log_path: Path,
    *,
    user: pwd.struct_passwd | None = None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a server in a session of its own with its output in a private log file.

    Args:
        argv: program and arguments; never a secret.
        log_path: where standard output and error go.
        user: drop to this user first; None keeps ours.
        environment: the whole environment of the child; ours when None.
    """
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            env=dict(environment) if environment is not None else None,
            cwd="/",
            **drop(user),
        )
    finally:
        os.close(descriptor)
    child.returncode = 0  # the pid is ours to wait for; keeps Popen's destructor from warning
    process = Process.of(child.pid)
    _note({"process": asdict(process)})
    return process


@contextlib.contextmanager
def noted_in(path: Path) -> Iterator[None]:
    """Write down every process and folder that is made meanwhile, at once, so that an end in between leaves nothing behind.

    Args:
        path: a file of one JSON object a line, which ``clear`` reads.
    """
    token = _ledger.set(path)
    try:
        yield
    finally:
        _ledger.reset(token)


def clear(path: Path) -> None:
    """Stop the processes and remove the folders that were written down, and the file; harmless when there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    for line in reversed(lines):
        with contextlib.suppress(ValueError):  # the last line of a lab that was killed while it wrote
            entry = json.loads(line)
            if "process" in entry:
                Process(**entry["process"]).stop(signal.SIGTERM)
            elif "folder" in entry:
                shutil.rmtree(entry["folder"], ignore_errors=True)
    path.unlink(missing_ok=True)


def _note(entry: Mapping[str, Any]) -> None:
    path = _ledger.get()
    if path is not None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as out:
            out.write(json.dumps(entry) + "\n")


def end(folder: Path, name: str, *signals: signal.Signals) -> dict[str, Any] | None:
    """Stop the process of ``NAME.pid.json`` and return what ``NAME.json`` says, having removed both files.

    Args:
        folder: state of the lab.
        name: of the server.
        signals: what to try first; SIGTERM when none is given.

    Returns:
        None where there is no such server.
    """
    process_file, state_file = folder / f"{name}.pid.json", folder / f"{name}.json"
    process = Process.load(process_file)
    if process is not None:
        process.stop(*(signals or (signal.SIGTERM,)))
        process_file.unlink(missing_ok=True)
    if not state_file.exists():
        return None
    state: dict[str, Any] = json.loads(state_file.read_text())
    state_file.unlink()
    return state


def drop(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments of ``subprocess`` that make a child run as the user."""
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def unprivileged_user(*preferred: str) -> pwd.struct_passwd | None:
    """Return the user that servers run as when we are root; None when we are not root.

    Raises:
        LabError: none of the users exists.
    """
    if os.geteuid() != 0:
        return None
    for name in preferred:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise LabError(f"none of the users {', '.join(preferred)} exists: create one, or run as an ordinary user")


def place(folder: Path, user: pwd.struct_passwd | None) -> Path:
    """Return a folder that the user can reach: the given one, else a new one in the system's temporary folder."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if user is None or all(_may_pass(parent) for parent in (folder, *folder.parents)):
        return folder
    elsewhere = Path(tempfile.mkdtemp(prefix="pam-lab-"))
    _note({"folder": str(elsewhere)})
    elsewhere.chmod(0o711)  # the user passes through and sees nothing
    return elsewhere


def _may_pass(folder: Path) -> bool:
    return bool(folder.stat().st_mode & 0o001)


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on at this moment.

    It lies below the range that outgoing connections get (32768 up, ip(7)): a server that is down for a moment would
    otherwise find its port taken by somebody's connection when it starts again.

    Raises:
        LabError: none was found in 200 attempts.
    """
    for _ in range(200):
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise LabError("no free port between 10000 and 29999 was found: stop other servers of this machine")


def port_is_open(host: str, port: int) -> bool:
    """Say whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def new_password() -> str:
    """Return a random password that needs no quoting anywhere."""
    return secrets.token_urlsafe(18)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, replacing an earlier one in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
    temporary.replace(path)

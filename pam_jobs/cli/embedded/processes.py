"""Child processes that are certainly ours: started, watched, started again, stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pam_jobs.errors import ConfigurationError

__all__ = ["Child", "Spec", "is_alive", "start_time", "stop_strangers"]

_PR_SET_PDEATHSIG = 1
_LOG_BYTES = 5_000_000
_BACK_OFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_HEALTHY_SECONDS = 60.0  # a process that lived this long starts its next back-off from the beginning


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when it is gone, a zombie, or there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in {"Z", "X"} else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Say whether this very process runs; its id may have been given to another since."""
    if not Path("/proc/self/stat").exists():
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return True
        return False
    return started != 0 and start_time(pid) == started


def stop_strangers(processes: Sequence[tuple[int, int]], seconds: float = 10.0) -> int:
    """Stop processes of an earlier supervisor, known by id and start time; return how many there were.

    Args:
        processes: pid and start time of each.
        seconds: how long they have after SIGTERM before SIGKILL.
    """
    alive = [(pid, started) for pid, started in processes if is_alive(pid, started)]
    for pid, _ in alive:
        _signal_group(pid, signal.SIGTERM)
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(is_alive(*entry) for entry in alive):
        time.sleep(0.05)
    for pid, started in alive:
        if is_alive(pid, started):
            _signal_group(pid, signal.SIGKILL)
    while any(is_alive(*entry) for entry in alive) and time.monotonic() < end + seconds:
        time.sleep(0.02)
    return len(alive)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _die_with_parent(parent: int) -> Callable[[], None]:
    """Return what a child does before it becomes its program: be told when the supervisor is gone, even by SIGKILL."""
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def prepare() -> None:
        os.umask(0o077)
        if library is not None:
            library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # it went between fork and here
                os._exit(1)

    return prepare


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How one process is run."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    stop_seconds: float = 10.0  # from SIGTERM to SIGKILL


@dataclass
class Child:
    """One supervised process."""

    spec: Spec
    log: Path
    folder: Path
    pid: int = 0
    started: int = 0
    restarts: int = -1
    state: str = "stopped"
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _born: float = 0.0
    _due: float = 0.0
    _failures: int = 0

    def start(self) -> None:
        """Start the process in a group of its own, with exactly the spec's environment.

        Raises:
            ConfigurationError: the program cannot be run.
        """
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                list(self.spec.argv),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd=self.folder,
                env=dict(self.spec.environment),
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509 - the supervisor has one thread
            )
        except OSError as error:
            raise ConfigurationError(
                f"{self.spec.argv[0]} cannot be run ({error.strerror})", remedy="check the installation"
            ) from None
        finally:
            os.close(descriptor)
        self.pid, self.started = self._process.pid, start_time(self._process.pid)
        self._born = time.monotonic()
        self.restarts += 1
        self.state = "running"

    def check(self) -> bool:
        """Start the process again when it died and its pause is over; say whether anything changed."""
        now = time.monotonic()
        if self.state == "running":
            if self._process is not None and self._process.poll() is None:
                return False
            self._failures = 0 if now - self._born > _HEALTHY_SECONDS else self._failures + 1
            pause = _BACK_OFF_SECONDS[min(max(self._failures - 1, 0), len(_BACK_OFF_SECONDS) - 1)]
            self._due = now + pause
            self.state = "restarting"
            _signal_group(self.pid, signal.SIGKILL)  # what it left in its group would work beside its successor
            return True
        if self.state == "restarting" and now >= self._due:
            self.start()
            return True
        return False

    @property
    def exit_code(self) -> int | None:
        """How the last run ended; None while it runs."""
        return self._process.poll() if self._process else None

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self.state == "running" and self._process is not None and self._process.poll() is None:
            self.state = "stopping"
            _signal_group(self.pid, signal.SIGTERM)
        else:
            self.state = "stopped"

    def wait(self) -> None:
        """Wait for the end, at most the spec's seconds, then end it by force."""
        if self._process is None or self.state == "stopped":
            self.state = "stopped"
            return
        try:
            self._process.wait(self.spec.stop_seconds)
        except subprocess.TimeoutExpired:
            _signal_group(self.pid, signal.SIGKILL)
            self._process.wait()
        self.state = "stopped"

    def bound_log(self) -> None:
        """Keep the log and the one before it, each of about 5 MB."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > _LOG_BYTES:
                previous = self.log.with_suffix(".log.1")
                previous.unlink(missing_ok=True)
                descriptor = os.open(previous, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as out, self.log.open("rb") as whole:
                    while block := whole.read(1 << 20):
                        out.write(block)
                os.truncate(self.log, 0)  # the process appends, so it goes on at the beginning

    def tail(self, lines: int = 1) -> str:
        """Return the last lines of the log."""
        with contextlib.suppress(OSError):
            text = self.log.read_text(errors="replace")[-4000:]
            return "\n".join(line for line in text.splitlines() if line.strip()).rpartition("\n" * lines)[2]
        return ""

    def describe(self) -> dict[str, object]:
        """Return what ``pam status`` shows."""
        return {
            "name": self.spec.name,
            "pid": self.pid if self.state in {"running", "stopping"} else None,
            "started": self.started,
            "state": self.state,
            "restarts": max(self.restarts, 0),
        }

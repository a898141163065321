"""The whole lab in one folder: every target started at once, told of in a table, and stopped again, never by name."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.lab.packages import install_with_apt
from deploy.lab.processes import LabError, Process, clear, noted_in, spawn, write_private
from deploy.lab.targets import TARGETS, LabTarget, packages_of_all

__all__ = ["Outcome", "chosen", "down", "host", "up"]

_AT_A_TIME: Final = 6
_HOST_SECONDS: Final = 60.0
_CREDENTIALS: Final = "credentials.json"
_LEDGER: Final = "started.jsonl"
_MARK: Final = "lab.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the start of a target ended."""

    target: LabTarget
    address: str = ""
    credentials: Path | None = None  # file of mode 0600 with logins, passwords, ports and certificates
    seconds: float = 0.0
    left_out: str = ""  # why it was not tried
    failure: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as the command line tells it; no secret."""
        state = "failed" if self.failure else "left out" if self.left_out else "up"
        return {
            "target": self.target.name, "product": self.target.product,
            "kind": "emulated" if self.target.emulated else "real", "state": state, "address": self.address,
            "credentials": str(self.credentials) if self.credentials else None, "seconds": round(self.seconds, 1),
            "reason": self.failure or self.left_out or None,
        }  # fmt: skip


def chosen(names: Sequence[str]) -> tuple[LabTarget, ...]:
    """Return the targets of these names, all where none is given.

    Raises:
        LabError: there is no such target.
    """
    known = {target.name: target for target in TARGETS}
    if unknown := [name for name in names if name not in known]:
        raise LabError(f"the lab knows no {', '.join(unknown)}: choose from {', '.join(known)}")
    return tuple(known[name] for name in names) or TARGETS


def up(folder: Path, targets: Sequence[LabTarget] = TARGETS) -> list[Outcome]:
    """Start the targets side by side, installing what they lack where that is allowed.

    One that does not start is cleaned up and does not keep the others from running. Whatever ends this before its time takes
    all of them down again.

    Args:
        folder: private, existing or new; of one lab at a time.
        targets: what to start.

    Raises:
        LabError: a lab runs in the folder already.
    """
    folder = folder.resolve()
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    with _held(folder), _stopped_when_interrupted():
        if (folder / _MARK).exists():
            raise LabError(f"a lab runs in {folder} already: take it down first (make lab-down)")
        _clean(folder)  # what a lab that was killed left
        try:
            with contextlib.suppress(LabError):  # what cannot be installed is told of each target that lacks it
                install_with_apt(packages_of_all(tuple(targets)))
            with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="lab") as pool:
                outcomes = list(pool.map(lambda target: _start(folder, target), targets))
            write_private(folder / _MARK, json.dumps([outcome.as_json() for outcome in outcomes], indent=1))
        except BaseException:
            _clean(folder)
            raise
    return outcomes


def down(folder: Path) -> None:
    """Stop what the lab of this folder started, and remove its state; harmless when there is none."""
    folder = folder.resolve()
    if not folder.is_dir():
        return
    with _held(folder):
        _clean(folder)
    (folder / ".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody's own files stay
        folder.rmdir()


def host(name: str, folder: Path) -> None:
    """Start a target whose servers are threads, write down how to reach it, and stay until SIGTERM."""
    (target,) = chosen([name])
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # in the threads of the servers, too
    server = target.start(folder)
    write_private(folder / f"{name}.json", json.dumps(_told(server), indent=1))
    signal.sigwait(signals)
    server.stop()


def _start(folder: Path, target: LabTarget) -> Outcome:
    began = time.monotonic()
    own = folder / target.name
    lacking = target.obstacles() or [f"it needs {package}" for package in target.packages()]
    if lacking:
        return Outcome(target=target, left_out="; ".join(lacking))
    own.mkdir(mode=0o711)
    try:
        with noted_in(own / _LEDGER):
            told = _hosted(own, target) if target.hosted else _told(target.start(own))
    except Exception as error:  # noqa: BLE001 - one that fails must not keep the others from running
        text = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
        text = " ".join(text.split())
        _remove(own, target)
        return Outcome(target=target, failure=text, seconds=time.monotonic() - began)
    write_private(own / _CREDENTIALS, json.dumps(told, indent=1))
    ports = [str(told[name]) for name in ("port", "secure_port", "ssh_port") if told.get(name)]
    return Outcome(
        target=target, address=f"{told['host']}:{'/'.join(ports)}", credentials=own / _CREDENTIALS,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _hosted(own: Path, target: LabTarget) -> dict[str, Any]:
    """Start a process that hosts the target and return what it wrote down."""
    root = str(Path(__file__).resolve().parents[2])
    argv = [sys.executable, "-P", "-m", "deploy.lab", "host", target.name, str(own)]
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "PYTHONPATH": root}
    process = spawn(argv, own / "log", environment=environment)
    process.save(own / f"{target.name}.pid.json")
    state = own / f"{target.name}.json"
    if process.comes_up(state.exists, seconds=_HOST_SECONDS):
        told: dict[str, Any] = json.loads(state.read_text())
        return told
    last = (own / "log").read_text(errors="replace").strip()[-300:]
    raise LabError(f"the emulated {target.product} did not start: {last}")


def _told(server: Any) -> dict[str, Any]:
    """Return what a person or a program needs to use a server, as JSON has it."""
    told = {}
    for part in dataclasses.fields(server):
        value = getattr(server, part.name)
        if isinstance(value, str | int | float | bool) or value is None:
            told[part.name] = value
        elif isinstance(value, Path):
            told[part.name] = str(value)
        elif isinstance(value, Process):
            told["pid"] = value.pid
    return told


def _clean(folder: Path) -> None:
    (folder / _MARK).unlink(missing_ok=True)
    with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="lab") as pool:
        list(pool.map(lambda target: _remove(folder / target.name, target), TARGETS))


def _remove(own: Path, target: LabTarget) -> None:
    """Stop one target, as far as it came, and remove its folder."""
    if not own.is_dir():
        return
    with contextlib.suppress(Exception):  # its own state may be half written: the ledger knows every process
        target.stop(own)
    clear(own / _LEDGER)
    shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep others out of the folder meanwhile.

    Raises:
        LabError: somebody is at work there.
    """
    with os.fdopen(os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LabError(f"another command is at work in {folder}: wait for it") from None
        yield


@contextlib.contextmanager
def _stopped_when_interrupted() -> Iterator[None]:
    """Let SIGTERM end what is done here as Ctrl-C does, so that it is undone."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone is told of signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

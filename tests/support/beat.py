"""Real beat processes of a test, on its database and broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pam_jobs.app import make_app
from tests.support.broker import RedisBroker

REPOSITORY = Path(__file__).resolve().parents[2]


def celery_app() -> object:
    """Make the application that ``celery -A`` is pointed at."""
    return make_app(os.environ["PAM_BROKER_URL"])


def wait_until(claim: Callable[[], bool], *, seconds: float = 20, what: str = "it") -> None:
    end = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.05)


class Beats:
    """Starts processes and ends those that are left."""

    def __init__(self, database_url: str, broker_url: str, folder: Path) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PAM_")},
            "PAM_DATABASE_URL": database_url,
            "PAM_BROKER_URL": broker_url,
            "PAM_KEYS_DIR": str(folder / "keys"),
            "PYTHONPATH": str(REPOSITORY),
        }
        self.folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a beat, or Python with other arguments."""
        log = (self.folder / f"beat-{len(self._running)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, *(arguments or ("-m", "scheduler"))],
            cwd=self.folder,
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self._running.append(process)
        return process

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("beat-*.log")))

    def stop(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.wait(10)


def stopped(process: subprocess.Popen[bytes]) -> int:
    """Ask the process to stop and return its exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(10)


@contextmanager
def beats_on(database_url: str, broker_url: str, folder: Path) -> Iterator[Beats]:
    beats = Beats(database_url, broker_url, folder)
    try:
        yield beats
    finally:
        beats.stop()


@pytest.fixture
def beats(database_url: str, broker: RedisBroker, tmp_path: Path) -> Iterator[Beats]:
    with beats_on(database_url, broker.url, tmp_path) as started:
        yield started

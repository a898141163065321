"""Schedulers of others beside ours, in an environment of their own that is made for the run and thrown away."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy.lab import postgres
from tests.benchmarks import stores
from tests.support.broker import RedisBroker

__all__ = ["NAMES", "PeerRun", "run_all", "table"]

NAMES = ("celery beat", "celery-redbeat", "django-celery-beat", "APScheduler")
_PACKAGES = (
    "celery[redis]",
    "celery-redbeat",
    "django-celery-beat",
    "apscheduler<4",
    "sqlalchemy<2.1",
    "psycopg[binary]",
)
_WORK = Path(__file__).with_name("peer_work.py")


@dataclass(frozen=True, kw_only=True)
class PeerRun:
    """What a scheduler did within its time."""

    name: str
    schedules: int
    sent: int
    seconds: float
    loaded: float  # seconds until it had its schedules
    memory: float  # MB

    @property
    def rate(self) -> float:
        """Return runs sent per second."""
        return self.sent / self.seconds


def run_all(
    folder: Path, server: postgres.PostgresServer, broker: RedisBroker, sizes: list[int], seconds: float, out: Console
) -> list[PeerRun]:
    """Let each scheduler send as many due schedules as it can within the time.

    Args:
        folder: for the environment.
        server: gives each run a new database.
        broker: emptied before each run.
        sizes: how many schedules, one run each.
        seconds: after which a run is cut off.
        out: told of each run.
    """
    python = _environment(folder / "peers")
    found = []
    for size in sizes:
        for name in NAMES:
            with stores.new_database(server) as url:
                words = [str(python), str(_WORK), name, str(size), str(seconds), broker.url, url]
                done = subprocess.run(
                    words, capture_output=True, text=True, check=False, timeout=seconds + 600, cwd=folder
                )
            if done.returncode or not done.stdout:
                out.print(f"{name}: {done.stderr.strip()[-400:]}")
                continue
            found.append(PeerRun(name=name, schedules=size, **json.loads(done.stdout.splitlines()[-1])))
            out.print(f"{name}, {size} schedules: {found[-1].rate:.0f}/s")
    return found


def _environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", *_PACKAGES], check=True, capture_output=True)
    return python


def table(found: list[PeerRun], ours: str, rate: float) -> Table:
    """Return the table of the runs, with what ours did beside it."""
    made = Table(title=f"Others, one process each; ours ({ours}): {rate:.0f}/s")
    for heading in (
        "scheduler",
        "schedules",
        "sent",
        "s",
        "runs/s",
        "loaded s",
        "memory MB",
        "ours does … times as much",
    ):
        made.add_column(heading, justify="left" if heading == "scheduler" else "right")
    for each in found:
        made.add_row(
            each.name,
            f"{each.schedules}",
            f"{each.sent}",
            f"{each.seconds:.1f}",
            f"{each.rate:.1f}",
            f"{each.loaded:.1f}",
            f"{each.memory:.0f}",
            f"{rate / each.rate:.0f}" if each.sent else "",
        )
    return made

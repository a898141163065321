"""The control plane's database: a PostgreSQL of its own that can be killed, or a SQLite file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psycopg

from deploy.lab import postgres
from deploy.lab.processes import Process, port_is_open, spawn, unprivileged_user
from tests.crash.waiting import eventually


class Store:
    """One database; ``start`` again brings it back over what a killed one left."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.secrets: set[str] = set()
        self._cluster: postgres.PostgresServer | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="pam-crash-"))
        self._folder.chmod(0o755)  # the server's own user passes through
        self.url = f"sqlite:///{folder}/control.db"

    def start(self) -> None:
        """Start the server, where the database has one, and wait until it answers."""
        if self.kind == "sqlite":
            return
        if self._cluster is not None:
            eventually(self._starts, lambda: f"the database starts again; its log ends: {self._last_lines()}")
            return
        # a crash of the process loses nothing that was handed to the kernel; a lazy commit is handed over later
        self._cluster = postgres.start(self._folder, settings={"synchronous_commit": "on"})
        login, password = self._cluster.admin_login, self._cluster.admin_password
        self.url = f"postgresql://{login}:{password}@127.0.0.1:{self._cluster.port}/postgres"
        self.secrets.add(password)

    def stop(self) -> None:
        """End the server and remove its files."""
        postgres.stop(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def process(self) -> Process:
        """The server's first process."""
        process = Process.load(self._folder / "postgres.pid.json")
        assert process is not None, "SQLite has no process of its own"
        return process

    def kill(self) -> None:
        """End the server as a power cut would."""
        process = self.process
        if process.is_running:
            os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: not process.is_running, "the database is dead")

    def _starts(self) -> bool:
        """Start PostgreSQL over what the killed one left; it refuses while a child of that one still lives."""
        cluster = self._cluster
        assert cluster is not None
        argv = [str(postgres.find_binaries(cluster.data.parent) / "postgres"), "-D", str(cluster.data)]
        argv += ["-h", "127.0.0.1", "-p", str(cluster.port), "-k", "", "-c", "fsync=off", "-c", "max_connections=60"]
        argv += ["-c", "shared_buffers=16MB"]
        if not _lives_in(
            cluster.data
        ):  # the number in the lock file may be another server's by now, which is taken for it
            (cluster.data / "postmaster.pid").unlink(missing_ok=True)
        process = spawn(argv, cluster.log_path, user=unprivileged_user("postgres", "nobody"))
        process.save(self._folder / "postgres.pid.json")
        while process.is_running:
            if port_is_open("127.0.0.1", cluster.port) and self._answers():
                return True
            time.sleep(0.05)
        return False

    def _last_lines(self) -> str:
        assert self._cluster is not None
        return self._cluster.log_path.read_text(errors="replace")[-500:]

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def _lives_in(data: Path) -> bool:
    """Say whether a process of a cluster is left; each has the cluster's folder as its working directory."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and (process / "cwd").readlink() == data:
                return True
    return False

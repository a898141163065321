"""Embedded mode as real processes, driven through the ``pam`` command as a person or a program would."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.forks import Forks

PAM = str(Path(sys.executable).with_name("pam"))
_COMMAND_SECONDS = 150.0
_forks = Forks()
atexit.register(_forks.close)


@dataclass
class Embedded:
    """One data folder and the system that runs in it."""

    folder: Path
    passphrase: str = field(default_factory=lambda: f"canary-{secrets.token_urlsafe(18)}")
    environment: dict[str, str] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)  # every secret that was used, to search for afterwards

    def __post_init__(self) -> None:
        self.secrets.add(self.passphrase)

    def pam(
        self, *arguments: str, stdin: str = "", code: int | None = 0, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and check its exit code; None accepts any."""
        done = _forks.run(arguments, stdin=stdin, environment=self.variables() | more, seconds=_COMMAND_SECONDS)
        assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str, stdin: str = "", code: int | None = 0) -> Any:
        """Run a command with ``--format json``; standard output must be one JSON document and nothing else."""
        return json.loads(self.pam(*arguments, "--format", "json", stdin=stdin, code=code).stdout)

    def refused(self, *arguments: str, stdin: str = "") -> str:
        """Return the one sentence with which a command is refused."""
        done = self.pam(*arguments, stdin=stdin, code=1)
        lines = [line for line in done.stderr.splitlines() if line.startswith("pam: ")]
        assert len(lines) == 1, done.stderr
        assert done.stdout == "", done.stdout
        return lines[0].removeprefix("pam: ")

    def variables(self) -> dict[str, str]:
        """Return the environment of a command; the passphrase is needed at the first start only."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAM_", "FLOWER_"))}
        return kept | {"PAM_DATA_DIR": str(self.folder), "PAM_MINIMUM_INTERVAL_SECONDS": "0"} | self.environment

    def up(self) -> None:
        """Start everything in the background."""
        self.pam("up", "--detach", PAM_PASSPHRASE=self.passphrase)

    def down(self) -> None:
        """Stop everything."""
        self.pam("down")

    def status(self) -> dict[str, Any]:
        """Return what runs."""
        value: dict[str, Any] = self.json("status", code=None)
        return value

    def pid(self, name: str) -> int | None:
        """Return a process's id, None while it is down."""
        return next(entry["pid"] for entry in self.status()["processes"] if entry["name"] == name)

    def kill(self, name: str) -> int:
        """Kill a process by SIGKILL and return what its id was."""
        pid = self.pid(name)
        assert pid is not None, f"{name} is down"
        os.kill(pid, signal.SIGKILL)
        return pid

    def api(self, token: str | None = None, **options: Any) -> httpx.Client:
        """Return a plain HTTP client of the REST API."""
        import ssl

        status = self.status()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        context = ssl.create_default_context(cafile=status["ca"])
        return httpx.Client(base_url=status["router"], verify=context, headers=headers, trust_env=False, **options)

    def flower(self) -> httpx.Client:
        """Return a client of Flower that knows the password."""
        status = self.status()
        password = Path(status["flower_password_file"]).read_text().strip()
        return httpx.Client(base_url=status["flower"], auth=("pam", password), trust_env=False)

    def secret_of(self, uid: str, kind: str = "password") -> str:
        """Return what the vault has now, and remember it for the search."""
        record = self.json("record", "get", uid, "--reveal")
        value = next(str(entry["value"][0]) for entry in record["fields"] if entry["type"] == kind and entry["value"])
        self.secrets.add(value)
        return value

    def add_record(self, kind: str, title: str, *fields: str, folder: str = "Office", secret: str = "") -> str:
        """Add a record and return its UID; a secret goes by standard input."""
        extra = ["password=-"] if secret else []
        if secret:
            self.secrets.add(secret)
        made = self.json("record", "add", "-rt", kind, "-t", title, "--folder", folder, *fields, *extra, stdin=secret)
        return str(made["uid"])


@contextlib.contextmanager
def running(folder: Path, **environment: str) -> Iterator[Embedded]:
    """Run an embedded system; it is stopped at the end however that comes."""
    system = Embedded(folder=folder, environment=environment)
    try:
        system.up()
        yield system
    finally:
        system.pam("down", code=None)


def eventually(is_so: Callable[[], Any], what: str, seconds: float = 60.0, pause: float = 0.2) -> Any:
    """Return the first true answer.

    Raises:
        AssertionError: there was none in time.
    """
    end = time.monotonic() + seconds
    while True:
        value = is_so()
        if value:
            return value
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(pause)

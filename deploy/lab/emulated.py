"""Emulated servers: processes of ours that speak a server's real protocol where the server itself cannot be had.

Each is a module that is run with the name of a file of mode 0600, its settings, and listens until it is ended.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.lab.processes import (
    LabError,
    Process,
    end,
    free_port,
    new_password,
    spawn,
    write_private,
)

__all__ = ["EmulatedServer", "Settings", "start", "stop"]

_START_SECONDS = 30.0
_PORT_ATTEMPTS = 3  # a port found free may be taken before the server binds it


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an emulated server is told when it starts."""

    port: int
    admin_login: str
    admin_password: str = field(repr=False)
    log_path: Path
    options: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Return what ``start`` wrote."""
        data = json.loads(path.read_text())
        return cls(
            port=data["port"], admin_login=data["login"], admin_password=data["password"], log_path=Path(data["log"]),
            options=data["options"],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EmulatedServer:
    """A running emulated server of the lab."""

    kind: str  # "mssql", "mysql8", "oracle"
    host: str
    port: int
    admin_login: str
    admin_password: str = field(repr=False)
    folder: Path  # state of the lab
    log_path: Path  # what the server would show to its own administrator
    process: Process

    def stop(self) -> None:
        """Shut the server down; harmless when it is down."""
        stop(self.folder, self.kind)


def start(folder: Path, kind: str, *, login: str, options: Mapping[str, Any] | None = None) -> EmulatedServer:
    """Start a new server; its state is in its memory, its secrets in a file of mode 0600 in the folder.

    Args:
        folder: an existing or new folder; what an earlier server of this kind left there is removed.
        kind: name of the module in ``deploy/lab``.
        login: of the only administrator, who gets a random password.
        options: of this kind of server, as JSON.

    Raises:
        LabError: it did not start; the text names its log.
    """
    folder = folder.resolve()
    stop(folder, kind)
    base = folder / kind
    base.mkdir(mode=0o700, parents=True)
    password = "Aa1-" + new_password()
    for _ in range(_PORT_ATTEMPTS):
        port = free_port()
        state = {"port": port, "login": login, "password": password, "log": str(base / "log"), "options": options or {}}
        write_private(folder / f"{kind}.json", json.dumps({"host": "127.0.0.1", **state}, indent=1))
        argv = [sys.executable, "-P", "-m", f"deploy.lab.{kind}", str(folder / f"{kind}.json")]
        root = str(Path(__file__).resolve().parents[2])
        process = spawn(argv, base / "errors", environment={"PATH": "/usr/bin:/bin", "PYTHONPATH": root})
        process.save(folder / f"{kind}.pid.json")
        if process.listens(port, seconds=_START_SECONDS):
            return EmulatedServer(
                kind=kind, host="127.0.0.1", port=port, admin_login=login, admin_password=password, folder=folder,
                log_path=base / "log", process=process,
            )  # fmt: skip
    raise LabError(f"the emulated {kind} did not start: see {base / 'errors'}")


def stop(folder: Path, kind: str) -> None:
    """Stop the server of this kind whose state the folder holds and remove it; harmless when there is none."""
    end(folder, kind)
    shutil.rmtree(folder / kind, ignore_errors=True)

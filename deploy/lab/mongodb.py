"""A stand-in for MongoDB: SecantusDB, which is not mongod, on loopback with a random admin, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.lab.processes import LabError, Process, end, free_port, new_password, spawn, write_private

__all__ = ["MongoServer", "start", "stop"]

_START_SECONDS = 60.0
_STATE = "mongodb.json"
_PROCESS = "mongodb.pid.json"
_ADMIN = "labadmin"


@dataclass(frozen=True, kw_only=True)
class MongoServer:
    """A running server of the lab."""

    host: str
    port: int
    admin_login: str
    admin_password: str = field(repr=False)
    folder: Path  # state of the lab
    log_path: Path
    process: Process

    def stop(self) -> None:
        """Shut the server down; harmless when it is down."""
        stop(self.folder)


def start(folder: Path, *, options: Sequence[str] = ()) -> MongoServer:
    """Make and start a new server; its state is in the folder, its secrets in files of mode 0600.

    Args:
        folder: an existing or new folder; what an earlier server of the lab left there is removed.
        options: more of the server's options, such as ``--tls-cert-file``.

    Raises:
        LabError: the package is missing, or it did not start; the text names the log.
    """
    try:
        import pymongo
        import secantus  # noqa: F401 - looked for, and run as a process of its own
    except ImportError as error:
        raise LabError(f"no stand-in for MongoDB: install {error.name}") from None
    folder = folder.resolve()
    stop(folder)
    base = folder / "mongodb"
    base.mkdir(mode=0o700, parents=True)
    password = new_password()
    port, process = _run(base)  # there is no exception for the first user: it is made before logins are demanded
    try:
        with pymongo.MongoClient("127.0.0.1", port, directConnection=True) as client:
            client.admin.command("createUser", _ADMIN, pwd=password, roles=["root"])
    finally:
        process.stop(signal.SIGTERM)
    port, process = _run(base, "--auth", *options)
    server = MongoServer(
        host="127.0.0.1", port=port, admin_login=_ADMIN, admin_password=password, folder=folder,
        log_path=base / "log", process=process,
    )  # fmt: skip
    process.save(folder / _PROCESS)
    state = {"host": server.host, "port": port, "login": _ADMIN, "password": password}
    write_private(folder / _STATE, json.dumps(state, indent=1))
    return server


def _run(base: Path, *options: str) -> tuple[int, Process]:
    port = free_port()
    argv = [sys.executable, "-m", "secantus", "--host", "127.0.0.1", "--port", str(port), "--standalone"]
    argv += ["--storage-path", str(base / "data"), "--cache-size", "64M", *options]
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(base)}
    process = spawn(argv, base / "log", environment=environment)
    if process.listens(port, seconds=_START_SECONDS):
        return port, process
    raise LabError(f"the stand-in for MongoDB did not start: see {base / 'log'}")


def stop(folder: Path) -> None:
    """Stop the server whose state the folder holds and remove it; harmless when there is none."""
    end(folder, "mongodb")
    shutil.rmtree(folder / "mongodb", ignore_errors=True)

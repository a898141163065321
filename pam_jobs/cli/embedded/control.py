"""Up, down and status of embedded mode, as the commands use them.

What only a start needs is imported there: `pam status` and `pam down` are short. Status loads the database's code where there is
one, to tell which gateways are drained.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from pam_jobs.cli.embedded.processes import is_alive, stop_strangers
from pam_jobs.cli.embedded.state import DataFolder, Lock, Settings
from pam_jobs.errors import ConfigurationError, StateError

__all__ = ["begin", "detach", "down", "foreground", "status"]

_START_SECONDS = 240.0
_STOP_SECONDS = 90.0
_PAUSE_SECONDS = 0.1

Report = Callable[[str], None]


def begin(
    folder: DataFolder, *, port: int | None, flower_port: int | None, username: str, report: Report
) -> tuple[Settings, Lock]:
    """Make the data folder ready and return the held lock.

    Raises:
        StateError: it runs already.
        ConfigurationError: the folder or a port cannot be used.
    """
    from pam_jobs.cli.embedded import setup

    folder.prepare()
    lock = Lock(folder)
    lock.take()
    try:
        orphans = _recover(folder)
        if orphans:
            report(f"stopped {orphans} processes that a killed supervisor had left")
        settings = Settings.choose(folder, port, flower_port)
        setup.prepare(folder, settings, username, report)
    except BaseException:
        lock.release()
        raise
    return settings, lock


def foreground(folder: DataFolder, settings: Settings, lock: Lock, report: Report, ready: Callable[[], None]) -> None:
    """Run everything in this process until Ctrl-C or SIGTERM."""
    from pam_jobs.cli.embedded.supervisor import Supervisor

    Supervisor(folder, settings, lock, report).run(ready)


def detach(folder: DataFolder, lock: Lock, report: Report) -> None:
    """Start the supervisor in a session of its own and return when everything is ready.

    Raises:
        ConfigurationError: it did not become ready, and has been stopped.
    """
    from pam_jobs.cli.embedded import plan

    log = os.open(folder.logs / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    environment = {name: value for name, value in os.environ.items() if name != "PAM_PASSPHRASE"}
    environment |= {"PYTHONPATH": plan.code_folder(), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pam_jobs.cli.embedded", str(folder.path), str(lock.descriptor)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=folder.path,
        env=environment,
        pass_fds=(lock.descriptor,),
        start_new_session=True,
    )
    os.close(log)
    lock.release()  # the supervisor holds the same open file
    try:
        _wait_ready(folder, process, report)
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _wait_ready(folder: DataFolder, process: subprocess.Popen[bytes], report: Report) -> None:
    end = time.monotonic() + _START_SECONDS
    seen: set[str] = set()
    while time.monotonic() < end:
        state = folder.read_state()
        ours = (state.get("supervisor") or {}).get("pid") == process.pid
        for entry in (state.get("processes") or []) if ours else []:
            if entry["state"] == "running" and entry["name"] not in seen:
                seen.add(entry["name"])
                report(f"started {entry['name']}")
        if ours and state.get("phase") == "ready":
            return
        if process.poll() is not None:
            raise ConfigurationError(
                (state.get("error") if ours else None) or "the supervisor ended",
                remedy=f"look at {folder.logs / 'supervisor.log'}",
            )
        time.sleep(_PAUSE_SECONDS)
    raise ConfigurationError("not everything became ready in time", remedy=f"look at the files in {folder.logs}")


def down(folder: DataFolder, report: Report) -> bool:
    """Stop everything; say whether anything ran.

    Raises:
        StateError: the supervisor does not end.
    """
    state = folder.read_state()
    supervisor = state.get("supervisor") or {}
    if supervisor and is_alive(supervisor["pid"], supervisor["started"]):
        os.kill(supervisor["pid"], signal.SIGTERM)
        report("stopping")
        end = time.monotonic() + _STOP_SECONDS
        while is_alive(supervisor["pid"], supervisor["started"]):
            if time.monotonic() > end:
                raise StateError(
                    f"the supervisor {supervisor['pid']} does not end", remedy=f"look at the files in {folder.logs}"
                )
            time.sleep(_PAUSE_SECONDS)
        return True
    return bool(folder.run.exists() and _recover(folder))


def _recover(folder: DataFolder) -> int:
    """Stop what a supervisor that was killed left behind; the lock must be ours. Returns how many there were."""
    known = folder.read_state().get("processes") or []
    return stop_strangers([(entry["pid"], entry["started"]) for entry in known if entry.get("pid")])


def status(folder: DataFolder) -> dict[str, Any]:
    """Return what runs: addresses, the router's public key and every process.

    Raises:
        ConfigurationError: nothing was ever started with this folder.
    """
    from pam_jobs.crypto.keystore import SERVER_KEY_ID, KeyStore

    state = folder.read_state()
    if not state:
        raise ConfigurationError(
            f"nothing was started with the data folder {folder.path} yet", remedy="start it with `pam up`"
        )
    supervisor = state.get("supervisor") or {}
    alive = bool(supervisor) and is_alive(supervisor["pid"], supervisor["started"])
    processes = [{"name": "supervisor", "pid": supervisor["pid"] if alive else None,
                  "state": "running" if alive else "stopped"}]  # fmt: skip
    for entry in state.get("processes") or []:
        runs = bool(entry["pid"]) and is_alive(entry["pid"], entry["started"])
        shown = "running" if runs else ("restarting" if alive else "stopped")
        processes.append(
            {"name": entry["name"], "pid": entry["pid"] if runs else None, "state": shown,
             "restarts": entry.get("restarts", 0)}
        )  # fmt: skip
    return {
        "phase": state["phase"] if alive else "stopped",
        "router": state["router"],
        "ca": str(folder.ca),
        "server_public_key": KeyStore(folder.keys).server_public,
        "server_public_key_id": SERVER_KEY_ID,
        "broker": state["broker"],
        "flower": state["flower"],
        "flower_username": "pam",
        "flower_password_file": str(folder.flower_password_file),
        "data_dir": str(folder.path),
        "processes": processes,
        "drained": _drained(folder),
    }


def _drained(folder: DataFolder) -> list[dict[str, Any]]:
    """Return the gateways that begin no jobs, and how many each still works on: also while no router runs to be asked."""
    from sqlalchemy.exc import OperationalError

    from pam_jobs.db.engine import Database
    from pam_jobs.rotation import gateways

    if not folder.database.exists():
        return []
    database = Database(folder.database_url)
    try:
        with database.transaction(read_only=True) as session:
            rows = gateways.drained(session)
    except OperationalError:  # of an older version
        return []
    finally:
        database.dispose()
    return [
        {"gateway": name, "uid": uid, "since": f"{since:%Y-%m-%dT%H:%M:%SZ}", "running": running}
        for uid, name, since, running in rows
    ]

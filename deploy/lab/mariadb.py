"""A private MariaDB server: loopback only, random port, random admin password, every statement in its general log."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
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

__all__ = ["MariadbServer", "is_installed", "packages", "start", "stop"]

_START_SECONDS = 60.0
_PORT_ATTEMPTS = 3  # a port found free may be taken before the server binds it
_STATE = "mariadb.json"
_PROCESS = "mariadb.pid.json"
_ADMIN = "labadmin"
_PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CHEAP = (
    *(
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=8M",
        "--key-buffer-size=1M",
        "--aria-pagecache-buffer-size=8M",
    ),
    *("--performance-schema=off", "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve", "--max-connections=60"),
)


@dataclass(frozen=True, kw_only=True)
class MariadbServer:
    """A running server of the lab."""

    host: str
    port: int
    admin_login: str
    admin_password: str = field(repr=False)
    folder: Path  # state of the lab
    data: Path  # the databases, elsewhere when the server's user cannot reach the state folder
    log_path: Path
    general_log_path: Path  # every statement the server was sent
    process: Process

    def stop(self) -> None:
        """Shut the server down; harmless when it is down."""
        stop(self.folder)


def is_installed() -> bool:
    """Say whether the programs are there."""
    return all(_program(name) for name in ("mariadbd", "mariadb-install-db"))


def packages() -> list[str]:
    """Return the Debian packages that are not there yet."""
    return [] if is_installed() else ["mariadb-server"]


def _program(name: str) -> str | None:
    return shutil.which(name, path=_PATHS)


def start(folder: Path, *, settings: Sequence[str] = ()) -> MariadbServer:
    """Make and start a new server; its state is in the folder, its secrets in files of mode 0600.

    Args:
        folder: an existing or new folder; what an earlier server of the lab left there is removed.
        settings: more of the server's options, such as ``--max-password-errors=3``.

    Raises:
        LabError: the programs are missing, or the server did not start; the text names the log.
    """
    if not is_installed():
        raise LabError("no MariaDB server found: apt-get install mariadb-server")
    folder = folder.resolve()
    stop(folder)
    user = unprivileged_user("mysql", "nobody")
    base = place(folder, user) / "mariadb"
    password = new_password()
    try:
        _initialise(base, password, user)
        port, process = _run(base, settings, user)
    except BaseException:
        shutil.rmtree(base / "data", ignore_errors=True)
        raise
    finally:
        (base / "init.sql").unlink(missing_ok=True)
    server = MariadbServer(
        host="127.0.0.1", port=port, admin_login=_ADMIN, admin_password=password, folder=folder,
        data=base / "data", log_path=base / "log", general_log_path=base / "data" / "general.log", process=process,
    )  # fmt: skip
    process.save(folder / _PROCESS)
    write_private(
        folder / _STATE,
        json.dumps({
            "host": server.host, "port": port, "login": _ADMIN, "password": password, "base": str(base),
            "log": str(server.log_path), "general_log": str(server.general_log_path),
        }, indent=1),
    )  # fmt: skip
    return server


def _initialise(base: Path, password: str, user: pwd.struct_passwd | None) -> None:
    """Create an empty server and the statements that make its only admin before it listens for the first time."""
    shutil.rmtree(base, ignore_errors=True)  # left by a run that was killed
    base.mkdir(mode=0o700)
    # One statement a line: of several on one line the server runs the first alone, silently.
    lines = (
        f"CREATE USER {_ADMIN}@'127.0.0.1' IDENTIFIED BY '{password}';",
        f"GRANT ALL ON *.* TO {_ADMIN}@'127.0.0.1' WITH GRANT OPTION;",
        "DELETE FROM mysql.global_priv WHERE User IN ('root', '', 'mysql');",
        "FLUSH PRIVILEGES;",
        "SET GLOBAL general_log = ON;",  # from here on, so that no secret above is in it
    )
    write_private(base / "init.sql", "\n".join((*lines, "")))
    if user is not None:
        for path in (base, base / "init.sql"):
            os.chown(path, user.pw_uid, user.pw_gid)
    argv = [str(_program("mariadb-install-db")), "--no-defaults", f"--datadir={base / 'data'}", "--skip-test-db"]
    argv += ["--auth-root-authentication-method=normal", "--innodb-log-file-size=8M"]
    argv.append(f"--tmpdir={base}")
    environment = {"PATH": _PATHS, "HOME": str(base), "TMPDIR": str(base), "LC_ALL": "C"}
    made = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/", env=environment, **drop(user))
    if made.returncode != 0:
        raise LabError(f"mariadb-install-db failed: {(made.stderr or made.stdout).strip()[-500:]}")


def _run(base: Path, settings: Sequence[str], user: pwd.struct_passwd | None) -> tuple[int, Process]:
    """Start the server on a free port and wait until it answers."""
    for _ in range(_PORT_ATTEMPTS):
        port = free_port()
        argv = [str(_program("mariadbd")), "--no-defaults", f"--datadir={base / 'data'}", f"--port={port}"]
        argv += [
            "--bind-address=127.0.0.1",
            f"--tmpdir={base}",
            f"--socket={base / 'socket'}",
            f"--pid-file={base / 'pid'}",
            *_CHEAP,
        ]
        argv += [f"--init-file={base / 'init.sql'}", f"--general-log-file={base / 'data' / 'general.log'}", *settings]
        process = spawn(argv, base / "log", user=user)
        if process.comes_up(lambda: _is_ready(base / "log"), seconds=_START_SECONDS):
            return port, process
    raise LabError(f"MariaDB did not start: see {base / 'log'}")


def _is_ready(log_path: Path) -> bool:
    """Say whether the server wrote that it takes connections: its port is open earlier than that."""
    return "ready for connections" in log_path.read_text(errors="replace")


def stop(folder: Path) -> None:
    """Stop the server whose state the folder holds and remove it; harmless when there is none."""
    state = end(folder, "mariadb")
    if state is not None:
        base = Path(state["base"])
        shutil.rmtree(base, ignore_errors=True)
        if base.parent != folder.resolve():  # a folder that place() made
            shutil.rmtree(base.parent, ignore_errors=True)

"""A private pgbouncer before a PostgreSQL of the lab: loopback only, random port, one database name a way of pooling."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.postgres import PostgresServer
from deploy.lab.processes import (
    LabError,
    Process,
    end,
    free_port,
    place,
    spawn,
    unprivileged_user,
    write_private,
)

__all__ = ["DATABASES", "PgbouncerServer", "start", "stop"]

_NAME = "pgbouncer"
_START_SECONDS = 20.0
_PORT_ATTEMPTS = 3  # a port found free may be taken before the server binds it
_PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DATABASES = {
    "sessions": "pool_mode=session",
    "transactions": "pool_mode=transaction",
    "statements": "pool_mode=statement",
    "forced": "pool_mode=session user={forced} password={secret}",
}
"""Names of databases that a client may ask for, all of them the server's own: how each is pooled, and as whom."""


@dataclass(frozen=True, kw_only=True)
class PgbouncerServer:
    """A running pooler of the lab."""

    host: str
    port: int
    folder: Path  # state of the lab
    log_path: Path
    process: Process

    def stop(self) -> None:
        """End the pooler; harmless when it is down."""
        stop(self.folder)


def start(
    folder: Path,
    server: PostgresServer,
    *,
    users: Mapping[str, str] | None = None,
    forced: tuple[str, str] = ("nobody", "nothing"),
) -> PgbouncerServer:
    """Start a pooler that asks the server for verifiers, but for those of ``users``.

    Args:
        folder: an existing or new folder; what an earlier pooler of the lab left there is removed.
        server: that it stands before; its admin is who asks for verifiers.
        users: logins whose password or verifier is a copy in the pooler's own file (``auth_file``).
        forced: login and password by which it logs in to the server for every client of the database ``forced``.

    Raises:
        LabError: there is no pgbouncer, or it did not start; the text names the log.
    """
    program = shutil.which(_NAME, path=_PATHS)
    if program is None:
        raise LabError("no pgbouncer found: apt-get install pgbouncer")
    folder = folder.resolve()
    stop(folder)
    user = unprivileged_user("postgres", "nobody")
    base = place(folder, user) / _NAME
    base.mkdir(mode=0o700)
    names = dict(zip(("forced", "secret"), forced, strict=True))
    lines = "\n".join(
        f"{name} = host={server.host} port={server.port} dbname={server.database} {how.format(**names)}"
        for name, how in DATABASES.items()
    )
    known = {server.admin_login: server.admin_password, **(users or {})}
    write_private(base / "users.txt", "".join(f'"{_quoted(name)}" "{_quoted(it)}"\n' for name, it in known.items()))
    log_path = base / "log"
    for _ in range(_PORT_ATTEMPTS):
        port = free_port()
        write_private(base / "pgbouncer.ini", _configuration(base, port, server.admin_login, lines))
        if user is not None:
            for path in (base, *base.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)
        process = spawn([program, str(base / "pgbouncer.ini")], log_path, user=user)
        if process.listens(port, seconds=_START_SECONDS):
            process.save(folder / f"{_NAME}.pid.json")
            write_private(folder / f"{_NAME}.json", json.dumps({"port": port, "base": str(base)}))
            return PgbouncerServer(host="127.0.0.1", port=port, folder=folder, log_path=log_path, process=process)
    raise LabError(f"pgbouncer did not start: see {log_path}")


def _quoted(text: str) -> str:
    return text.replace('"', '""')


def _configuration(base: Path, port: int, admin: str, databases: str) -> str:
    return f"""[databases]
{databases}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {base}/users.txt
auth_user = {admin}
server_login_retry = 1
"""


def stop(folder: Path) -> None:
    """End the pooler whose state the folder holds and remove it; harmless when there is none."""
    state = end(folder, _NAME, signal.SIGTERM)
    if state is not None:
        base = Path(state["base"])
        shutil.rmtree(base, ignore_errors=True)
        if base.parent != folder.resolve():  # a folder that place() made
            shutil.rmtree(base.parent, ignore_errors=True)

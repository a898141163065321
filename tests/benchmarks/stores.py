"""The servers that benchmarks of the control plane run on: PostgreSQL as a machine would have it, and Redis."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from deploy.lab import postgres
from deploy.lab.processes import unprivileged_user
from pam_jobs.db.engine import Database
from tests.benchmarks.bare import BareTarget
from tests.support.broker import RedisBroker
from tests.support.database import create_schema
from tests.support.tls_front import make_certificate

__all__ = ["new_database", "servers", "target_server"]

_SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "4GB", "track_commit_timestamp": "on", "max_connections": "200"}


@contextmanager
def servers(prefix: str = "pam-bench-") -> Iterator[tuple[Path, postgres.PostgresServer, RedisBroker]]:
    """Give a folder, a PostgreSQL with fsync on, and a Redis with AOF on a unix socket."""
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name,
        tempfile.TemporaryDirectory(prefix="pamb-", ignore_cleanup_errors=True) as broker_folder,
    ):
        folder = Path(name)
        folder.chmod(0o755)  # the server's user must reach its cluster
        server = postgres.start(folder / "store", durable=True, settings=_SETTINGS)
        broker = RedisBroker(Path(broker_folder))
        try:
            broker.start()
            yield folder, server, broker
        finally:
            broker.stop(kill=True)
            server.stop()


@contextmanager
def target_server(
    settings: Mapping[str, str] | None = None, *, with_tls: bool = False
) -> Iterator[tuple[Path, BareTarget, int]]:
    """Give a folder, a PostgreSQL with fsync on whose roles are rotated, and the pid of its first process.

    With TLS, it has a key of the kind that Debian gives its clusters (RSA, 2048 bits).
    """
    with tempfile.TemporaryDirectory(prefix="pam-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user must reach its cluster
        ca, more = _certified(folder) if with_tls else (None, {})
        server = postgres.start(folder / "target", durable=True, settings={**(settings or {}), **more})
        login = {"admin": server.admin_login, "password": server.admin_password}
        try:
            yield folder, BareTarget(host=server.host, port=server.port, ca=ca, **login), server.process.pid
        finally:
            server.stop()


def _certified(folder: Path) -> tuple[Path, dict[str, str]]:
    """Make a certificate and its key; return the file it is checked with, and the settings of a server that has it."""
    certificate, key = make_certificate(folder, is_rsa=True)
    certificate.chmod(0o644)
    key.chmod(0o600)
    if (user := unprivileged_user("postgres", "nobody")) is not None:
        os.chown(key, user.pw_uid, user.pw_gid)
    return certificate, {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}


@contextmanager
def new_database(server: postgres.PostgresServer) -> Iterator[str]:
    """Give the URL of a new database with the schema."""
    name = f"b{time.monotonic_ns()}"
    base = f"postgresql://{server.admin_login}:{server.admin_password}@{server.host}:{server.port}"
    admin = Database(f"{base}/postgres", pool_size=1)
    with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            create_schema(f"{base}/{name}")
            yield f"{base}/{name}"
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()

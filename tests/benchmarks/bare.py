"""Bare psycopg loops: the floor that the whole system is measured against."""

from __future__ import annotations

import secrets
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

__all__ = ["BareTarget", "Figures", "fresh_verified", "kept", "run_parallel"]


@dataclass(frozen=True, kw_only=True)
class BareTarget:
    """A PostgreSQL server and its administrator."""

    host: str
    port: int
    admin: str
    password: str
    database: str = "postgres"
    ca: Path | None = None  # its TLS is checked with it; None: it has no TLS

    def connect(self, user: str | None = None, password: str | None = None) -> psycopg.Connection:
        """Open a new connection, as the administrator unless told otherwise."""
        tls = {"sslmode": "verify-full", "sslrootcert": str(self.ca)} if self.ca else {"sslmode": "prefer"}
        return psycopg.connect(
            host=self.host,
            port=self.port,
            dbname=self.database,
            user=user or self.admin,
            password=password or self.password,
            autocommit=True,
            **tls,
        )


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one contender did in one round."""

    name: str
    workers: int
    seconds: float
    latencies_ms: list[float]

    @property
    def rate(self) -> float:
        """Return rotations per second."""
        return len(self.latencies_ms) / self.seconds

    def percentile(self, share: float) -> float:
        """Return a percentile of the latencies in milliseconds."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def p50(self) -> float:
        """Return the median latency in milliseconds."""
        return statistics.median(self.latencies_ms)


def _alter(connection: psycopg.Connection, role: str, password: str) -> None:
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier)))


def kept(target: BareTarget, local: threading.local) -> Callable[[str], None]:
    """Return a rotation that only ALTERs, on one kept connection a thread, and verifies nothing."""

    def rotate(role: str) -> None:
        if not hasattr(local, "connection"):
            local.connection = target.connect()
        _alter(local.connection, role, secrets.token_urlsafe(18))

    return rotate


def fresh_verified(target: BareTarget) -> Callable[[str], None]:
    """Return a rotation that connects, ALTERs, and logs in as the role."""

    def rotate(role: str) -> None:
        password = secrets.token_urlsafe(18)
        with target.connect() as connection:
            _alter(connection, role, password)
        target.connect(role, password).close()

    return rotate


def run_parallel(name: str, workers: int, roles: list[str], rotate: Callable[[str], None]) -> Figures:
    """Rotate every role once with so many threads and return the figures."""
    iterator: Iterator[str] = iter(roles)
    guard = threading.Lock()
    latencies: list[float] = []

    def work() -> None:
        while True:
            with guard:
                role = next(iterator, None)
            if role is None:
                return
            begin = time.perf_counter()
            rotate(role)
            latencies.append((time.perf_counter() - begin) * 1000)

    begin = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work) for _ in range(workers)]:
            future.result()
    return Figures(name=name, workers=workers, seconds=time.perf_counter() - begin, latencies_ms=latencies)

"""Connections to the control plane's database, and the guard that no transaction is open across I/O with others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from pam_jobs.errors import StateError

__all__ = ["Database", "assert_no_transaction"]

_SQLITE_BUSY_MS = 15_000
_open = threading.local()


def assert_no_transaction() -> None:
    """Return when this thread has no transaction of ours open.

    A transaction held across target I/O would make a value durable only after the target had changed, which is how
    passwords are lost. Connectors run in gateways, which may not import this package (a rule that `make check` enforces)
    and so have no transaction of ours. The control plane itself calls this before each delivery to a receiver of the
    audit log.

    Raises:
        StateError: a transaction is open.
    """
    if getattr(_open, "depth", 0):
        raise StateError("a database transaction is open while somebody else is contacted")


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, see below
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # a staged credential must survive a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={_SQLITE_BUSY_MS}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # A transaction that starts by reading and then writes fails at once when another wrote in between;
        # taking the write lock first waits instead.
        mode = "BEGIN" if connection.get_execution_options().get("read_only") else "BEGIN IMMEDIATE"
        connection.exec_driver_sql(mode)


class Database:
    """The engine of one database URL and its transactions."""

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        """Prepare, without connecting.

        Args:
            url: ``sqlite:///path`` or ``postgresql+psycopg://user:password@host/name``.
            pool_size: connections kept.
        """
        if url.startswith("postgresql://"):
            url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        # The connection that was used last is used next: its pages, statements and server process are warm still.
        options: dict[str, Any] = {
            "pool_size": pool_size, "max_overflow": pool_size, "pool_timeout": 30, "pool_use_lifo": True,
        }  # fmt: skip
        if url.startswith("sqlite"):
            options["connect_args"] = {"check_same_thread": False}
        else:
            options["pool_pre_ping"] = True
        self.engine = create_engine(url, **options)
        if self.is_sqlite:
            _prepare_sqlite(self.engine)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        # SQLite has one writer. Its own way of waiting is to sleep and look again, up to 100 ms at a time; threads of
        # one process that queue here instead are woken at once. Other processes still meet at SQLite's lock.
        self._writer: AbstractContextManager[object] = threading.RLock() if self.is_sqlite else nullcontext()

    @property
    def is_sqlite(self) -> bool:
        """Say whether the database is SQLite."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Session]:
        """Open one transaction; it is committed at the end of the block and rolled back on any exception.

        Args:
            read_only: nothing is written; on SQLite no write lock is taken.
        """
        _open.depth = getattr(_open, "depth", 0) + 1
        try:
            with nullcontext() if read_only else self._writer, self._sessions() as session:
                if read_only:
                    session.connection(execution_options={"read_only": True})
                with _committed(session):
                    yield session
        finally:
            _open.depth -= 1

    def dispose(self) -> None:
        """Close every kept connection."""
        self.engine.dispose()


@contextmanager
def _committed(session: Session) -> Iterator[None]:
    try:
        yield
        session.commit()
    except BaseException:
        session.rollback()
        raise

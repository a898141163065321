"""Connections to the control plane's database, and the guard that no transaction is open across target I/O."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.orm import Session

from pam_jobs.db import prepared
from pam_jobs.errors import StateError

__all__ = ["Database", "assert_no_transaction"]

_SQLITE_BUSY_MS = 15_000
_WRITING, _READING = "BEGIN IMMEDIATE", "BEGIN"
_open = threading.local()


def assert_no_transaction() -> None:
    """Return when this thread has no transaction of ours open.

    Called before every contact with a target: a transaction held across target I/O would make a value durable only
    after the target had changed, which is how passwords are lost.

    Raises:
        StateError: a transaction is open.
    """
    if getattr(_open, "depth", 0):
        raise StateError("a database transaction is open while a target is contacted")


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
        if not connection.connection.dbapi_connection.in_transaction:  # one of `Database.transaction` has begun
            connection.exec_driver_sql(_WRITING)


class _Session(Session):
    """A session over one connection, whose transaction the driver itself begins and ends.

    SQLAlchemy's own layers about a transaction take longer than the few short statements in it. They are still there
    for what goes through the session; what goes past it (``prepared``) needs none of them.
    """

    def __init__(self, engine: Engine, *, begins_with: str | None) -> None:
        """Prepare, without connecting.

        Args:
            engine: whose connection is taken with the first statement.
            begins_with: the statement that begins the transaction; None: the driver begins it by itself.
        """
        super().__init__(engine, expire_on_commit=False)
        self._engine = engine
        self._begins_with = begins_with
        self._line: Connection | None = None

    def get_bind(self, *_: Any, **__: Any) -> Connection:
        """Return the connection, its transaction begun."""
        line = self._line
        if line is None:
            line = self._line = self._begun()
        elif line.invalidated:
            raise _broken()
        return line

    def _begun(self) -> Connection:
        connection = self._engine.connect()
        if self._begins_with is not None:
            try:
                connection.connection.cursor().execute(self._begins_with)
            except connection.dialect.loaded_dbapi.Error as error:
                told = prepared.told(connection, self._begins_with, error)
                connection.close()
                raise told from error
        return connection

    def commit(self) -> None:
        """Commit; the next statement begins anew."""
        if self.in_transaction():
            super().commit()
        self._end("COMMIT")

    def rollback(self) -> None:
        """Roll back; the next statement begins anew."""
        super().rollback()
        self._end("ROLLBACK")

    def close(self) -> None:
        """Give the connection back."""
        super().close()
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _end(self, how: str) -> None:
        line = self._line
        if line is None:
            return
        if line.in_transaction():  # statements went through SQLAlchemy, and the session did not end it
            line.commit() if how == "COMMIT" else line.rollback()
        elif line.invalidated:
            if how == "COMMIT":
                raise _broken()
        else:
            driver = line.connection
            try:  # nothing is left to do where the session has done it
                driver.commit() if how == "COMMIT" else driver.rollback()
            except line.dialect.loaded_dbapi.Error as error:
                raise prepared.told(line, how, error) from error
        self._line = None
        line.close()


def _broken() -> PendingRollbackError:
    return PendingRollbackError("the connection broke in this transaction, which can only be rolled back")


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
            with nullcontext() if read_only else self._writer, self._session(read_only=read_only) as session:
                try:
                    yield session
                    session.commit()
                except BaseException:
                    session.rollback()
                    raise
        finally:
            _open.depth -= 1

    def _session(self, *, read_only: bool) -> _Session:
        # A transaction that starts by reading and then writes fails at once when another wrote in between;
        # taking the write lock first waits instead.
        begins_with = (_READING if read_only else _WRITING) if self.is_sqlite else None
        return _Session(self.engine, begins_with=begins_with)

    def dispose(self) -> None:
        """Close every kept connection."""
        self.engine.dispose()

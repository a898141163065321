"""One connection to a PostgreSQL server through libpq, on which every wait ends at a deadline.

psycopg's own connections wait for results without limit, and hide the code of a failed login; this drives the same
libpq by its non-blocking calls instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import select
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from connectors.base import Deadline
from connectors.postgresql.errors import ServerRefusal, last_words, read_login_failure

__all__ = ["Link", "Row"]

Row = tuple[str | None, ...]

_VERBOSE = 2  # PQERRORS_VERBOSE
_MOST_PROCESSES = 1 << 22
_TEXT_LIMIT = 300  # characters of a server's sentence that are passed on


class Link:
    """A logged-in connection; belongs to one thread at a time."""

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn

    @classmethod
    def connect(cls, parameters: Mapping[str, str], deadline: Deadline) -> Link:
        """Log in.

        Args:
            parameters: libpq's connection parameters.
            deadline: bounds the whole login; looking up the host's name may take longer.

        Raises:
            ServerRefusal: the login failed; without a code when no server answered.
            TimeoutError: no answer in time.
        """
        pgconn = pq.PGconn.connect_start(make_conninfo("", **parameters).encode())
        try:
            _print_codes(pgconn)
            while (state := _poll(pgconn)) != pq.PollingStatus.OK:
                _wait(pgconn.socket, write=state == pq.PollingStatus.WRITING, deadline=deadline)
        except BaseException:
            pgconn.finish()
            raise
        pgconn.nonblocking = 1
        return cls(pgconn)

    @property
    def server_version(self) -> int:
        """Return the server's version as a number, 150004 for 15.4."""
        return self._pgconn.server_version

    @property
    def backend_pid(self) -> int:
        """Return the process that the other side named at the login; a pooler makes the number up."""
        return self._pgconn.backend_pid

    @property
    def is_surely_pooled(self) -> bool:
        """Say whether the number cannot be a process: poolers make up 32 bits, of which a system uses 22."""
        return not 0 < self._pgconn.backend_pid <= _MOST_PROCESSES

    def query(self, statement: str, parameters: Sequence[str | None], deadline: Deadline) -> list[Row]:
        """Return the rows of one statement whose ``$1`` … are bound by the server.

        Raises:
            ServerRefusal: the server answered with an error.
            TimeoutError: no answer in time; the link is closed.
            psycopg.Error: the connection broke; the link is closed.
        """
        values = [None if value is None else value.encode() for value in parameters]
        with self._closing_on_break():
            self._pgconn.send_query_params(statement.encode(), values)
            results = self._results(deadline)
        last = results[-1]
        return [
            tuple(_cell(last.get_value(row, column)) for column in range(last.nfields)) for row in range(last.ntuples)
        ]

    def script(self, statements: str | bytes, deadline: Deadline) -> list[str]:
        """Run statements in one round trip and return their completion tags.

        Raises:
            ServerRefusal: the server answered with an error; the statements after it were not run.
            TimeoutError: no answer in time; the link is closed.
            psycopg.Error: the connection broke; the link is closed.
        """
        with self._closing_on_break():
            self._pgconn.send_query(statements.encode() if isinstance(statements, str) else statements)
            results = self._results(deadline)
        return [_text(result.command_status or b"") for result in results]

    def is_idle(self) -> bool:
        """Say whether the link lives, is outside any transaction, and the server sent nothing unasked."""
        if self._pgconn.status != pq.ConnStatus.OK:
            return False
        if self._pgconn.transaction_status != pq.TransactionStatus.IDLE:
            return False
        poller = select.poll()
        poller.register(self._pgconn.socket, select.POLLIN)
        return not poller.poll(0)  # readable without a question: the end of the connection, or its reason

    def close(self) -> None:
        """End the connection; never raises."""
        with contextlib.suppress(psycopg.Error, OSError):
            self._pgconn.finish()

    def _results(self, deadline: Deadline) -> list[pq.abc.PGresult]:
        while self._pgconn.flush():
            _wait(self._pgconn.socket, write=True, deadline=deadline)
        results: list[pq.abc.PGresult] = []
        while True:
            while self._pgconn.is_busy():
                _wait(self._pgconn.socket, write=False, deadline=deadline)
                self._read()
            result = self._pgconn.get_result()
            if result is None:
                break
            results.append(result)
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise _refusal(result)
        return results

    def _read(self) -> None:
        """Take what has come in.

        Raises:
            ServerRefusal: the connection ended, and the other side said why.
            psycopg.Error: it ended without a word.
        """
        try:
            self._pgconn.consume_input()
        except psycopg.Error:
            said = last_words(_text(self._pgconn.error_message))
            if said is not None:
                raise said from None
            raise

    @contextlib.contextmanager
    def _closing_on_break(self) -> Iterator[None]:
        """Close the link when an answer is missing: its next answer would belong to another question."""
        try:
            yield
        except ServerRefusal as refusal:
            if refusal.severity != "ERROR":
                self.close()
            raise
        except BaseException:
            self.close()
            raise


def _poll(pgconn: pq.abc.PGconn) -> pq.PollingStatus:
    """Let libpq go on with the login.

    Raises:
        ServerRefusal: it failed.
    """
    failed = pgconn.status == pq.ConnStatus.BAD
    state = pq.PollingStatus.FAILED if failed else pq.PollingStatus(pgconn.connect_poll())
    if state == pq.PollingStatus.FAILED:
        raise read_login_failure(_text(pgconn.error_message), used_password=bool(pgconn.used_password))
    return state


def _wait(descriptor: int, *, write: bool, deadline: Deadline) -> None:
    """Wait for the socket.

    Raises:
        TimeoutError: the deadline came first.
    """
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT if write else select.POLLIN)
    if deadline.is_over or not poller.poll(max(1, int(deadline.remaining() * 1000))):
        raise TimeoutError("the server did not answer in time")


def _refusal(result: pq.abc.PGresult) -> ServerRefusal:
    fields = pq.DiagnosticField
    code = result.error_field(fields.SQLSTATE)
    severity = result.error_field(fields.SEVERITY_NONLOCALIZED) or result.error_field(fields.SEVERITY)
    primary = result.error_field(fields.MESSAGE_PRIMARY) or result.error_message
    return ServerRefusal(
        sqlstate=_text(code) if code else None,  # libpq itself reports a broken connection without a code
        severity=_text(severity or b"FATAL"),
        text=_text(primary)[:_TEXT_LIMIT],
        routine=_text(result.error_field(fields.SOURCE_FUNCTION) or b""),
    )


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace").strip()


def _cell(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="replace")


def _print_codes(pgconn: pq.abc.PGconn) -> None:
    """Make libpq print the SQLSTATE of a failed login, which it otherwise keeps to itself."""
    library = _libpq()
    if library is not None:
        library.PQsetErrorVerbosity(getattr(pgconn, "pgconn_ptr"), _VERBOSE)  # noqa: B009 - not in psycopg's protocol class


@functools.cache
def _libpq() -> ctypes.CDLL | None:
    """Return the very libpq that psycopg uses, or None where it cannot be told which one that is."""
    for name in _libpq_names():
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)  # only one that is loaded already
            if library.PQlibVersion() == pq.version():
                library.PQsetErrorVerbosity.argtypes = [ctypes.c_void_p, ctypes.c_int]
                return library
    return None


def _libpq_names() -> list[str]:
    if pq.__impl__ != "binary":  # the system's own library
        return ["libpq.so.5", "libpq.5.dylib"]
    import psycopg_binary

    package = Path(psycopg_binary.__file__ or "").parent
    found = [*package.parent.glob("psycopg_binary.libs/libpq*"), *package.glob(".dylibs/libpq*")]
    return [str(path) for path in found]

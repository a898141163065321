"""One connection to an Oracle database through the thin driver, on which every wait ends at a deadline.

The driver bounds no login; its asynchronous form can be given up at any time. So each connection has an event loop of
its own, which runs only while its owner waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import oracledb

from connectors.base import Deadline
from connectors.oracle.errors import FAILURES, DriverFailure, refusal_of

__all__ = ["CONNECT_SECONDS", "Link", "Login", "Row"]

T = TypeVar("T")
Row = tuple[Any, ...]

CONNECT_SECONDS = 15.0
_ROWS = 1000  # asked for with the question itself, which spares a second one


@dataclass(frozen=True, kw_only=True)
class Login:
    """Who logs in, where, and how the way there is protected."""

    host: str
    port: int
    service: str
    user: str  # as stored
    password: str  # never shown
    new_password: str | None = None  # set at the login itself, as an expired user has to
    context: ssl.SSLContext | None = None  # None: no TLS

    def __repr__(self) -> str:
        return f"Login({self.user!r} at {self.host}:{self.port}/{self.service})"


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that knows its connections, so that giving up leaves none open."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[asyncio.BaseTransport] = []

    async def create_connection(self, *arguments: Any, **named: Any) -> Any:
        """Connect, and remember."""
        made = await super().create_connection(*arguments, **named)
        self._made.append(made[0])
        return made

    async def within(self, action: Coroutine[Any, Any, T], seconds: float) -> T:
        """Return what the action does, or cut its connections: told to stop, the driver would wait for the server.

        Raises:
            TimeoutError: it took longer.
        """
        task = self.create_task(action)
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            self._cut()
            task.cancel()
            await asyncio.wait({task}, timeout=0.5)
            raise TimeoutError("the server did not answer in time")
        return task.result()

    def _cut(self) -> None:
        for transport in self._made:
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

    def end(self) -> None:
        """Cut every connection and close; never raises."""
        with contextlib.suppress(Exception):
            self._cut()
            self.run_until_complete(asyncio.sleep(0))
        self.close()


class Link:
    """A logged-in connection; belongs to one thread at a time."""

    def __init__(self, loop: _Loop) -> None:
        self._loop: _Loop | None = loop
        self._connection: Any = None

    @classmethod
    def connect(cls, login: Login, deadline: Deadline) -> Link:
        """Log in.

        Raises:
            ServerRefusal: database or listener refused the login.
            DriverFailure, OSError: no connection, or no TLS as it is demanded.
            TimeoutError: no answer in time.
        """
        link = cls(_Loop())
        secure: dict[str, Any] = {}
        if login.context is not None:
            secure = {"protocol": "tcps", "ssl_context": login.context}
            secure["ssl_server_dn_match"] = login.context.check_hostname

        async def connect() -> Any:
            return await oracledb.connect_async(
                user=f'"{login.user}"', password=login.password, newpassword=login.new_password, host=login.host,
                port=login.port, service_name=login.service, tcp_connect_timeout=deadline.remaining(),
                program="pam-jobs", retry_count=0, **secure,
            )  # fmt: skip

        link._connection = link._run(connect(), deadline)
        return link

    @property
    def version(self) -> str:
        """Return the database's version, such as 19.3.0.0.0."""
        return str(self._connection.version)

    @property
    def warning(self) -> int:
        """Return the code of what the database warned of at the login; 0 when it did not."""
        told = self._connection.warning
        return int(getattr(told, "code", 0) or 0)

    @property
    def is_open(self) -> bool:
        """Say whether nothing has broken the link so far."""
        return self._loop is not None

    def query(self, statement: str, values: Sequence[str], deadline: Deadline) -> list[Row]:
        """Return the rows of one statement whose ``:name`` … are bound by the server.

        Raises:
            ServerRefusal: the database answered with an error.
            TimeoutError: no answer in time; the link is closed.
            DriverFailure: the connection broke; the link is closed.
        """

        async def fetch() -> list[Row]:
            with self._connection.cursor() as cursor:
                cursor.prefetchrows = cursor.arraysize = _ROWS
                await cursor.execute(statement, list(values) or None)
                return list(await cursor.fetchall()) if cursor.description else []

        return self._run(fetch(), deadline)

    def is_idle(self) -> bool:
        """Say whether the link lives: one question to the server."""
        try:
            return self._loop is not None and bool(self.query("SELECT 1 AS one FROM dual", (), Deadline(2.0)))
        except FAILURES:
            return False

    def close(self) -> None:
        """End the connection; never raises."""
        loop = self._loop
        if loop is None:
            return
        with contextlib.suppress(Exception):
            loop.run_until_complete(loop.within(self._connection.close(), 1.0))
        self._end()

    def _run(self, action: Coroutine[Any, Any, T], deadline: Deadline) -> T:
        loop = self._loop
        if loop is None:
            action.close()
            raise DriverFailure(text="the connection is closed")
        try:
            return loop.run_until_complete(loop.within(action, deadline.remaining()))
        except oracledb.Error as error:
            refusal = refusal_of(error)
            if (
                self._connection is None
                or isinstance(refusal, DriverFailure)
                or getattr(error.args[0], "is_session_dead", True)
            ):
                self._end()
            raise refusal from None
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.end()

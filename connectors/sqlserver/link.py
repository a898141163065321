"""One connection to a SQL Server through a driver's process of its own, on which every wait ends at a deadline."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from connectors.base import Deadline
from connectors.sqlserver.errors import FAILURES, DriverFailure, refusal_of

__all__ = ["CONNECT_SECONDS", "Drivers", "Link", "Login", "Row"]

Row = list[Any]

CONNECT_SECONDS = 15.0
_SETTINGS = "SET NOCOUNT ON; SET QUOTED_IDENTIFIER ON; SET ANSI_NULLS ON; SET LANGUAGE us_english"
_MAX_IDLE = 8  # processes that wait for their next login
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Login:
    """Who logs in, where, and how the way there is protected."""

    host: str
    port: int
    user: str
    password: str  # never shown
    database: str
    encryption: str  # of FreeTDS: off, request, require
    ca: str = ""  # file of the CA; empty: the server need not prove who it is
    checks_name: bool = False  # the certificate has to name the host

    def __repr__(self) -> str:
        return f"Login({self.user!r} at {self.host}:{self.port})"


class _Driver:
    """A process of ``connectors/sqlserver/driver.py``; belongs to one thread at a time."""

    def __init__(self) -> None:
        environment = {"PATH": os.defpath, "PYTHONPATH": str(_ROOT), "LC_ALL": "C.UTF-8"}  # none of FreeTDS' own
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "connectors.sqlserver.driver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, cwd="/", env=environment, start_new_session=True,
        )  # fmt: skip
        self._rest = b""

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    def ask(self, request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            TimeoutError: none came in time; the process is ended.
            DriverFailure: the process ended.
        """
        to, came = cast("IO[bytes]", self._child.stdin), cast("IO[bytes]", self._child.stdout)
        try:
            to.write(json.dumps(request).encode("ascii") + b"\n")
            to.flush()
            while b"\n" not in self._rest:
                self._rest += _read(came.fileno(), deadline)
        except BaseException as error:
            self.end()
            if isinstance(error, BrokenPipeError):
                raise DriverFailure from None
            raise
        line, _, self._rest = self._rest.partition(b"\n")
        return cast("dict[str, Any]", json.loads(line))

    def end(self) -> None:
        """End the process at once, and the connection with it; never raises."""
        with contextlib.suppress(OSError):
            self._child.kill()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()
        with contextlib.suppress(OSError):
            self._child.wait()


class Drivers:
    """Processes of the driver that wait for a login: starting one takes longer than logging in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Driver] = []

    def take(self) -> _Driver:
        """Return a process without a connection, the caller's alone."""
        while True:
            with self._lock:
                found = self._idle.pop() if self._idle else None
            if found is None:
                return _Driver()
            if found.is_running:
                return found
            found.end()

    def give(self, driver: _Driver) -> None:
        """Take a process back whose connection is closed."""
        with self._lock:
            keeps = driver.is_running and len(self._idle) < _MAX_IDLE
            if keeps:
                self._idle.append(driver)
        if not keeps:
            driver.end()

    def close_idle(self) -> None:
        """End the waiting processes, as at shutdown."""
        with self._lock:
            gone, self._idle = self._idle, []
        for driver in gone:
            driver.end()


class Link:
    """A logged-in connection; belongs to one thread at a time."""

    def __init__(self, drivers: Drivers, driver: _Driver) -> None:
        self._drivers = drivers
        self._driver: _Driver | None = driver

    @classmethod
    def connect(cls, drivers: Drivers, login: Login, deadline: Deadline) -> Link:
        """Log in.

        Args:
            drivers: where processes wait.
            login: who and where.
            deadline: bounds the whole login.

        Raises:
            ServerRefusal: the server refused the login.
            DriverFailure: no connection, or no TLS as it is demanded.
            TimeoutError: no answer in time.
        """
        driver = drivers.take()
        seconds = math.ceil(deadline.remaining()) + 1  # the driver's own limit, in case this process is stopped
        link = cls(drivers, driver)
        try:
            link._ask({
                "do": "login", "host": login.host, "port": login.port, "user": login.user, "password": login.password,
                "database": login.database, "encryption": login.encryption, "ca": login.ca,
                "checks_name": "yes" if login.checks_name else "no", "seconds": seconds, "settings": _SETTINGS,
            }, deadline)  # fmt: skip
        except BaseException:
            link.close()
            raise
        return link

    def query(self, statement: str, deadline: Deadline) -> list[Row]:
        """Return the rows of one batch.

        Raises:
            ServerRefusal: the server answered with an error.
            TimeoutError: no answer in time; the link is closed.
            DriverFailure: the connection broke; the link is closed.
        """
        return cast("list[Row]", self._ask({"do": "query", "statement": statement}, deadline).get("rows", []))

    @property
    def is_open(self) -> bool:
        """Say whether nothing has broken the link so far."""
        return self._driver is not None

    def is_idle(self) -> bool:
        """Say whether the link lives: one question to the server, which takes less than a millisecond there."""
        if self._driver is None or not self._driver.is_running:
            return False
        try:
            return self.query("SELECT 1 AS one", Deadline(2.0)) == [[1]]
        except FAILURES:
            return False

    def close(self) -> None:
        """End the connection; never raises."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        try:
            driver.ask({"do": "close"}, Deadline(1.0))
        except (*FAILURES, ValueError):
            driver.end()
        else:
            self._drivers.give(driver)

    def _ask(self, request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        if self._driver is None:
            raise DriverFailure(text="the connection is closed")
        try:
            answer = self._driver.ask(request, deadline)
        except BaseException:
            self._driver = None
            raise
        refusal = refusal_of(answer["messages"])
        if refusal is not None:
            if not answer["lives"] and request["do"] == "query":
                self.close()
            raise refusal
        if "failed" in answer:
            self.close()
            raise DriverFailure(kind=answer["failed"], text=_sentence(answer["text"]))
        return answer


def _read(descriptor: int, deadline: Deadline) -> bytes:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    if deadline.is_over or not poller.poll(math.ceil(deadline.remaining() * 1000)):
        raise TimeoutError("the server did not answer in time")
    piece = os.read(descriptor, 65536)
    if not piece:
        raise DriverFailure
    return piece


def _sentence(text: str) -> str:
    """Return FreeTDS' own words without its numbers, the most telling line first."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("DB-Lib error message")]
    return "; ".join(line.replace(" (pam:1)", "") for line in reversed(lines))[:200]

"""A process of its own around one FreeTDS connection: reads requests as lines of JSON, answers each with one line.

FreeTDS keeps its time limits and the messages of a failed login in variables of the whole process. Two logins at once
would mix up each other's refusals, and one silent server would hold all others. So every connection has a process: the
caller ends it when the time is over, and nothing else is touched. Secrets come on standard input alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from pymssql import _mssql

__all__ = ["serve"]

_SECTION = "pam:1"  # a name with a colon, which the driver hands to FreeTDS as it is
_MESSAGE = ctypes.CFUNCTYPE(  # int handler(DBPROCESS *, DBINT number, int state, int severity, char *text, …)
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int, ctypes.c_int,
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
)  # fmt: skip


class _Messages:
    """What the server said since the last request: the driver keeps the gravest message alone.

    A login to a database that cannot be opened ends with the same last message as a wrong password.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[int, int, int, str]] = []
        library = ctypes.CDLL(_mssql.__file__)
        library.dbmsghandle.restype = ctypes.c_void_p
        library.dbmsghandle.argtypes = [ctypes.c_void_p]
        self._ours = _MESSAGE(self._hear)  # kept alive: the library calls it
        former = library.dbmsghandle(ctypes.cast(self._ours, ctypes.c_void_p))
        self._former: Callable[..., int] | None = _MESSAGE(former) if former else None

    def _hear(self, process: int, number: int, state: int, severity: int, text: int, *rest: int) -> int:
        said = ctypes.string_at(text).decode(errors="replace") if text else ""
        self.heard.append((number, state, severity, said))
        return self._former(process, number, state, severity, text, *rest) if self._former else 0


def serve() -> None:
    """Answer requests until the caller goes away."""
    with os.fdopen(os.dup(1), "w", encoding="ascii") as out:
        os.dup2(2, 1)  # whatever the library may print is no answer
        messages = _Messages()
        connection: _mssql.MSSQLConnection | None = None
        for line in sys.stdin.buffer:
            request: dict[str, Any] = json.loads(line)
            messages.heard.clear()
            answer: dict[str, Any] = {}
            try:
                if request["do"] == "login":
                    connection = _login(request)
                elif request["do"] == "query" and connection is not None:
                    connection.execute_query(request["statement"])
                    answer["rows"] = [[row[key] for key in row if isinstance(key, int)] for row in connection]
                elif connection is not None:
                    connection.close()
                    connection = None
            except Exception as error:  # noqa: BLE001 - told to the caller, whose table knows what each means
                answer = {"failed": type(error).__name__, "text": _text_of(error)}
            answer["messages"] = messages.heard
            answer["lives"] = connection is not None and bool(connection.connected)
            out.write(json.dumps(answer, default=str) + "\n")
            out.flush()


def _login(request: Mapping[str, Any]) -> _mssql.MSSQLConnection:
    """Log in, with FreeTDS' settings in a file of this login alone, so that nobody's own file has a say."""
    lines = [f"[{_SECTION}]", f"host = {request['host']}", f"port = {request['port']}", "tds version = 7.4"]
    lines += [f"encryption = {request['encryption']}", "client charset = UTF-8"]
    if request["ca"]:
        lines += [f"ca file = {request['ca']}", f"check certificate hostname = {request['checks_name']}"]
    with tempfile.NamedTemporaryFile("w", prefix="pam-tds-", encoding="utf-8") as file:
        file.write("\n".join([*lines, ""]))
        file.flush()
        os.environ["FREETDSCONF"] = file.name
        _mssql.login_timeout = request["seconds"]
        return _mssql.connect(
            server=_SECTION, user=request["user"], password=request["password"], database=request["database"],
            charset="UTF-8", appname="pam-jobs", conn_properties=request["settings"],
        )  # fmt: skip


def _text_of(error: Exception) -> str:
    """Return FreeTDS' own words of a connection that failed; what the server said is in the messages."""
    text = getattr(error, "text", b"") if isinstance(error, _mssql.MSSQLDatabaseException) else b""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


if __name__ == "__main__":
    serve()

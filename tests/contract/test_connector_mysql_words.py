"""A MySQL server that only talks: what no healthy one can be made to say on demand."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from connectors.base import Account, Credential, Deadline, Target, VerdictState
from connectors.mysql.connector import MysqlConnector
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.contract


def packet(body: bytes, number: int = 0) -> bytes:
    return struct.pack("<I", len(body))[:3] + bytes([number]) + body


def refusal(code: int, text: str) -> bytes:
    return packet(b"\xff" + struct.pack("<H", code) + text.encode())


GREETING = packet(
    b"\x0a8.4.0\0" + struct.pack("<I", 7) + b"12345678\0" + struct.pack("<HBHH", 0xF7FF, 255, 2, 0x00FF)  # no TLS
    + b"\x15" + b"\0" * 10 + b"123456789012\0" + b"mysql_native_password\0"
)  # fmt: skip
ASKS_IN_CLEAR = packet(b"\xfemysql_clear_password\0", 2)


@contextmanager
def talking(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Send the first answer to whoever connects, and each further one when something was heard; then close."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                for number, answer in enumerate(answers):
                    client.sendall(answer)
                    if number + 1 < len(answers) or answer[4:5] == b"\xfe":
                        heard.append(client.recv(4096))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("answers", "cause"),
    [
        ([refusal(1040, "Too many connections")], "too_many_connections"),
        ([refusal(1129, "Host is blocked because of many connection errors")], "host_blocked"),
        ([refusal(1130, "Host is not allowed to connect to this MySQL server")], "not_allowed_from_here"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "unreachable"),
        ([b""], "unreachable"),
        ([packet(b"\x0a")], "unreachable"),
        ([GREETING], "unreachable"),
        ([GREETING, ASKS_IN_CLEAR], "unreachable"),
    ],
)
def test_servers_words_prove_nothing(answers, cause):
    connector = MysqlConnector()
    with talking(*answers) as (port, heard):
        target = Target(host="127.0.0.1", port=port, protocol="mysql")
        with connector.open(target, None, Deadline(5)) as session:
            verdict = session.probe(
                Account(login="joe", record_uid="x"),
                Credential(login="joe", password=SecretValue("Never-in-the-clear")),
            )
    assert (verdict.state, verdict.cause) == (VerdictState.UNKNOWN, cause), verdict
    assert b"Never-in-the-clear" not in b"".join(heard)


def test_what_is_no_mysql_is_not_recognised():
    for answer in (b"SSH-2.0-OpenSSH_9.2\r\n", b"ERROR\r\nERROR\r\n", packet(b"\x0a\x01\x02\0" + b"x" * 30)):
        with talking(answer) as (port, _):
            assert MysqlConnector().recognise("127.0.0.1", port, Deadline(5)) is None
    with talking(GREETING) as (port, _):
        found = MysqlConnector().recognise("127.0.0.1", port, Deadline(5))
    assert (found.protocol, found.banner, found.facts["tls"]) == ("mysql", "MySQL 8.4.0", "no")
    with talking(refusal(1129, "blocked")) as (port, _):
        assert MysqlConnector().recognise("127.0.0.1", port, Deadline(5)).protocol == "mysql"

"""Calls to the router over real connections: to one that behaves, and one that does not."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pam_jobs.clock import SystemClock
from pam_jobs.crypto import p256
from pam_jobs.crypto.tls import TlsFiles, ensure_tls
from pam_jobs.errors import ConfigurationError, LeaseLost, VaultError
from pam_jobs.jobs import wire
from workers.pool import make_pool
from workers.router import DeviceToken, MaybeDone, RouterClient, RouterUnavailable

pytestmark = pytest.mark.enable_socket

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return ensure_tls(tmp_path_factory.mktemp("tls"), ["localhost", "127.0.0.1"], SystemClock())


class Server:
    """Answers each connection with what the script says, then goes on or hangs up."""

    def __init__(self, tls: TlsFiles, answers: list[bytes]) -> None:
        self.answers = answers
        self.ended = threading.Event()  # a connection
        self.requests: list[bytes] = []
        self.connections = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self._talk(connection)
            except OSError:
                continue
            finally:
                self.ended.set()

    def _talk(self, connection: ssl.SSLSocket) -> None:
        while self.answers and (request := _whole(connection)):
            self.requests.append(request)
            answer = self.answers.pop(0)
            connection.sendall(answer)
            if b"close" in answer or b"X-Then" in answer or not answer.endswith(b"}"):
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits for a connection, as closing alone does not
        self._listener.close()
        self._thread.join(5)


def _whole(connection: ssl.SSLSocket) -> bytes:
    request = b""
    while not (request.endswith(b"}") and b"\r\n\r\n" in request):
        piece = connection.recv(65536)
        if not piece:
            return b""
        request += piece
    return request


@contextmanager
def serving(tls: TlsFiles, *answers: bytes) -> Iterator[Server]:
    server = Server(tls, list(answers))
    try:
        yield server
    finally:
        server.close()


def client(tls: TlsFiles, port: int, *, seconds: float = 5.0, ca: Path | None = None) -> RouterClient:
    """A client that makes each call once."""
    pool = make_pool(f"127.0.0.1:{port}", ca or tls.ca, connect_seconds=seconds, answer_seconds=seconds)
    token = DeviceToken("device", p256.generate(), SystemClock())
    return RouterClient(pool, token, "unit-1", patience_seconds=0, sleep=lambda _seconds: None)


def call(made: RouterClient, path: str = "/x") -> None:
    made.send(path, wire.Goodbye(instance="unit-1"))


def failure(made: RouterClient) -> str:
    """Return the kind of failure of a call."""
    with pytest.raises(RouterUnavailable, match="did not answer") as raised:
        call(made)
    return raised.value.message.rpartition("(")[2].removesuffix(")")


NOT_SENT = {"NewConnectionError", "ConnectTimeoutError", "ProxyError"}


def test_a_connection_is_kept_and_a_request_is_whole(tls: TlsFiles) -> None:
    with serving(tls, OK, OK) as server:
        made = client(tls, server.port)
        call(made)
        call(made)
        made._pool.close()
    assert server.connections == 1
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/device/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: KeeperDevice ey" in head
    assert b"\r\nUser-Agent: pam-jobs/" in head
    assert body == b'{"instance":"unit-1"}'


def test_a_path_cannot_carry_a_second_request(tls: TlsFiles) -> None:
    with serving(tls, OK) as server:
        call(client(tls, server.port), "/jobs/a\r\nX: y HTTP/1.1/claim?b#c")
    assert server.requests[0].startswith(b"POST /api/device/jobs/a%0D%0AX%3A%20y%20HTTP/1.1/claim%3Fb%23c HTTP/1.1\r\n")


@pytest.mark.parametrize("goodbye", [b"\r\nConnection: close\r\n\r\n", b"\r\nX-Then: ends\r\n\r\n"])
def test_a_connection_that_the_server_ended_is_not_used_again(tls: TlsFiles, goodbye: bytes) -> None:
    with serving(tls, OK.replace(b"\r\n\r\n", goodbye), OK) as server:
        made = client(tls, server.port)
        call(made)
        server.ended.wait(5)
        call(made)
    assert server.connections == 2
    assert len(server.requests) == 2


def test_a_connection_that_was_idle_for_long_is_not_used_again(tls: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tls, OK, OK) as server:
        made = client(tls, server.port)
        call(made)
        monkeypatch.setattr("workers.pool._IDLE_SECONDS", 0.0)
        call(made)
    assert server.connections == 2


def test_a_redirection_is_not_followed_and_a_refusal_is_understood(tls: TlsFiles) -> None:
    moved = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://elsewhere.test/\r\nContent-Length: 2\r\n\r\n{}"
    problem = b'{"code":"lease_lost","detail":"the lease ended"}'
    refused = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%s" % (len(problem), problem)
    with serving(tls, moved, refused) as server:
        made = client(tls, server.port)
        with pytest.raises(VaultError, match="status 307"):
            call(made)
        with pytest.raises(LeaseLost, match="the lease ended"):
            call(made)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"HTTP/1.1 2", b"nothing of the kind\r\n\r\n", b""]
)
def test_a_call_whose_answer_is_cut_off_is_made_once_and_may_have_been_handled(tls: TlsFiles, answer: bytes) -> None:
    with serving(tls, answer, OK) as server:
        assert failure(client(tls, server.port)) not in NOT_SENT
    assert len(server.requests) == 1


def test_a_refused_repetition_of_a_call_whose_answer_was_lost_may_mean_that_it_is_done(tls: TlsFiles) -> None:
    conflict = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}"
    with serving(tls, b"", conflict) as server:
        made = client(tls, server.port)
        with pytest.raises(MaybeDone):
            made.send("/x", wire.Goodbye(instance="unit-1"), patience_seconds=5)
    assert len(server.requests) == 2


def test_silence_ends_with_the_time(tls: TlsFiles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        told = failure(client(tls, listener.getsockname()[1], seconds=0.2))
    assert told in NOT_SENT


def test_a_certificate_of_another_authority_gets_nothing(tls: TlsFiles, tmp_path: Path) -> None:
    other = ensure_tls(tmp_path, ["127.0.0.1"], SystemClock())
    with serving(tls, OK) as server:
        assert failure(client(tls, server.port, ca=other.ca)) in NOT_SENT
    assert server.requests == []


def test_nobody_there_means_that_nothing_was_sent(tls: TlsFiles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    assert failure(client(tls, port)) in NOT_SENT


def test_a_proxy_is_used_where_the_environment_names_one(tls: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://joe:p%40ss@127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "")
        assert failure(client(tls, 9)) in NOT_SENT
        thread.join(5)
    assert seen[0].startswith(b"CONNECT 127.0.0.1:9 HTTP/1.")
    assert b"authorization: Basic " + base64.b64encode(b"joe:p@ss") in seen[0].replace(b"Proxy-A", b"a").replace(
        b"proxy-", b""
    )
    monkeypatch.setenv("HTTPS_PROXY", "gopher://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="proxy"):
        client(tls, 9)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert client(tls, 9)._pool.proxy is None

"""The gateway's own HTTPS client, against a server that behaves and one that does not."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from pam_jobs.clock import SystemClock
from pam_jobs.crypto.tls import TlsFiles, ensure_tls
from workers.https import KeptHttps, make_https

pytestmark = pytest.mark.enable_socket

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return ensure_tls(tmp_path_factory.mktemp("tls"), ["localhost", "127.0.0.1"], SystemClock())


class Server:
    """Answers each connection with what the script says, then goes on or hangs up."""

    def __init__(self, tls: TlsFiles, answers: list[bytes]) -> None:
        self.answers = answers
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

    def _talk(self, connection: ssl.SSLSocket) -> None:
        while self.answers and (request := connection.recv(65536)):
            self.requests.append(request)
            answer = self.answers.pop(0)
            connection.sendall(answer)
            if b"Connection: close" in answer or not answer.endswith(b"}"):
                return

    def close(self) -> None:
        self._listener.close()
        self._thread.join(5)


@contextmanager
def serving(tls: TlsFiles, *answers: bytes) -> Iterator[Server]:
    server = Server(tls, list(answers))
    try:
        yield server
    finally:
        server.close()


def client(tls: TlsFiles, port: int, *, seconds: float = 5.0, ca: Path | None = None) -> KeptHttps:
    context = ssl.create_default_context(cafile=str(ca or tls.ca))
    return KeptHttps(f"127.0.0.1:{port}", context, connect_seconds=seconds, answer_seconds=seconds)


def post(https: KeptHttps, path: str = "/x") -> bytes:
    return https.post(path, content=b'{"a":1}', headers={"Authorization": "KeeperDevice t"}).content


def test_a_connection_is_kept_and_a_request_is_whole(tls: TlsFiles) -> None:
    with serving(tls, OK, OK) as server:
        https = client(tls, server.port)
        assert post(https) == post(https) == b"{}"
        https.close()
    assert server.connections == 1
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Authorization: KeeperDevice t" in head
    assert body == b'{"a":1}'


def test_a_path_cannot_carry_a_second_request(tls: TlsFiles) -> None:
    with serving(tls, OK) as server:
        post(client(tls, server.port), "/jobs/a\r\nX: y HTTP/1.1/claim")
    assert server.requests[0].startswith(b"POST /jobs/a%0D%0AX%3A%20y%20HTTP/1.1/claim HTTP/1.1\r\n")


def test_a_connection_that_the_server_ended_is_not_used_again(tls: TlsFiles) -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with serving(tls, closing, OK) as server:
        https = client(tls, server.port)
        assert post(https) == post(https) == b"{}"
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"HTTP/1.1 2", b"nothing of the kind\r\n\r\n", b""]
)
def test_an_answer_that_is_cut_off_may_have_been_handled(tls: TlsFiles, answer: bytes) -> None:
    with serving(tls, answer) as server, pytest.raises(httpx.TransportError) as raised:
        post(client(tls, server.port))
    assert not isinstance(raised.value, httpx.ConnectError | httpx.ConnectTimeout)


def test_silence_ends_with_the_time(tls: TlsFiles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(httpx.ConnectTimeout):
        post(client(tls, listener.getsockname()[1], seconds=0.2))


def test_a_certificate_of_another_authority_gets_nothing(tls: TlsFiles, tmp_path: Path) -> None:
    other = ensure_tls(tmp_path, ["127.0.0.1"], SystemClock())
    with serving(tls, OK) as server, pytest.raises(httpx.ConnectError):
        post(client(tls, server.port, ca=other.ca))
    assert server.requests == []


def test_nobody_there_means_that_nothing_was_sent(tls: TlsFiles, unused_port: Callable[[], int]) -> None:
    with pytest.raises(httpx.ConnectError):
        post(client(tls, unused_port()))


def test_a_proxy_is_used_where_the_environment_names_one(tls: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context(cafile=str(tls.ca))
    for proxy, kind in (("http://127.0.0.1:1", httpx.Client), ("", KeptHttps)):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        monkeypatch.setenv("NO_PROXY", "")
        made = make_https("router.example", context, connect_seconds=1, answer_seconds=1)
        assert isinstance(made, kind)
        made.close()


@pytest.fixture
def unused_port() -> Callable[[], int]:
    def free() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port: int = listener.getsockname()[1]
            return port

    return free

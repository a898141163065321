"""The processes of docker-compose.yml by hand: its commands with its environment, against servers as it has them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from deploy.lab import PostgresServer
from deploy.lab.processes import Process, free_port, spawn
from tests.support.compose import environment_of, load
from tests.support.database import dump
from tests.support.embedded import Embedded, eventually
from tests.support.servers import rabbitmq, redis_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OLD = "Old-canary-of-the-apart-test"


class Apart:
    """Containers' processes, each with what its service would give it."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.broker_url = broker_url
        self.router_port, self.flower_port = free_port(), free_port()
        self.passphrase = f"canary-{secrets.token_urlsafe(18)}"
        self.flower_password = secrets.token_urlsafe(18)
        self.values = {
            "POSTGRES_PASSWORD": "in-the-url", "REDIS_PASSWORD": "in-the-url", "SANDBOX_PASSWORD": "unused",
            "FLOWER_PASSWORD": self.flower_password, "PAM_PUBLIC_HOST": f"localhost:{self.router_port}",
        }  # fmt: skip
        self._running: dict[str, Process] = {}
        for name in ("keys", "ca", "gateway", "audit", "logs"):
            (folder / name).mkdir(parents=True, mode=0o700)
        (folder / "passphrase").write_text(f"{self.passphrase}\n")

    def service(self, name: str) -> dict[str, Any]:
        return load(self.values)["services"][name]

    def environment(self, name: str) -> dict[str, str]:
        """Return the service's environment with the addresses and folders of this machine in place of the containers'."""
        given = environment_of(self.service(name))
        here = {
            "PAM_DATABASE_URL": self.database_url,
            "PAM_BROKER_URL": self.broker_url,
            "PAM_LISTEN_HOST": "127.0.0.1",
            "PAM_LISTEN_PORT": str(self.router_port),
            "PAM_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_PORT": str(self.flower_port),
        }
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "HOME") if key in os.environ}
        moved = {key: here.get(key, value.replace("/var/lib/pam", str(self.folder))) for key, value in given.items()}
        return {**kept, "PYTHONPATH": str(Path.cwd()), "PAM_MINIMUM_INTERVAL_SECONDS": "0", **moved}

    def run(self, name: str, argv: list[str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the service's command, or another one in its environment, to its end."""
        command = self._python(argv or self.service(name)["command"])
        return subprocess.run(
            command, env=self.environment(name), capture_output=True, text=True, check=False, timeout=120,
            cwd=self.folder,
        )  # fmt: skip

    def start(self, name: str) -> None:
        log = self.folder / "logs" / f"{name}.log"
        command = self._python(self.service(name)["command"])
        self._running[name] = spawn(command, log, environment=self.environment(name))

    def is_healthy(self, name: str) -> bool:
        return self.run(name, self.service(name)["healthcheck"]["test"][1:]).returncode == 0

    def stop(self) -> None:
        for process in self._running.values():  # all at once: together they take as long as the slowest
            if process.is_running:
                os.kill(process.pid, signal.SIGTERM)
        for process in self._running.values():
            process.stop(signal.SIGTERM, seconds_each=15)

    def logs(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted((self.folder / "logs").iterdir()))

    @staticmethod
    def _python(command: list[str]) -> list[str]:
        assert command[0] == "python"
        return [sys.executable, *command[1:]]


@pytest.fixture(params=["redis", "rabbitmq"])
def apart(request: pytest.FixtureRequest, tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Apart]:
    with ExitStack() as stack:
        if request.param == "redis":
            password = secrets.token_urlsafe(18)
            config = load(dict.fromkeys(("POSTGRES_PASSWORD", "FLOWER_PASSWORD", "SANDBOX_PASSWORD"), "x")
                          | {"REDIS_PASSWORD": password})["configs"]["redis"]["content"]  # fmt: skip
            broker = stack.enter_context(redis_server(config.replace("dir /data", ""), password))
        else:
            broker = stack.enter_context(rabbitmq())
        apart = Apart(tmp_path / "apart", stack.enter_context(_database(postgres_server)), broker)
        stack.callback(apart.stop)
        yield apart


class _database:  # noqa: N801 - reads as a function
    """A database that belongs to a user of its own, as the container's does."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._name = f"apart_{secrets.token_hex(6)}"

    def _admin(self) -> psycopg.Connection:
        server = self._server
        return psycopg.connect(
            host=server.host, port=server.port, user=server.admin_login, password=server.admin_password,
            dbname="postgres", autocommit=True,
        )  # fmt: skip

    def __enter__(self) -> str:
        password = secrets.token_urlsafe(18)
        with self._admin() as connection:
            name = sql.Identifier(self._name)
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(password)))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))
        return f"postgresql://{self._name}:{password}@{self._server.host}:{self._server.port}/{self._name}"

    def __exit__(self, *_: object) -> None:
        with self._admin() as connection:
            name = sql.Identifier(self._name)
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
            connection.execute(sql.SQL("DROP ROLE {}").format(name))


def test_the_processes_of_the_compose_file_rotate_a_credential(
    apart: Apart, target_postgres: PostgresServer, tmp_path: Path
) -> None:
    _bootstrap(apart)
    for name in ("router", "beat", "control", "flower"):
        assert name in {"beat", "control"} or not apart.is_healthy(name)  # their check is of what they need
        apart.start(name)
    for name in ("router", "beat", "control", "flower"):
        eventually(lambda name=name: apart.is_healthy(name), f"{name} is healthy")

    operator = _operator(apart, tmp_path)
    _start_gateway(apart, operator)
    login, uid = _rotated_role(operator, target_postgres)

    result = operator.json("action", "rotate", "-r", uid, "--wait")
    assert (result["status"], result["effect"]) == ("ok", "applied")
    new = operator.secret_of(uid)
    assert _logs_in(target_postgres, login, new)
    assert not _logs_in(target_postgres, login, OLD)
    assert operator.json("prove", uid)["proven"] is True

    # beat rotates by itself
    operator.pam("rotation", "edit", "-r", uid, "-sc", "*/2 * * * * ?")
    eventually(_scheduled(operator, uid), "a scheduled rotation")
    operator.pam("rotation", "edit", "-r", uid, "-od")

    # the audit log reaches a file of control's volume
    operator.pam("siem", "add", "json", f"path={apart.folder}/audit/audit.jsonl")
    operator.pam("siem", "test", "json")
    exported = operator.pam("audit", "export").stdout
    received = (apart.folder / "audit" / "audit.jsonl").read_text()
    assert "record_rotation_on_demand_ok" in received

    # Flower shows the gateway to who has the password
    address = f"http://127.0.0.1:{apart.flower_port}"
    assert httpx.get(f"{address}/api/workers").status_code == 401
    seen = httpx.get(f"{address}/api/tasks", auth=("pam", apart.flower_password)).text
    assert result["job"] in seen

    # and nobody of the control plane knows a secret
    operator.secret_of(uid)
    shown = b"\n".join([dump(apart.database_url), apart.logs(), exported.encode(), received.encode(), seen.encode()])
    assert [secret for secret in operator.secrets if secret.encode() in shown] == []


def _bootstrap(apart: Apart) -> None:
    first = apart.run("bootstrap")
    assert first.returncode == 0, first.stderr
    assert "registered owner" in first.stderr
    again = apart.run("bootstrap")
    assert (again.returncode, again.stderr) == (0, "")
    assert (apart.folder / "ca" / "ca.pem").read_bytes() == (apart.folder / "keys" / "tls" / "ca.pem").read_bytes()


def _operator(apart: Apart, tmp_path: Path) -> Embedded:
    operator = Embedded(tmp_path / "operator", passphrase=apart.passphrase)
    router = f"https://localhost:{apart.router_port}"
    operator.pam(
        "login", "owner", "--router", router, "--ca", str(apart.folder / "ca" / "ca.pem"),
        PAM_PASSPHRASE=apart.passphrase,
    )  # fmt: skip
    return operator


def _start_gateway(apart: Apart, operator: Embedded) -> None:
    operator.pam("app", "new", "Production")
    config = operator.pam("gateway", "new", "-n", "production", "-a", "Production", "--config-init", "b64").stdout
    apart.values["GATEWAY_CONFIG"] = config.strip()
    apart.start("gateway")
    eventually(lambda: apart.is_healthy("gateway"), "the gateway is healthy")

    def is_online() -> bool:
        return operator.json("gateway", "list")["gateways"][0]["status"] == "ONLINE"

    eventually(is_online, "the gateway is online")


def _rotated_role(operator: Embedded, server: PostgresServer) -> tuple[str, str]:
    operator.pam("folder", "new", "Office")
    operator.pam("app", "share", "Production", "Office", "--can-edit")
    operator.pam("config", "new", "-t", "Network", "-sf", "Office", "-pm", f"{server.port}=postgresql")
    host = (f"host={server.host}", f"port={server.port}", "databaseType=postgresql", "connectDatabase=postgres")
    database = operator.add_record("pamDatabase", "Database", *host)
    admin_fields = (f"login={server.admin_login}", "connectDatabase=postgres")
    admin = operator.add_record("pamUser", "Admin", *admin_fields, secret=server.admin_password)
    login = f"apart{secrets.token_hex(4)}"
    with _connect(server, server.admin_login, server.admin_password) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(login), sql.Literal(OLD)))
    uid = operator.add_record("pamUser", login, f"login={login}", "connectDatabase=postgres", secret=OLD)
    operator.pam("rotation", "edit", "-r", uid, "-rs", database, "-a", admin, "-od")
    return login, uid


def _scheduled(operator: Embedded, uid: str) -> Callable[[], bool]:
    def done() -> bool:
        jobs = operator.json("job", "list", "-r", uid, "--state", "succeeded")["jobs"]
        return any(job["trigger"] == "scheduled" for job in jobs)

    return done


def _connect(server: PostgresServer, login: str, password: str) -> psycopg.Connection:
    return psycopg.connect(
        host=server.host, port=server.port, user=login, password=password, dbname="postgres", autocommit=True
    )


def _logs_in(server: PostgresServer, login: str, password: str) -> bool:
    try:
        _connect(server, login, password).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"PAM_DATABASE_URL": None}, "PAM_DATABASE_URL"),
        ({"PAM_PASSPHRASE_FILE": None}, "PAM_PASSPHRASE_FILE"),
        ({"PAM_PASSPHRASE_FILE": "/no/such/file"}, "cannot be read"),
    ],
)
def test_a_wrong_start_is_told_in_one_sentence(tmp_path: Path, changes: dict[str, str | None], word: str) -> None:
    apart = Apart(tmp_path / "apart", f"sqlite:///{tmp_path}/control.db", "redis://localhost")
    environment = {**apart.environment("bootstrap"), **{key: value for key, value in changes.items() if value}}
    for key in [key for key, value in changes.items() if value is None]:
        del environment[key]
    done = subprocess.run(
        [sys.executable, "-m", "deploy.bootstrap"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1

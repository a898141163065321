"""One whole system as separate processes, each of which a test can kill, stop and start again on its own."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import delete

from connectors.faults import FaultProxy
from deploy.lab.processes import Process, free_port, spawn
from pam_jobs.access import users
from pam_jobs.audit.log import Actor
from pam_jobs.client.http import RouterClient
from pam_jobs.client.session import Session, TokenSource
from pam_jobs.client.vault import VaultClient
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.crypto.tls import TlsFiles
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import LoginRefusal
from tests.crash.orders import Orders
from tests.crash.store import Store
from tests.crash.targets import FIRST, Target
from tests.crash.waiting import eventually
from tests.support.broker import RedisBroker
from tests.support.database import dump
from tests.support.forks import Forks
from tests.support.gateway_site import GatewaySite
from tests.support.router import Operator, plain_user

LEASE_SECONDS = 8
CONCURRENCY = 64  # jobs at a time in an instance of the gateway
START_SECONDS = 60.0
_ROOT = str(Path(__file__).resolve().parents[2])
_POLICY = {
    "PAM_LEASE_SECONDS": str(LEASE_SECONDS), "PAM_REPUBLISH_SECONDS": "1", "PAM_REPUBLISH_CAP_SECONDS": "10",
    "PAM_RECONCILE_SECONDS": "0.3",
    "PAM_OFFLINE_SECONDS": "5", "PAM_EVENTS": "false", "PAM_MINIMUM_INTERVAL_SECONDS": "0",
    "PAM_BACKOFF_SECONDS": "0.5", "PAM_BACKOFF_CAP_SECONDS": "2", "PAM_BUSY_SECONDS": "0.3",
    "PAM_OFFLINE_REPUBLISH_SECONDS": "60", "PAM_REFUSAL_LIMIT": "6", "PAM_REFUSAL_WINDOW_SECONDS": "5",
    "PAM_KSM_REQUESTS_PER_10S": "100000", "PAM_SINK_SECONDS": "5",
}  # fmt: skip
CONTROL = ("database", "broker", "router", "control", "beat")
PROCESSES = ("gateway", *CONTROL)
_forks = Forks(
    ("tests.crash.launch", "pam_jobs.api.__main__", "pam_jobs.jobs.__main__", "scheduler.__main__", "workers.__main__")
)
atexit.register(_forks.close)
TIMED = ("router", "control", "beat")  # they share a machine, and so a clock


@dataclass(kw_only=True)
class Account:
    """An account on a target with its record, and what the judge knows of both."""

    target: Target
    login: str
    uid: str
    key: bytes = field(repr=False)
    runs_path: Path

    def runs(self) -> int:
        """Return how often the record's script ran so far."""
        return len(self.runs_path.read_text().split()) if self.runs_path.exists() else 0


class Gateway:
    """A gateway process."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name
        self.log_path = world.folder / "logs" / f"{name}.log"
        self.process: Process | None = None

    def start(self) -> None:
        """Start and wait until it takes jobs."""
        self._from = self.log_path.stat().st_size if self.log_path.exists() else 0
        self.begin()
        eventually(self._is_ready, lambda: f"{self.name} is ready: {self.tail()}")

    def begin(self) -> None:
        """Start without waiting."""
        world = self._world
        self._from = self.log_path.stat().st_size if self.log_path.exists() else 0
        arguments = ["--config", str(world.site.config_path)]
        environment = {
            "PAM_BROKER_URL": world.broker.url, "PAM_CA_FILE": str(world.tls.ca), "PAM_HEARTBEAT_SECONDS": "1",
            "PAM_GATEWAY_CONCURRENCY": str(world.concurrency), "HOME": str(world.folder), "PAM_JOB_SECONDS": str(world.job_seconds),
        }  # fmt: skip
        self.process = world.spawn("gateway", self.log_path, environment, arguments)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.is_running, f"{self.name} ended: {self.tail()}"
        return self.has_said("gateway_ready")

    def has_said(self, event: str) -> bool:
        """Say whether the log has such a line since the last start."""
        return any(line.get("event") == event for line in self.lines())

    def count(self, event: str) -> int:
        """Return how many such lines the log has since the last start."""
        return sum(line.get("event") == event for line in self.lines())

    def lines(self) -> Iterator[dict[str, Any]]:
        if not self.log_path.exists():
            return
        with self.log_path.open("rb") as log:
            log.seek(self._from)
            for line in log:
                with suppress(ValueError):
                    yield json.loads(line)

    def tail(self) -> str:
        return self.log_path.read_text()[-3000:] if self.log_path.exists() else ""

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send(signal.SIGKILL)
        eventually(lambda: self.process is None or not self.process.is_running, f"{self.name} is dead")

    def pause(self) -> None:
        """Stop every thread of it, as a suspended virtual machine."""
        self.send(signal.SIGSTOP)
        assert self.process is not None
        stat = Path(f"/proc/{self.process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", f"{self.name} is stopped")

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.is_running:
            os.kill(self.process.pid, number)


class World:
    """Database, broker, router, control, beat and gateway, with the targets' records."""

    def __init__(
        self, folder: Path, targets: Sequence[Target], *, kind: str = "postgresql", mutant: str = "-",
        job_seconds: int = 120, concurrency: int = CONCURRENCY,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.targets = targets
        self.mutant = mutant
        self.job_seconds = job_seconds
        self.concurrency = concurrency
        self.secrets: set[str] = {FIRST}
        for name in ("logs", "runs", "keys"):
            (folder / name).mkdir(parents=True, mode=0o700)
        self.orders = Orders(folder / "orders")
        self._broker_folder = Path(tempfile.mkdtemp(prefix="pamb-"))
        self.broker = RedisBroker(self._broker_folder)
        self.store = Store(folder, kind)
        self._processes: dict[str, Process] = {}
        self._router_port = free_port()
        self.router_proxy = FaultProxy("127.0.0.1", self._router_port)
        self.url = f"https://localhost:{self._router_port}"
        self.pool: list[Account] = []

    # life

    def start(self) -> None:
        """Bring everything up and make the records."""
        self.router_proxy.__enter__()
        self.store.start()
        self.secrets |= self.store.secrets
        self.database = Database(self.store.url)
        self.broker.start()
        self.start_one("router")
        self._sign_in()
        self.start_one("control")
        self.start_one("beat")
        mapping = "\n".join(target.port_mapping for target in self.targets)
        site_folder = self.folder / "gateway"
        site_folder.mkdir()
        self.site = GatewaySite(self, site_folder, port_mapping=mapping)  # type: ignore[arg-type]
        for target in self.targets:
            target.forget_records()
            target.join(self.site)
            self.secrets.add(target.admin_password)
        self.gateway = Gateway(self, "gateway")
        self.gateway.start()

    def stop(self) -> None:
        """End everything that was started here."""
        with suppress(AttributeError):
            self.gateway.resume()
            self.gateway.kill()
        for process in self._processes.values():
            process.stop()
        self.broker.stop(kill=True)
        if hasattr(self, "database"):
            self.database.dispose()
        self.store.stop()
        self.router_proxy.close()
        shutil.rmtree(self._broker_folder, ignore_errors=True)

    def kill(self, name: str) -> None:
        """End one process by SIGKILL and wait until it is gone."""
        if name == "gateway":
            self.gateway.kill()
        elif name == "broker":
            self.broker.stop(kill=True)
        elif name == "database":
            self.store.kill()
        else:
            process = self._processes[name]
            os.kill(process.pid, signal.SIGKILL)
            eventually(lambda: not process.is_running, f"{name} is dead")

    def start_one(self, name: str) -> None:
        """Start one process and wait until it serves."""
        if name == "gateway":
            self.orders.release()
            self.gateway.start()
        elif name == "broker":
            self.broker.start()
        elif name == "database":
            self.store.start()
        else:
            log = self.folder / "logs" / f"{name}.log"
            self._processes[name] = self.spawn(name.partition("-")[0], log, self.environment())
            if name == "router":
                eventually(self._router_serves, lambda: f"the router serves: {log.read_text()[-2000:]}")

    def process(self, name: str) -> Process:
        """Return a process of the control plane."""
        return self._processes[name]

    def spawn(self, what: str, log: Path, environment: dict[str, str], arguments: Sequence[str] = ()) -> Process:
        launched = [what, str(self.orders.folder), self.mutant, *arguments]
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        given = {**kept, "PYTHONPATH": _ROOT, **environment}
        if self.mutant == "-":
            return Process.of(_forks.spawn("tests.crash.launch:main", launched, log, given))
        # a mutant takes the place of a function before anybody has imported that
        return spawn([sys.executable, "-m", "tests.crash.launch", *launched], log, environment=given)

    def environment(self) -> dict[str, str]:
        return {
            "PAM_DATABASE_URL": self.store.url, "PAM_BROKER_URL": self.broker.url,
            "PAM_KEYS_DIR": str(self.folder / "keys"), "PAM_PUBLIC_HOST": f"localhost:{self.router_proxy.port}",
            "PAM_LISTEN_PORT": str(self._router_port), "HOME": str(self.folder), **_POLICY,
        }  # fmt: skip

    @contextmanager
    def second_gateway(self, name: str = "second") -> Iterator[Gateway]:
        """Run another instance of the gateway."""
        gateway = Gateway(self, name)
        gateway.start()
        try:
            yield gateway
        finally:
            gateway.kill()

    @contextmanager
    def more_beats(self, count: int) -> Iterator[None]:
        """Run further beats beside the one that may be killed."""
        logs = [self.folder / "logs" / f"beat-{number}.log" for number in range(count)]
        others = [self.spawn("beat", log, self.environment()) for log in logs]
        try:
            yield
        finally:
            for process in others:
                process.stop()

    # what the operator does

    @property
    def vault(self) -> VaultClient:
        return self.operator.vault

    def accounts(self, target: Target, count: int) -> list[Account]:
        """Return accounts that no other test of this moment uses, made when there are not enough."""
        free = [account for account in self.pool if account.target is target]
        while len(free) < count:
            free.append(self._new_account(target))
        taken = free[:count]
        self.pool = [account for account in self.pool if account not in taken]
        return taken

    def give_back(self, accounts: Sequence[Account]) -> None:
        """Let later tests use them; only accounts that were found in order come back."""
        self.pool += accounts

    @contextmanager
    def short_jobs(self, seconds: int) -> Iterator[None]:
        """Let the gateway give a job no more time than this."""
        usual, self.job_seconds = self.job_seconds, seconds
        self.gateway.kill()
        self.gateway.start()
        try:
            yield
        finally:
            self.job_seconds = usual
            self.gateway.kill()
            self.start_one("gateway")

    def let_refusals_age(self, account: Account) -> None:
        """Let the window of the account's lockout budget pass; a refusal that a clock ahead has dated keeps it open for longer."""
        with self.database.transaction() as session:
            session.execute(delete(LoginRefusal).where(LoginRefusal.record_uid == account.uid))

    def submit(self, account: Account, kind: str = "rotate", **parameters: Any) -> str:
        return self.site.submit(kind, account.uid, **parameters)

    def _new_account(self, target: Target) -> Account:
        login = target.new_login()
        target.add(login, target.first)
        uid = target.record(self.site, login)
        self.secrets.add(target.first)
        self.site.rotate_by(uid, target.resource_for(self.site, uid))
        runs = self.folder / "runs" / uid
        self.site.attach(uid, "count.sh", f"#!/bin/sh\necho run >> {runs}\n".encode())
        return Account(target=target, login=login, uid=uid, key=self.vault.records.get(uid).key, runs_path=runs)

    def _sign_in(self) -> None:
        new, key = plain_user("operator@example.test")
        with self.database.transaction() as session:
            users.register(session, SystemClock(), Actor(username="tests"), new)
        signed_in = Session(username="operator@example.test", private_key=key)
        client = RouterClient(self.url, ca=self.tls.ca, token=TokenSource(signed_in))
        self.operator = Operator(VaultClient(client, signed_in), self)  # type: ignore[arg-type]

    @property
    def tls(self) -> TlsFiles:
        folder = self.folder / "keys" / "tls"
        return TlsFiles(ca=folder / "ca.pem", certificate=folder / "router.pem", key=folder / "router.key")

    @property
    def keys(self) -> KeyStore:
        return KeyStore(self.folder / "keys")

    def dump(self) -> bytes:
        """Return everything that control plane, broker and logs hold."""
        logs = [path.read_bytes() for path in (self.folder / "logs").iterdir()]
        broker = [path.read_bytes() for path in self._broker_folder.rglob("*") if path.is_file()]
        return b"\n".join([dump(self.store.url), *logs, *broker])

    def _router_serves(self) -> bool:
        import httpx

        if not self._processes["router"].is_running:
            raise AssertionError(f"the router ended: {(self.folder / 'logs' / 'router.log').read_text()[-2000:]}")
        if not self.tls.ca.exists():
            return False
        import ssl

        try:
            context = ssl.create_default_context(cafile=str(self.tls.ca))
            return httpx.get(f"{self.url}/readyz", verify=context, trust_env=False, timeout=5).status_code == 200
        except (httpx.HTTPError, ssl.SSLError, OSError):
            return False


def canary() -> str:
    """Return a secret that is nowhere else."""
    return f"Canary-{secrets.token_urlsafe(12)}"

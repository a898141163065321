"""A gateway beside a real router: folder, application, configuration and records of real targets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectors.registry import ConnectorRegistry
from pam_jobs.client.pam import RotationChange
from pam_jobs.clock import SystemClock
from pam_jobs.ids import new_uid
from pam_jobs.jobs.publisher import Publisher
from pam_jobs.records.record import Record, ScriptRef
from tests.support.router import RunningRouter
from workers.boundaries import Boundary, nothing
from workers.breaker import Breakers
from workers.engine import Engine
from workers.identity import bind, load
from workers.journal import Journal
from workers.pool import make_pool
from workers.ports import EngineSettings, Ports
from workers.router import DeviceToken, RouterClient
from workers.storage import write_file
from workers.target_tags import TargetTags
from workers.vault import SdkVault


@dataclass
class GatewaySite:
    """What an operator set up for one gateway."""

    router: RunningRouter
    folder_path: Path
    port_mapping: str = ""
    cidr: str = "127.0.0.1/32"
    registry: ConnectorRegistry = field(default_factory=ConnectorRegistry)

    def __post_init__(self) -> None:
        vault = self.router.operator.vault
        self.vault = vault
        self.folder = self.router.operator.folder("targets")
        self.application_uid = self.router.operator.application(self.folder)
        application = vault.applications.find(self.application_uid)
        self.gateway_uid, token = vault.pam.add_gateway(application, "gateway", token_seconds=3600)
        vault.pam.edit_gateway(self.gateway_uid, max_instances=5)
        self.config_path = self.folder_path / "gateway-config.json"
        write_file(self.config_path, vault.applications.client_config(token))
        fields = [_f("multiline", "portMapping", self.port_mapping), _f("text", "networkCIDR", self.cidr)]
        record = Record.parse({"type": "pamNetworkConfiguration", "title": "Lab", "fields": fields})
        self.configuration_uid = vault.pam.add_configuration(
            record, self.folder, vault.pam.find_gateway(self.gateway_uid), environment="local", schedule=[],
            rotation_enabled=True,
        )  # fmt: skip

    def add(self, kind: str, title: str, *fields: dict[str, Any], custom: Sequence[dict[str, Any]] = ()) -> str:
        record = Record.parse({"type": kind, "title": title, "fields": list(fields), "custom": list(custom)})
        return self.vault.records.add(record, self.folder)

    def add_user(
        self, login: str, password: str | None, key: str | None = None, *, custom: Sequence[dict[str, Any]] = ()
    ) -> str:
        fields = [_f("login", "", login), _f("password", "", password), _f("secret", "privatePEMKey", key)]
        return self.add("pamUser", login, *fields, custom=custom)

    def add_resource(self, kind: str, host: str, port: int, admin_uid: str | None, *fields: dict[str, Any]) -> str:
        uid = self.add(kind, f"{kind} {port}", _f("pamHostname", "", {"hostName": host, "port": str(port)}), *fields)
        self.vault.pam.link_resource(uid, self.configuration_uid, admin_uid)
        return uid

    def rotate_by(
        self, user_uid: str, resource_uid: str | None, *, profile: str = "general", saas_uid: str | None = None
    ) -> None:
        change = RotationChange(
            configuration_uid=self.configuration_uid, resource_uid=resource_uid, admin_uid=None, profile=profile,
            schedule=[], inherits_schedule=False, complexity=None, disabled=False, revision=None,
            saas_uid=saas_uid,
        )  # fmt: skip
        self.vault.pam.set_rotation(self.vault.records.get(user_uid), change)

    def attach(self, uid: str, name: str, content: bytes, *, command: str = "", records: Sequence[str] = ()) -> None:
        def add(record: Record, file_uid: str) -> Record:
            new = ScriptRef(file_uid=file_uid, record_uids=tuple(records), command=command)
            return record.with_scripts([*record.scripts, new])

        self.vault.records.attach(uid, name, content, add)

    def record(self, uid: str) -> Record:
        return self.vault.records.get(uid).record

    def password(self, uid: str) -> str:
        secret = self.record(uid).password
        assert secret is not None
        return secret.reveal()

    def submit(self, kind: str, uid: str, **parameters: Any) -> str:
        return str(self.vault.jobs.submit(kind, uid, parameters)["uid"])

    def opened(self, job_uid: str) -> dict[str, Any]:
        return self.vault.jobs.opened(self.vault.jobs.get(job_uid))

    def engine(self, boundary: Boundary = nothing, journal: Journal | None = None, **settings: Any) -> Engine:
        """Return an engine in this process, as an instance of the gateway."""
        identity = load(self.config_path, {})
        sdk = SdkVault(identity.storage, self.router.tls.ca)
        bind(identity, sdk.greet)
        host = self.router.url.removeprefix("https://")
        pool = make_pool(host, self.router.tls.ca, connect_seconds=5, answer_seconds=30)
        token = DeviceToken(identity.client_id, identity.private_key, SystemClock())
        client = RouterClient(pool, token, f"i-{new_uid()[:8]}", patience_seconds=10)
        client.hello("0;Linux;1;x86_64;1", {})
        return Engine(
            Ports(
                router=client, vault=sdk, chain_for=self.registry.chain_for, recognisers=self.registry.recognisers,
                breakers=Breakers(), tags=TargetTags(identity.application_key), settings=EngineSettings(**settings), boundary=boundary,
                journal=journal or Journal(),
            )
        )  # fmt: skip

    def run(self, kind: str, uid: str, engine: Engine | None = None, **parameters: Any) -> dict[str, Any]:
        """Submit a job, run it in this process, and return it opened."""
        job_uid = self.submit(kind, uid, **parameters)
        (engine or self.engine()).run(job_uid)
        return self.opened(job_uid)

    def publish(self, broker_url: str) -> Publisher:
        """Send messages to the broker from now on."""
        context = self.router.context
        publisher = Publisher(broker_url, context.keys, context.clock, context.settings)
        context.after_commit = publisher.after_commit(context.database)
        return publisher

    @contextmanager
    def process(self, broker_url: str, **environment: str) -> Iterator[GatewayProcess]:
        """Run a real gateway process."""
        process = GatewayProcess(self, broker_url, environment)
        process.start()
        try:
            yield process
        finally:
            process.end()


class GatewayProcess:
    """``python -m workers`` with its log in memory."""

    def __init__(self, site: GatewaySite, broker_url: str, environment: dict[str, str]) -> None:
        self._log_path = site.folder_path / f"gateway-{new_uid()[:6]}.log"
        self._command = [sys.executable, "-m", "workers", "--config", str(site.config_path)]
        self._environment = {
            "PATH": os.environ["PATH"], "HOME": str(site.folder_path), "PAM_BROKER_URL": broker_url,
            "PAM_CA_FILE": str(site.router.tls.ca), "PAM_HEARTBEAT_SECONDS": "0.5", **environment,
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    def wait_for(self, event: str, seconds: float = 30) -> dict[str, Any]:
        """Return the first log line of an event."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.lines():
                if line.get("event") == event:
                    return line
            if self._process is not None and self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"{event} is not in the log:\n{self.log()}")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def log(self) -> str:
        return self._log_path.read_text()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)


def _f(kind: str, label: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "label": label, "value": [] if value is None else [value]}

"""A gateway's surroundings in memory: a router with the ledger's rules, a vault, and jobs to run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connectors.base import Connector
from connectors.fake import FakeAccount, FakeConnector, FakeTarget
from pam_jobs.clock import SystemClock
from pam_jobs.crypto import aes, p256
from pam_jobs.errors import VaultUnavailable
from pam_jobs.ids import new_uid
from pam_jobs.jobs import wire
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from tests.support.memory_router import MemoryJob, MemoryRouter, Row
from workers.breaker import Breakers
from workers.engine import Engine
from workers.journal import Journal
from workers.ports import EngineSettings, Ports, VaultFile, VaultRecord
from workers.router import DeviceToken, RouterClient
from workers.target_tags import TargetTags
from workers.values import Value


class MemoryVault:
    """The vault that belongs to a ``MemoryRouter``."""

    def __init__(self, router: MemoryRouter) -> None:
        self._router = router
        self.fetches: list[list[str]] = []
        self.is_away = False

    def fetch(self, uids: Iterable[str]) -> dict[str, VaultRecord]:
        wanted = list(uids)
        self.fetches.append(wanted)
        if self.is_away:
            raise VaultUnavailable
        found = {}
        for uid in wanted:
            if uid in self._router.records:
                sealed, revision, key = self._router.records[uid]
                files = {file.uid: file for file, _ in self._router.files.get(uid, [])}
                record = Record.parse(aes.decrypt(sealed, key))
                found[uid] = VaultRecord(uid=uid, record=record, key=key, revision=revision, files=files)
        return found

    def fetch_along(self, carry: Callable[[wire.VaultRead], bytes | None]) -> dict[str, VaultRecord]:
        read = wire.VaultRead(key_id="20", transmission_key=b"k", signature=b"s", payload=b"p")
        content = carry(read)
        if content is None or self.is_away:
            return {}
        return self.fetch(json.loads(content))

    def download(self, file: VaultFile) -> bytes:
        return next(content for files in self._router.files.values() for known, content in files if known == file)


class SleepyClock(SystemClock):
    """The machine's clock, on a machine that can be suspended."""

    slept = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.slept


@dataclass(kw_only=True)
class GatewayWorld:
    """One user, admin, resource and configuration on a fake target, with a job that rotates the user."""

    router: MemoryRouter = field(default_factory=MemoryRouter)
    connector: FakeConnector = field(default_factory=FakeConnector)
    target: FakeTarget = field(default_factory=FakeTarget)
    settings: EngineSettings = field(default_factory=lambda: EngineSettings(settle_seconds=0.0, script_seconds=20))
    journal: Journal = field(default_factory=Journal)
    reached: list[str] = field(default_factory=list)
    at: dict[str, Any] = field(default_factory=dict)  # boundary → called when it is reached
    clock: SleepyClock = field(default_factory=SleepyClock)

    def __post_init__(self) -> None:
        self.vault = MemoryVault(self.router)
        self.connector.add("db.test", 9999, self.target)
        self.target.accounts = {
            "app": FakeAccount(password="Old-Secret-1"),
            "root": FakeAccount(password="Admin-Secret-1", is_admin=True),
        }
        self.configuration = self.add_record(
            {"type": "pamNetworkConfiguration", "title": "Lab", "fields": [_f("multiline", "portMapping", "9999=ssh")]}
        )
        self.resource = self.add_record(
            {"type": "pamMachine", "title": "Box",
             "fields": [_f("pamHostname", "", {"hostName": "db.test", "port": "9999"})]}
        )  # fmt: skip
        self.admin = self.add_user("root", "Admin-Secret-1")
        self.user = self.add_user("app", "Old-Secret-1")
        self.give_current(self.user, Value(password=SecretValue("Old-Secret-1")))
        self.client = RouterClient(
            self.router.pool(), DeviceToken("device", p256.generate(), SystemClock()), "unit-1", patience_seconds=5,
            sleep=lambda _seconds: None,
        )  # fmt: skip
        self.breakers = Breakers(wait_seconds=0.1)
        self.engine = Engine(
            Ports(
                router=self.client, vault=self.vault, chain_for=self._chain, breakers=self.breakers,
                tags=TargetTags(bytes(32), look_up=lambda _host: ["10.0.0.5"]),
                settings=self.settings, boundary=self._reach, recognisers=lambda: [self.connector],
                journal=self.journal, clock=self.clock,
            )
        )  # fmt: skip

    def _chain(self, protocol: str, kind: str | None = None) -> Sequence[Connector]:
        return [self.connector]

    def _reach(self, name: str) -> None:
        self.reached.append(name)
        if (action := self.at.pop(name, None)) is not None:
            action()

    def add_record(self, data: Mapping[str, Any], uid: str | None = None) -> str:
        uid = uid or new_uid()
        key = aes.new_key()
        self.router.records[uid] = (aes.encrypt(Record.parse(data).to_json().encode(), key), 1, key)
        return uid

    def add_user(self, login: str, password: str | None, *more: dict[str, Any], custom: Sequence[Any] = ()) -> str:
        fields = [_f("login", "", login), _f("password", "", password), *more]
        return self.add_record({"type": "pamUser", "title": login, "fields": fields, "custom": list(custom)})

    def add_file(self, record_uid: str, content: bytes, name: str = "after.sh") -> str:
        uid = new_uid()
        file = VaultFile(uid=uid, name=name, title=name, url="memory:", key=b"")
        self.router.files.setdefault(record_uid, []).append((file, content))
        return uid

    def attach(
        self, record_uid: str, content: bytes, *, command: str = "", records: Sequence[str] = (), re_run: str = "never"
    ) -> str:
        """Attach a script to a record and return the file's uid."""
        uid = self.add_file(record_uid, content)
        value = {"fileRef": uid, "recordRef": list(records), "command": command, "reRun": re_run}
        self.edit(
            record_uid,
            lambda record: record.set_field(
                "script", [*record.values("script", "rotationScripts"), value], "rotationScripts"
            ),
        )
        return uid

    def record(self, uid: str) -> Record:
        sealed, _, key = self.router.records[uid]
        return Record.parse(aes.decrypt(sealed, key))

    def edit(self, uid: str, change: Any) -> None:
        """Change a record as an operator does, outside every job."""
        sealed, revision, key = self.router.records[uid]
        record = change(Record.parse(aes.decrypt(sealed, key)))
        self.router.records[uid] = (aes.encrypt(record.to_json().encode(), key), revision + 1, key)

    def key(self, uid: str) -> bytes:
        return self.router.records[uid][2]

    def give_current(self, uid: str, value: Value) -> None:
        self.add_row(uid, value, "current")

    def add_row(self, uid: str, value: Value, state: str) -> Row:
        rows = self.router.ledger.setdefault(uid, [])
        row = Row(seq=len(rows) + 1, state=state, ciphertext=value.seal(self.key(uid)))
        rows.append(row)
        return row

    def oversleep(self) -> None:
        """Let the gateway's machine be suspended until every lease has ended."""
        self.clock.slept += 3600

    def job(self, **members: Any) -> MemoryJob:
        """Submit a job about the user."""
        job = MemoryJob(
            **{
                "uid": new_uid(), "record_uid": self.user, "resource_uid": self.resource, "admin_uid": self.admin,
                "configuration_uid": self.configuration, **members,
            }
        )  # fmt: skip
        self.router.jobs[job.uid] = job
        return job

    def run(self, job: MemoryJob | None = None, **members: Any) -> MemoryJob:
        """Run a job, a new one when none is given, and return it as the router has it."""
        job = job or self.job(**members)
        self.engine.run(job.uid)
        return job

    def detail(self, job: MemoryJob, uid: str | None = None) -> dict[str, Any]:
        """Return the sealed detail of the job's report."""
        assert job.report is not None
        return json.loads(aes.decrypt(job.report["detail"], self.key(uid or self.user)))  # type: ignore[no-any-return]

    def states(self, uid: str | None = None) -> list[str]:
        return [row.state for row in self.router.ledger.get(uid or self.user, [])]

    def password(self, login: str = "app") -> str | None:
        """Return what the target takes."""
        return self.target.accounts[login].password

    def in_vault(self) -> bool:
        """Say whether some value that the vault holds logs in: the first promise."""
        live = self.password()
        values = [Value.open(row.ciphertext, self.key(self.user)) for row in self.router.ledger[self.user]]
        kept = [value.password.reveal() for value in values if value.password]
        own = self.record(self.user).password
        return live in [*kept, own.reveal() if own else None]


def _f(kind: str, label: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "label": label, "value": [] if value is None else [value]}

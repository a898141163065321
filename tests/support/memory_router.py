"""A router in memory with the ledger's rules: it answers the very requests of ``workers.router.RouterClient``.

Tests run the real client, over connections that end here; faults of the way between them are switched on by name of the call.
"""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import urllib3
from urllib3.exceptions import NewConnectionError, ProtocolError

from pam_jobs.errors import (
    AccessDenied,
    Conflict,
    EpochConflict,
    LeaseLost,
    NotFound,
    PamJobsError,
    StateError,
    VaultConflict,
)
from pam_jobs.jobs import wire
from workers.ports import VaultFile

GATEWAY_UID = "GatewayGatewayGateway-Q"[:22]
STATUS = {StateError: 409, VaultConflict: 409, NotFound: 404, AccessDenied: 403}


@dataclass(kw_only=True)
class Row:
    """A row of the ledger."""

    seq: int
    state: str
    ciphertext: bytes = field(repr=False)
    epoch: int = 0
    kind: str = "credential"
    evidence: dict[str, Any] = field(default_factory=dict)
    staged_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(kw_only=True)
class MemoryJob:
    """A job as the router holds it."""

    uid: str
    record_uid: str | None
    kind: str = "rotate"
    profile: str | None = "general"
    resource_uid: str | None = None
    admin_uid: str | None = None
    configuration_uid: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    complexity: bytes | None = None
    state: str = "queued"
    epoch: int = 0
    attempts: int = 0
    cancelled: bool = False
    report: dict[str, Any] | None = None
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    result: bytes | None = None
    counts: dict[str, int] | None = None
    released: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)  # of the target, while it changes an administrator


class MemoryRouter:
    """Jobs, leases, ledger and records behind the device protocol."""

    def __init__(self) -> None:
        self.jobs: dict[str, MemoryJob] = {}
        self.ledger: dict[str, list[Row]] = {}
        self.records: dict[str, tuple[bytes, int, bytes]] = {}  # ciphertext, revision, record key
        self.files: dict[str, list[tuple[VaultFile, bytes]]] = {}
        self.epochs: Counter[str] = Counter()
        self.refusals_left = 3
        self.admin_refusals_left = 3
        self.is_set_aside_admin = False
        self.administers: bool | None = None  # what the claims tell; None: what follows from the other jobs
        self.windows: list[int | None] = []  # that refusals were counted within
        self.places: dict[str, str] = {}  # of logins under way, and whose they are: account, admin
        self.asked: list[tuple[str, str | None]] = []  # whose places were asked for, and of which machine
        self.lock = threading.Lock()
        self.prove_first = False
        self.services: list[wire.ServiceLink] = []  # what the claims tell
        self.is_last_attempt = False
        self.trigger = "on_demand"  # of the jobs claimed from now on
        self.calls: list[str] = []
        self.reads_along = True  # claims bring the job's records
        self.cut_after: Counter[str] = Counter()  # calls that are handled and whose answer is lost
        self.cut_before: Counter[str] = Counter()  # calls that never arrive
        self.lost: Counter[str] = Counter()  # calls that are sent and never arrive
        self.before: dict[str, Any] = {}  # called with the job before such a call is handled

    def pool(self) -> urllib3.HTTPSConnectionPool:
        return _Pool(self)

    def handle(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        parts = path.removeprefix("/api/device/").split("/")
        if parts[0] != "jobs":
            self.calls.append(parts[0])
            return self._presence(parts[0], body)
        uid, action = parts[1], "/".join(parts[2:])
        self.calls.append(action)
        job = self.jobs.get(uid)
        if job is None:
            raise NotFound(f"there is no job {uid}")
        if (before := self.before.pop(action, None)) is not None:
            before(job)
        if action == "claim":
            claim = self._claim(job)
            if body["read"] and self.reads_along:
                claim = claim.model_copy(update={"records": json.dumps(list(claim.record_uids.values())).encode()})
            return json.loads(claim.model_dump_json())  # type: ignore[no-any-return]
        if action in {"report", "promote"} and job.report is not None and body["epoch"] == job.epoch:
            return {
                "state": job.state,
                **({"revision": self.records[job.record_uid or ""][1]} if "seq" in body else {}),
            }
        self._hold(job, body["epoch"])
        method = getattr(self, "_" + action.replace("/", "_"))
        return method(job, body)

    def _presence(self, action: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if action == "heartbeat":
            return {"cancelled": [uid for uid in body["running"] if self.jobs[uid].cancelled]}
        return None

    def _hold(self, job: MemoryJob, epoch: int) -> None:
        if epoch != self.epochs[_subject(job)]:
            raise EpochConflict
        if job.state not in {"leased", "running"}:
            raise LeaseLost

    def _claim(self, job: MemoryJob) -> wire.Claim:
        if job.state not in {"queued", "unknown"} or job.cancelled:
            raise StateError(f"job {job.uid} is {job.state}")
        self.epochs[_subject(job)] += 1
        job.state, job.epoch, job.report = "leased", self.epochs[_subject(job)], None
        job.attempts += 1
        for step in job.steps.values():
            if step["state"] == "running":
                step.update(state="unknown", cause="interrupted")
        return wire.Claim(
            job_uid=job.uid, kind=job.kind, trigger=self.trigger, gateway_uid=GATEWAY_UID,
            configuration_uid=job.configuration_uid, record_uid=job.record_uid, resource_uid=job.resource_uid,
            admin_uid=job.admin_uid, profile=job.profile, complexity=job.complexity, parameters=job.parameters,
            epoch=job.epoch, lease_seconds=60, versions=self._versions(job), steps=self._left(job),
            refusals_left=self.refusals_left, attempts=job.attempts, prove_first=self.prove_first,
            is_set_aside_admin=self.is_set_aside_admin, administers=self._administers(job), services=self.services, is_last_attempt=self.is_last_attempt,
        )  # fmt: skip

    def _administers(self, job: MemoryJob) -> bool:
        """Say whether others log in as the job's account."""
        if self.administers is not None:
            return self.administers
        admins = {other.admin_uid for other in self.jobs.values()} | {link.admin_uid for link in self.services}
        return job.record_uid in admins

    def _versions(self, job: MemoryJob) -> list[wire.LedgerVersion]:
        kept = [row for row in self.ledger.get(job.record_uid or "", []) if row.state not in {"abandoned", "retired"}]
        return [
            wire.LedgerVersion(
                seq=row.seq, kind=row.kind, state=row.state, epoch=row.epoch, ciphertext=row.ciphertext,
                staged_at=row.staged_at,
            )
            for row in sorted(kept, key=lambda row: -row.seq)
        ]  # fmt: skip

    def _left(self, job: MemoryJob) -> list[wire.StepRow]:
        has_promoted = any(row.evidence.get("job") == job.uid for row in self.ledger.get(job.record_uid or "", []))
        left = self._rows(job)
        return left if has_promoted or any(step.attempts for step in left) else []

    def _rows(self, job: MemoryJob) -> list[wire.StepRow]:
        return [wire.StepRow(**{k: v for k, v in step.items() if k != "output"}) for step in job.steps.values()]

    def _renew(self, job: MemoryJob, body: dict[str, Any]) -> None:
        """Nothing to do: leases in memory do not end by themselves."""

    def _fence(self, job: MemoryJob, body: dict[str, Any]) -> None:
        if job.cancelled and job.state == "leased":
            raise StateError("the job was cancelled")
        job.state = "running"

    def _exclusive(self, job: MemoryJob, body: dict[str, Any]) -> dict[str, Any]:
        said = set(wire.Exclusive(**body).tags)
        for other in self.jobs.values():
            if other is not job and other.state in {"leased", "running", "unknown"} and said & other.tags:
                job.state = "queued"
                job.released.append(wire.ADMINISTRATOR_BUSY)
                return {"waits_for": other.uid}
        job.tags |= said
        return {"waits_for": None}

    def _stage(self, job: MemoryJob, body: dict[str, Any]) -> dict[str, Any]:
        rows = self.ledger.setdefault(job.record_uid or "", [])
        said = wire.Stage(**body)
        if job.cancelled:
            raise StateError("the job was cancelled")
        for row in rows:
            if row.state in {"staged", "applying"}:
                if row.ciphertext == said.ciphertext:
                    return {"seq": row.seq}
                raise Conflict("a version is not resolved yet")
        row = Row(
            seq=max((row.seq for row in rows), default=0) + 1, state="staged", ciphertext=said.ciphertext,
            epoch=said.epoch,
        )  # fmt: skip
        rows.append(row)
        return {"seq": row.seq}

    def _intend(self, job: MemoryJob, body: dict[str, Any]) -> None:
        if job.cancelled and job.state == "leased":
            raise StateError("the job was cancelled")
        row = self._row(job, body["seq"])
        if row.state not in {"staged", "applying"}:
            raise StateError(f"version {row.seq} is {row.state}")
        row.state, job.state = "applying", "running"

    def _promote(self, job: MemoryJob, body: dict[str, Any]) -> dict[str, Any]:
        said = wire.Promotion(**body)
        row = self._row(job, said.seq)
        if row.state != "applying" or said.evidence.get("login") != "accepted":
            raise StateError(f"version {row.seq} is {row.state}")
        uid = job.record_uid or ""
        _, revision, key = self.records[uid]
        if said.record_revision != revision:
            raise VaultConflict("the record was edited meanwhile")
        for other in self.ledger[uid]:
            if other.state == "current":
                other.state = "previous"
        if said.kept is not None:
            row.state, row.evidence = "abandoned", {"reason": "in_part"}
            row = Row(seq=row.seq + 1, state="current", ciphertext=said.kept, epoch=said.epoch)
            self.ledger[uid].append(row)
        row.state, row.evidence = "current", {**said.evidence, "job": job.uid}
        self.records[uid] = (said.record_data, revision + 1, key)
        if said.report is not None:
            self._end(job, said.report)
        return {"revision": revision + 1, "state": job.state}

    def _abandon(self, job: MemoryJob, body: dict[str, Any]) -> None:
        row = self._row(job, body["seq"])
        if row.state not in {"staged", "applying"}:
            raise StateError(f"version {row.seq} is {row.state}")
        has_current = any(other.state == "current" for other in self.ledger[job.record_uid or ""])
        if has_current and body["evidence"].get("current") != "accepted":
            raise StateError("the current credential is not proven")
        row.state, row.evidence = "abandoned", {**body["evidence"], "reason": body["reason"]}

    def _lift(self, job: MemoryJob, body: dict[str, Any]) -> dict[str, Any]:
        job.epoch = self.epochs[_subject(job)] = max(job.epoch, body["known"]) + 1
        return {"epoch": job.epoch}

    def _recover(self, job: MemoryJob, body: dict[str, Any]) -> dict[str, Any]:
        said = wire.Recovery(**body)
        uid = job.record_uid or ""
        _, revision, key = self.records[uid]
        if said.record_revision != revision:
            raise VaultConflict("the record was edited meanwhile")
        rows = self.ledger[uid]
        for row in rows:
            if row.state in {"current", "staged", "applying"}:
                row.state = "previous"
        seq = max(row.seq for row in rows) + 1
        rows.append(
            Row(seq=seq, state="current", ciphertext=said.ciphertext, epoch=said.epoch, evidence=dict(said.evidence))
        )
        self.records[uid] = (said.record_data, revision + 1, key)
        versions = [json.loads(version.model_dump_json()) for version in self._versions(job)]
        return {"revision": revision + 1, "seq": seq, "versions": versions}

    def _refusals(self, job: MemoryJob, body: dict[str, Any]) -> dict[str, Any]:
        self.windows.append(body["window_seconds"])
        left = self._count(body["of"], body["count"])
        return {"refused": 3 - left, "refusals_left": left}

    def _login(self, job: MemoryJob, body: dict[str, Any]) -> dict[str, Any]:
        said = wire.Login(**body)
        with self.lock:
            if said.state is not wire.LoginState.WANTED:
                if self.places.pop(said.uid, None) and said.state is wire.LoginState.REFUSED:
                    self._count(said.of, 1)
                return {"is_granted": True}
            self.windows.append(said.window_seconds)
            self.asked.append((said.of, said.machine_uid))
            refused = 3 - (self.admin_refusals_left if said.of == "admin" else self.refusals_left)
            is_granted = refused + list(self.places.values()).count(said.of) < (said.limit or 3)
            if is_granted:
                self.places[said.uid] = said.of
            return {"is_granted": is_granted, "is_used_up": not is_granted and refused >= (said.limit or 3)}

    def _count(self, of: str, new: int) -> int:
        """Count refused logins and return how many may still be refused."""
        if of == "admin":
            self.admin_refusals_left = max(0, self.admin_refusals_left - new)
            return self.admin_refusals_left
        self.refusals_left = max(0, self.refusals_left - new)
        return self.refusals_left

    def _admin(self, job: MemoryJob, body: dict[str, Any]) -> dict[str, Any]:
        machine_uid = wire.AdminQuestion(**body).machine_uid
        machines = {link.machine_uid: link.admin_uid for link in self.services}
        admin_uid = machines[machine_uid] if machine_uid else job.admin_uid
        rows = self._versions(MemoryJob(uid="", record_uid=admin_uid))
        return {"versions": [json.loads(row.model_dump_json()) for row in rows]}

    def _steps(self, job: MemoryJob, body: dict[str, Any]) -> dict[str, Any]:
        for step in body["steps"]:
            job.steps.setdefault(step["key"], dict(step))
        return {**body, "steps": [row.model_dump() for row in self._rows(job)]}

    def _steps_start(self, job: MemoryJob, body: dict[str, Any]) -> None:
        step = job.steps[body["key"]]
        may_start = step["state"] == "unknown" and step["attempts"] < step["most_attempts"]
        if step["state"] != "pending" and not may_start:
            raise StateError(f"the step is {step['state']}")
        if job.cancelled and job.state == "leased":
            raise StateError("the job was cancelled")
        step.update(state="running", attempts=step["attempts"] + 1, cause=None)
        job.state = "running"

    def _steps_finish(self, job: MemoryJob, body: dict[str, Any]) -> None:
        step, said = job.steps[body["key"]], wire.StepFinish(**body)
        if step["state"] != "running":
            raise StateError(f"the step is {step['state']}")
        step.update(state=said.state, exit_code=said.exit_code, cause=said.cause, output=said.output)

    def _report(self, job: MemoryJob, body: dict[str, Any]) -> dict[str, Any]:
        self._end(job, wire.Report(**body))
        return {"state": job.state}

    def _release(self, job: MemoryJob, body: dict[str, Any]) -> None:
        job.state = "queued"
        job.released.append(body["reason"])

    def _discovery(self, job: MemoryJob, body: dict[str, Any]) -> None:
        said = wire.DiscoveryUpload(**body)
        job.result, job.counts = said.content, said.counts

    def _end(self, job: MemoryJob, report: wire.Report) -> None:
        ends = {
            "ok": "succeeded",
            "skipped": "succeeded",
            "rolled_back": "failed",
            "partial": "failed",
            "rollback_refused": "failed",
        }
        job.report = report.model_dump()
        job.state = ends.get(report.status.value, report.status.value)

    def _row(self, job: MemoryJob, seq: int) -> Row:
        return next(row for row in self.ledger[job.record_uid or ""] if row.seq == seq)


def _subject(job: MemoryJob) -> str:
    return job.record_uid or job.configuration_uid


class _Pool(urllib3.HTTPSConnectionPool):
    def __init__(self, router: MemoryRouter) -> None:
        super().__init__("router.test")
        self._router = router

    def urlopen(self, method: str, url: str, body: bytes = b"", headers: Any = None, **_: Any) -> urllib3.HTTPResponse:
        action = "/".join(url.removeprefix("/api/device/").split("/")[2:]) or url.rsplit("/", 1)[-1]
        if _takes(self._router.cut_before, action):
            raise NewConnectionError(self, "cut")
        if _takes(self._router.lost, action):
            raise ProtocolError("lost")
        assert method == "POST"
        assert headers["Authorization"].startswith("KeeperDevice ey")
        try:
            status, answer = 200, self._router.handle(url, json.loads(body))
        except PamJobsError as error:
            status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
            answer = {"code": error.code, "detail": error.message}
        if _takes(self._router.cut_after, action):
            raise ProtocolError("cut")
        said = b"" if answer is None else json.dumps(answer).encode()
        return urllib3.HTTPResponse(io.BytesIO(said), status=status, preload_content=False)


def _takes(counter: Counter[str], action: str) -> bool:
    if counter[action] > 0:
        counter[action] -= 1
        return True
    return False

"""What the rotation engine needs of the router, the vault and the connectors; tests bring their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from connectors.base import Connector
from connectors.saas.catalogue import Catalogue
from pam_jobs.clock import Clock, SystemClock
from pam_jobs.jobs import wire
from pam_jobs.records.record import Record
from workers.boundaries import Boundary, nothing
from workers.breaker import Breakers
from workers.doors import Administrators
from workers.journal import Journal
from workers.target_tags import TargetTags

__all__ = ["ChainFor", "EngineSettings", "JobPort", "Ports", "RouterPort", "VaultFile", "VaultPort", "VaultRecord"]


@dataclass(frozen=True, kw_only=True)
class VaultFile:
    """A file of a record, not yet downloaded."""

    uid: str
    name: str
    title: str
    url: str = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class VaultRecord:
    """A record in clear, with its key; lives as long as one job."""

    uid: str
    record: Record = field(repr=False)
    key: bytes = field(repr=False)
    revision: int
    files: Mapping[str, VaultFile] = field(default_factory=dict, repr=False)


class VaultPort(Protocol):
    """Reads of the vault."""

    def fetch(self, uids: Iterable[str]) -> dict[str, VaultRecord]:
        """Return those of the records that the gateway's application can read, as they are now."""
        ...

    def fetch_along(self, carry: Callable[[wire.VaultRead], bytes | None]) -> dict[str, VaultRecord]:
        """Let another call carry a read, and return the records that came back with its answer."""
        ...

    def download(self, file: VaultFile) -> bytes:
        """Return the content of a file."""
        ...


class JobPort(Protocol):
    """The calls on one leased job; each carries its epoch."""

    def renew(self) -> None:
        """Prolong the lease."""
        ...

    def fence(self) -> None:
        """Check the lease, and declare that the target is about to be changed."""
        ...

    def exclusive(self, tags: Sequence[str]) -> str | None:
        """Keep other administrators of the target from being changed; or return the job that this one waits for."""
        ...

    def stage(self, ciphertext: bytes) -> int:
        """Add a staged version and return its number."""
        ...

    def intend(self, seq: int) -> None:
        """Declare that the target may have the version from now on; checks the lease."""
        ...

    def promote(
        self,
        seq: int,
        evidence: Mapping[str, Any],
        record_data: bytes,
        record_revision: int,
        report: wire.Report | None = None,
        kept: bytes | None = None,
    ) -> wire.PromotionAnswer:
        """Make the version, or what was kept of it, current and write the record."""
        ...

    def recover(
        self, ciphertext: bytes, evidence: Mapping[str, Any], record_data: bytes, record_revision: int
    ) -> wire.RecoveryAnswer:
        """Make a value that was found to log in the current one, and write the record."""
        ...

    def abandon(self, seq: int, reason: str, evidence: Mapping[str, Any]) -> None:
        """Give a version up."""
        ...

    def refusals(
        self,
        count: int,
        *,
        of: Literal["account", "admin"] = "account",
        window_seconds: int | None = None,
        machine_uid: str | None = None,
    ) -> wire.RefusalsAnswer:
        """Count refused logins, 0 to ask only, and return what is left of the budget."""
        ...

    def login(
        self,
        uid: str,
        state: wire.LoginState,
        *,
        of: Literal["account", "admin"],
        machine_uid: str | None = None,
        limit: int | None = None,
        window_seconds: int | None = None,
    ) -> wire.LoginAnswer:
        """Ask for a login's place in the lockout budget, or tell how the login ended; may be said again."""
        ...

    def admin_versions(self, machine_uid: str | None = None) -> Sequence[wire.LedgerVersion]:
        """Return the administrator's kept values, newest first; of the resource, or of a machine with services."""
        ...

    def declare_steps(self, steps: Sequence[wire.StepRow]) -> list[wire.StepRow]:
        """Declare the post-rotation steps, once, and return them as they stand."""
        ...

    def start_step(self, key: str) -> None:
        """Move a step from pending to running."""
        ...

    def finish_step(self, finish: wire.StepFinish) -> None:
        """Store how a step ended."""
        ...

    def report(self, report: wire.Report) -> None:
        """End the attempt."""
        ...

    def release(self, reason: str) -> None:
        """Give the job back; nothing was changed."""
        ...

    def upload_discovery(self, content: bytes, counts: Mapping[str, int]) -> None:
        """Store the sealed result of a discovery."""
        ...

    def new_report(self, **members: Any) -> wire.Report:
        """Return a report of this attempt."""
        ...

    def new_finish(self, **members: Any) -> wire.StepFinish:
        """Return the end of a step of this attempt."""
        ...


class RouterPort(Protocol):
    """What the engine needs of the router before it holds a lease."""

    def claim(self, job_uid: str, read: wire.VaultRead | None = None) -> wire.Claim:
        """Take the lease of a job, and carry the read of its records."""
        ...

    def lift(self, claim: wire.Claim, known: int) -> wire.Claim:
        """Return the claim with an epoch above the known one."""
        ...

    def job(self, claim: wire.Claim) -> JobPort:
        """Return the calls on a leased job."""
        ...


class ChainFor(Protocol):
    """Finds the connectors for a protocol."""

    def __call__(self, protocol: str, kind: str | None = None) -> Sequence[Connector]:
        """Return them in the order in which they are tried."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Limits of this gateway."""

    job_seconds: float = 600.0
    script_seconds: float = 300.0
    work_dir: Path | None = None
    machine_seconds: float = 300.0  # for all services of one machine
    discovery_seconds: float = 3600.0
    settle_seconds: float = 1.0  # before a login that could not be decided is tried once more


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Everything outside that the engine uses."""

    router: RouterPort
    vault: VaultPort
    chain_for: ChainFor
    breakers: Breakers
    tags: TargetTags
    administrators: Administrators = field(init=False)  # on the same clock: a claim's time is compared with theirs
    saas: Catalogue = field(default_factory=Catalogue)
    clock: Clock = field(default_factory=SystemClock)
    settings: EngineSettings = field(default_factory=EngineSettings)
    boundary: Boundary = nothing
    journal: Journal = field(default_factory=Journal)
    recognisers: Callable[[], Sequence[Connector]] = tuple

    def __post_init__(self) -> None:
        """Know nothing of any administrator yet."""
        object.__setattr__(self, "administrators", Administrators(monotonic=self.clock.monotonic))

"""What a gateway and the router say to each other, under ``/api/device``; bytes are padded base64 in JSON.

Every call carries ``Authorization: KeeperDevice <JWT>``: ES256 by the device key, ``iss`` the client id, ``aud``
"pam-jobs", ``exp`` at most five minutes ahead. A refusal is a problem document whose ``code`` is one of the error
codes of ``pam_jobs.errors``: ``lease_lost``, ``epoch_conflict``, ``conflict`` (revision), ``state`` …
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pam_jobs.crypto.blob import Blob

__all__ = [
    "ADMINISTRATOR_BUSY",
    "AUDIENCE",
    "CONFIRMED",
    "GATEWAY_STOPPING",
    "LOCKOUT_BUDGET",
    "MOST_STEPS",
    "MOST_TAGS",
    "OLD_IN_GRACE",
    "TARGET_BUSY",
    "Abandonment",
    "AdminFinding",
    "AdminQuestion",
    "AdminVerdict",
    "AdminVersions",
    "Claim",
    "ClaimRequest",
    "Declaration",
    "DiscoveryUpload",
    "Exclusive",
    "ExclusiveAnswer",
    "Fenced",
    "Goodbye",
    "Heartbeat",
    "HeartbeatAnswer",
    "Hello",
    "HelloAnswer",
    "LedgerVersion",
    "Lift",
    "LiftAnswer",
    "Login",
    "LoginAnswer",
    "LoginState",
    "Position",
    "PostStatus",
    "Promotion",
    "PromotionAnswer",
    "Recovery",
    "RecoveryAnswer",
    "Refusals",
    "RefusalsAnswer",
    "Release",
    "Report",
    "ReportAnswer",
    "ServiceLink",
    "Stage",
    "StageAnswer",
    "Status",
    "StepDeclaration",
    "StepFinish",
    "StepRow",
    "StepStart",
    "VaultRead",
]

AUDIENCE = "pam-jobs"
ADMINISTRATOR_BUSY = "administrator_busy"  # why a job waits: another job changes or uses an administrator of its target
MOST_STEPS = 2000  # post-rotation steps of one job
MOST_TAGS = 32  # of one target
OLD_IN_GRACE = "old_in_grace"  # cause: rotated, and the target accepts the old value too, as a directory for an hour
TARGET_BUSY = "target_busy"  # why a job is given back: as many as allowed work on its target
GATEWAY_STOPPING = "gateway_stopping"  # why a job is given back: another instance is to have it
LOCKOUT_BUDGET = "lockout_budget"  # cause: a login was not tried, because the account may be refused no more
CONFIRMED = "confirmed"  # in place of an accepted login, where nobody can log in: the answer to the change is the proof


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Status(StrEnum):
    """Rotation status code."""

    OK = "ok"  # done and proven (verify: the credential logs in; plan: the plan holds)
    FAILED = "failed"  # certainly not applied
    UNKNOWN = "unknown"  # cannot be told; tried again by itself
    WAITING_HUMAN = "waiting_human"  # out of sync or locked: an operator decides
    SKIPPED = "skipped"  # NOOP: only scripts were to run
    CANCELLED = "cancelled"
    PARTIAL = "partial"  # of password and key one was changed and is current, the other was refused
    ROLLED_BACK = "rolled_back"  # a later step failed, the former credential was set back and logs in
    ROLLBACK_REFUSED = "rollback_refused"  # a later step failed, and the target did not take the former one back


class PostStatus(StrEnum):
    """Post-rotation status code."""

    NONE = "none"  # no scripts, or no services
    OK = "ok"  # every script exited with 0, every service was updated
    FAILED = "failed"
    UNKNOWN = "unknown"  # a script was interrupted, a machine could not be reached
    NOT_RUN = "not_run"  # the rotation itself did not succeed


class Position(_Wire):
    """How far a gateway knows the database to have come: its newest audit event, and of which generation it is."""

    generation: str
    event_id: int
    event_uid: str  # "" while there is no event


class Hello(_Wire):
    """POST /hello, at start: registers the instance."""

    instance: str = Field(min_length=1, max_length=64)
    version: str = Field(max_length=200)  # "version;os;release;machine;osversion"
    details: dict[str, Any] = Field(default_factory=dict)
    position: Position | None = Field(None, description="what the gateway was told last, by whichever instance")


class HelloAnswer(_Wire):
    """Who the device is, and how to check messages."""

    gateway_uid: str
    gateway_name: str
    queue: str  # "gateway.<uid>"
    signing_key_id: str
    signing_key: Blob  # Ed25519, 32 bytes
    lease_seconds: int
    offline_seconds: int
    position: Position | None = None


class Heartbeat(_Wire):
    """POST /heartbeat."""

    instance: str
    running: list[str] = Field(default_factory=list, description="uids of the jobs this instance works on")
    position: Position | None = None


class HeartbeatAnswer(_Wire):
    """What the router wants of the instance."""

    cancelled: list[str] = Field(default_factory=list, description="running jobs that an operator cancelled")
    position: Position | None = None


class Goodbye(_Wire):
    """POST /goodbye, at a clean stop."""

    instance: str


class VaultRead(_Wire):
    """A read of the vault as the vendor's SDK makes it, carried by another call; the router fills in which records."""

    key_id: str = Field(max_length=16)  # of the router's key
    transmission_key: Annotated[Blob, Field(max_length=1024)]  # wrapped to that key
    signature: Annotated[Blob, Field(max_length=1024)]  # by the device key, over wrapped key and payload
    payload: Annotated[Blob, Field(max_length=10_000)]


class ClaimRequest(_Wire):
    """POST /jobs/{uid}/claim."""

    instance: str
    read: VaultRead | None = Field(None, description="reads the records of the job that is claimed")


class LedgerVersion(_Wire):
    """One row of the candidate ledger."""

    seq: int
    kind: str  # credential, record
    state: str
    epoch: int
    ciphertext: Blob
    staged_at: datetime


class StepRow(_Wire):
    """One post-rotation step as the router holds it."""

    key: str
    position: int
    kind: str
    place: str
    state: str
    exit_code: int | None = None
    cause: str | None = None
    attempts: int = 0  # how often it was started
    most_attempts: int = Field(1, ge=1, le=100, description="how often it may be started, while its end is unknown")


class ServiceLink(_Wire):
    """A machine on which something runs as the job's user."""

    machine_uid: str
    admin_uid: str | None
    names: Blob  # JSON by the user record's key, see ``pam_jobs.records.services``
    is_set_aside: bool = False  # its administrator was refused: nothing is tried there now


class Claim(_Wire):
    """A lease, and all the identifiers the work needs."""

    job_uid: str
    kind: str
    trigger: str
    gateway_uid: str
    configuration_uid: str
    record_uid: str | None
    resource_uid: str | None
    saas_uid: str | None = None  # the saasConfiguration record
    admin_uid: str | None
    profile: str | None  # general, scripts_only …; None for discovery
    complexity: Blob | None  # by the record key
    parameters: dict[str, Any]
    epoch: int
    lease_seconds: int
    versions: list[LedgerVersion]  # unresolved, current, and up to three previous, newest first
    steps: list[StepRow]  # of earlier attempts of this job
    refusals_left: int = Field(ge=0, description="logins that may still be refused within the lockout budget")
    is_set_aside_admin: bool = Field(False, description="targets are set aside because this very account was refused")
    administers: bool = Field(
        False, description="the job's account is the administrator of some resource: others log in as it"
    )
    attempts: int
    is_last_attempt: bool = Field(False, description="what stays undecided now waits for an operator")
    services: list[ServiceLink] = Field(default_factory=list, description="what runs as the user, by machine")
    prove_first: bool = False  # the database was restored: a login has to show what is live before a change
    records: Blob | None = Field(
        None, repr=False, description="what the read asks for; null: it is to be made by itself"
    )

    @property
    def record_uids(self) -> dict[str, str]:
        """The records that work on a credential needs, by what they are."""
        named = {
            "user": self.record_uid,
            "configuration": self.configuration_uid,
            "resource": self.resource_uid,
            "admin": self.admin_uid,
            "SaaS configuration": self.saas_uid if self.profile == "saas" else None,
        }
        return {what: uid for what, uid in named.items() if uid}


class Fenced(_Wire):
    """POST /jobs/{uid}/renew, /fence: the lease is checked; renew prolongs it, fence declares the job running."""

    epoch: int
    instance: str


class Exclusive(Fenced):
    """POST /jobs/{uid}/exclusive: no other administrator of these targets is to be changed meanwhile; may be said again."""

    tags: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$")]] = Field(
        min_length=1, max_length=MOST_TAGS, description="names of the target, by a key that the router lacks"
    )


class ExclusiveAnswer(_Wire):
    """Whether it is this job's turn."""

    waits_for: str | None = Field(None, description="the job in whose favour this one was taken back: stop at once")


class Stage(Fenced):
    """POST /jobs/{uid}/stage: a new row ``staged``."""

    ciphertext: Annotated[Blob, Field(min_length=29, max_length=200_000)]


class StageAnswer(_Wire):
    """The row's number."""

    seq: int


class Declaration(Fenced):
    """POST /jobs/{uid}/intend: ``staged → applying`` and the fence in one; again with ``applying`` is allowed."""

    seq: int


class AdminVerdict(StrEnum):
    """What an attempt learned of an administrator."""

    ACCEPTED = "accepted"  # the job's own account, an administrator that was refused before, logs in
    OUTDATED = "outdated"  # an older kept value logs in, and not what the record holds
    REFUSED = "refused"  # none of the values logs in, or the account is locked


class AdminFinding(_Wire):
    """What the router must know of an administrator; it goes with the report."""

    verdict: AdminVerdict
    cause: str | None = Field(None, max_length=64)  # refused: admin_refused, admin_locked
    version_seq: int | None = None  # outdated: which one logs in
    machine_uid: str | None = None  # of which machine of the user's services; None: the resource's


class Report(Fenced):
    """POST /jobs/{uid}/report: how the attempt ended."""

    status: Status
    post_rotation_status: PostStatus = PostStatus.NONE
    effect: str = "not_applied"
    cause: str | None = Field(None, max_length=64)
    timings: dict[str, float] = Field(default_factory=dict, description="step → milliseconds")
    detail: Blob | None = None  # JSON by the record's key (discovery: the configuration's)
    probe: dict[str, Any] | None = None  # {"verdict", "version_seq"}: the last login made with the current value
    retry_after_seconds: float | None = Field(None, ge=0, description="with unknown: when to try again")
    administrator: AdminFinding | None = None
    services_status: PostStatus = PostStatus.NONE
    machines: list[AdminFinding] = []  # of administrators of machines with services


class ReportAnswer(_Wire):
    """The job's state now."""

    state: str


class Promotion(Fenced):
    """POST /jobs/{uid}/promote: ``applying → current``, old → previous, the record at its revision; one transaction."""

    seq: int
    evidence: dict[str, Any]  # {"login": "accepted" (or CONFIRMED), "old": "refused", "host_key": …}: codes only
    record_data: Blob  # the whole record, merged into the latest revision, by the record key
    record_revision: int  # the revision it was merged into
    report: Report | None = None  # ends the job in the same transaction when no step follows
    kept: Annotated[Blob, Field(max_length=200_000)] | None = Field(
        None, description="what logs in, where the target took only a part of the version: current in its place"
    )


class PromotionAnswer(_Wire):
    """The record's new revision."""

    revision: int
    state: str


class Lift(Fenced):
    """POST /jobs/{uid}/lift: the gateway worked with a higher epoch before; the lease goes on with one above it."""

    known: int = Field(ge=1)


class LiftAnswer(_Wire):
    """The lease's epoch from now on."""

    epoch: int


class Recovery(Fenced):
    """POST /jobs/{uid}/recover: a value logs in that is not the ledger's current one; it becomes that, with the record."""

    ciphertext: Annotated[Blob, Field(min_length=29, max_length=200_000)]  # by the record key
    evidence: dict[str, Any]  # {"login": "accepted", "source": "journal" …}: codes only
    record_data: Blob
    record_revision: int


class RecoveryAnswer(_Wire):
    """The record's new revision, and the ledger as a claim would tell it now."""

    revision: int
    seq: int
    versions: list[LedgerVersion]


class Abandonment(Fenced):
    """POST /jobs/{uid}/abandon: the target refused *this value* by policy while current was proven to log in."""

    seq: int
    reason: str = Field(max_length=64)
    evidence: dict[str, Any]


class Refusals(Fenced):
    """POST /jobs/{uid}/refusals: counts refused logins; with a count of 0 it only asks."""

    count: int = Field(ge=0, le=100)
    of: Literal["account", "admin"] = "account"  # whose budget: the job's own account, or its resource's administrator
    window_seconds: int | None = Field(None, ge=1, le=86_400, description="the target's own window; null: the default")
    machine_uid: str | None = Field(None, description="with admin: of this machine of the user's services")


class RefusalsAnswer(_Wire):
    """What is left of the budget."""

    refused: int = Field(description="logins that were refused within the window")
    refusals_left: int = Field(description="what the default limit leaves")


class LoginState(StrEnum):
    """What is asked or told of one login as an account that several attempts log in as."""

    WANTED = "wanted"  # it is to be made: has the budget a place for it?
    ACCEPTED = "accepted"  # the target took it
    REFUSED = "refused"  # it counts from now on
    UNDECIDED = "undecided"  # it was not made, or the target did not say: the place is given back


class Login(Fenced):
    """POST /jobs/{uid}/login: reserves a place in the lockout budget, and later tells what became of it; may be said again."""

    uid: str = Field(min_length=22, max_length=22, description="of the place, made by the gateway")
    state: LoginState
    of: Literal["account", "admin"]  # as in Refusals
    machine_uid: str | None = Field(None, description="with admin: of this machine of the user's services")
    limit: int | None = Field(None, ge=1, le=100, description="the target's own limit; null: the default")
    window_seconds: int | None = Field(None, ge=1, le=86_400, description="the target's own window; null: the default")


class LoginAnswer(_Wire):
    """Whether the login may be made; where it only tells how one ended, it is true."""

    is_granted: bool
    is_used_up: bool = Field(False, description="not granted, because so many were refused; else others are under way")


class AdminQuestion(Fenced):
    """POST /jobs/{uid}/admin: of the resource's administrator, or of that of a machine with the user's services."""

    machine_uid: str | None = None


class AdminVersions(_Wire):
    """The administrator's kept values, asked for when the one in its record was refused."""

    versions: list[LedgerVersion]  # unresolved, current and previous, newest first; empty: tried and refused lately


class StepDeclaration(Fenced):
    """POST /jobs/{uid}/steps: declares the steps, once; answers the rows as they stand."""

    steps: list[StepRow]


class StepStart(Fenced):
    """POST /jobs/{uid}/steps/start: ``pending → running``, and ``unknown → running`` while it may be started again."""

    key: str


class StepFinish(Fenced):
    """POST /jobs/{uid}/steps/finish."""

    key: str
    state: str  # succeeded, failed, unknown
    exit_code: int | None = None
    cause: str | None = Field(None, max_length=64)
    output: Blob | None = None


class DiscoveryUpload(Fenced):
    """POST /jobs/{uid}/discovery: the sealed result."""

    content: Blob
    counts: dict[str, int]


class Release(Fenced):
    """POST /jobs/{uid}/release: gives the job back, nothing was changed."""

    reason: str = Field(max_length=64)

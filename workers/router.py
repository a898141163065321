"""Calls to the router over HTTPS: kept connections, short-lived tokens, and answers that may be lost and asked again."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import jwt
from pydantic import BaseModel, ValidationError
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ProxyError

from pam_jobs import errors
from pam_jobs.clock import Clock
from pam_jobs.crypto.p256 import PrivateKey
from pam_jobs.jobs import wire
from workers.lease import is_cancellation
from workers.pool import post
from workers.refusal import error_of

__all__ = ["DeviceToken", "JobLink", "MaybeDone", "NotBelieved", "RouterClient", "RouterUnavailable"]

Answer = TypeVar("Answer", bound=BaseModel)

_TOKEN_SECONDS: Final = 290
_TOKEN_REUSE_SECONDS: Final = 240
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_NEVER_SENT: Final = (ConnectTimeoutError, ProxyError)
_AWAY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_PREFIX: Final = "/api/device"


class RouterUnavailable(errors.VaultUnavailable):
    """The router could not be reached."""

    code = "router_unavailable"


class NotBelieved(RouterUnavailable):
    """The router believes no call while the clocks differ; it says nothing about our access or the job."""

    code = errors.ClockDiffers.code


class MaybeDone(errors.StateError):
    """The router refused a call whose first answer was lost, so the first one may have been carried out."""

    code = "maybe_done"

    def __init__(self, refusal: errors.PamJobsError) -> None:
        """Keep what the router said to the repetition."""
        super().__init__(refusal.message, remedy=refusal.remedy)
        self.refusal = refusal


class DeviceToken:
    """Makes the tokens that calls carry; one is used for four minutes."""

    def __init__(self, client_id: str, key: PrivateKey, clock: Clock) -> None:
        self._client_id = client_id
        self._key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._made_at: datetime | None = None

    def header(self) -> str:
        """Return the value of the Authorization header."""
        now = self._clock.now()
        with self._lock:
            if self._made_at is None or abs((now - self._made_at).total_seconds()) >= _TOKEN_REUSE_SECONDS:
                issued = int(now.timestamp())
                claims = {
                    "iss": self._client_id,
                    "aud": wire.AUDIENCE,
                    "iat": issued,
                    "exp": issued + _TOKEN_SECONDS,
                    "jti": secrets.token_hex(8),
                }
                self._token = jwt.encode(claims, self._key, algorithm="ES256")
                self._made_at = now
            return f"KeeperDevice {self._token}"


class RouterClient:
    """The device's side of ``pam_jobs.jobs.wire``; shared between threads."""

    def __init__(
        self,
        pool: HTTPSConnectionPool,
        token: DeviceToken,
        instance: str,
        *,
        patience_seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Call one router.

        Args:
            pool: its connections; see ``workers.pool``.
            token: authenticates the device.
            instance: name of this process, 1 to 64 characters.
            patience_seconds: how long a call is repeated while the router is away.
            monotonic: the clock, in seconds.
            sleep: waits.
        """
        self.instance = instance
        self.register_anew: Callable[[], object] = lambda: None  # says hello again
        self._pool = pool
        self._token = token
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._sleep = sleep

    def hello(self, version: str, details: dict[str, Any], position: wire.Position | None = None) -> wire.HelloAnswer:
        """Register the instance.

        Raises:
            AccessDenied: the gateway was removed, or the device's access ended.
            RouterUnavailable: the router is away, or the clocks differ.
        """
        body = wire.Hello(instance=self.instance, version=version, details=details, position=position)
        return self.call("/hello", body, wire.HelloAnswer)

    def heartbeat(self, running: Sequence[str], position: wire.Position | None = None) -> wire.HeartbeatAnswer:
        """Say that the instance lives, and return which running jobs were cancelled."""
        body = wire.Heartbeat(instance=self.instance, running=list(running), position=position)
        return self.call("/heartbeat", body, wire.HeartbeatAnswer, patience_seconds=0)

    def goodbye(self) -> None:
        """Say that the instance stops."""
        self.send("/goodbye", wire.Goodbye(instance=self.instance), patience_seconds=2)

    def claim(self, job_uid: str, read: wire.VaultRead | None = None) -> wire.Claim:
        """Take the lease of a job; an instance that counts as gone registers anew first, as the message is spent.

        Args:
            job_uid: that the message names.
            read: of the records of the job that is claimed.

        Raises:
            StateError: somebody else has it, or it is done; nothing is to be done here.
        """
        path, body = f"/jobs/{job_uid}/claim", wire.ClaimRequest(instance=self.instance, read=read)
        try:
            return self.call(path, body, wire.Claim)
        except errors.NotRegistered:
            self.register_anew()
            return self.call(path, body, wire.Claim)

    def lift(self, claim: wire.Claim, known: int) -> wire.Claim:
        """Return the claim with an epoch above one that this gateway worked with before.

        Raises:
            LeaseLost, EpochConflict: another attempt has the credential.
        """
        body = wire.Lift(epoch=claim.epoch, instance=self.instance, known=known)
        answer = self.call(f"/jobs/{claim.job_uid}/lift", body, wire.LiftAnswer)
        return claim.model_copy(update={"epoch": answer.epoch})

    def job(self, claim: wire.Claim) -> JobLink:
        """Return the calls on a leased job."""
        return JobLink(self, claim.job_uid, claim.epoch)

    def call(
        self, path: str, body: BaseModel, answer: type[Answer], *, patience_seconds: float | None = None
    ) -> Answer:
        """Post the body and return the answer, repeating the call while the router is away.

        Raises:
            MaybeDone: an earlier answer was lost and the repetition was refused.
            RouterUnavailable: there was no answer in time, or none that makes sense; or the clocks differ.
            PamJobsError: what the router said.
        """
        content = self._post(path, body, patience_seconds)
        try:
            return answer.model_validate_json(content)
        except ValidationError:
            # Without the cause: it shows the input.
            raise RouterUnavailable(
                f"the router's answer to {path.rsplit('/', 1)[-1]} is not in the known form",
                remedy="run the same version of gateway and router",
            ) from None

    def send(self, path: str, body: BaseModel, *, patience_seconds: float | None = None) -> None:
        """Post the body where the answer holds nothing."""
        self._post(path, body, patience_seconds)

    def _post(self, path: str, body: BaseModel, patience_seconds: float | None) -> bytes:
        end = self._monotonic() + (self._patience_seconds if patience_seconds is None else patience_seconds)
        content = body.model_dump_json().encode()
        pause = _FIRST_PAUSE_SECONDS
        may_be_handled = False
        while True:
            try:
                headers = {"Authorization": self._token.header(), "Content-Type": "application/json"}
                status, said = post(self._pool, quote(_PREFIX + path), content, headers)
            except HTTPError as error:
                may_be_handled = may_be_handled or not isinstance(error, _NEVER_SENT)
                reason = type(error).__name__
            else:
                if 200 <= status < 300:
                    return said
                if status not in _AWAY:
                    raise self._refusal(status, said, may_be_handled=may_be_handled)
                may_be_handled = may_be_handled or status in {500, 502, 504}
                reason = f"status {status}"
            if self._monotonic() + pause >= end:
                raise RouterUnavailable(
                    f"the router did not answer {path.rsplit('/', 1)[-1]} ({reason})",
                    remedy="check that the router runs and can be reached from the gateway",
                )
            self._sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    @staticmethod
    def _refusal(status: int, said: bytes, *, may_be_handled: bool) -> errors.PamJobsError:
        error = error_of(status, said)
        if isinstance(error, errors.ClockDiffers):
            return NotBelieved(error.message, remedy=error.remedy)
        if may_be_handled and isinstance(error, (errors.StateError, errors.VaultConflict)):
            return MaybeDone(error)
        return error


class JobLink:
    """The calls on one leased job. A call whose first answer was lost counts as done where only we could have done it."""

    def __init__(self, client: RouterClient, job_uid: str, epoch: int) -> None:
        self._client = client
        self._job_uid = job_uid
        self._members = {"epoch": epoch, "instance": client.instance}

    def renew(self) -> None:
        """Prolong the lease; one try, since the next renewal comes soon."""
        self._client.send(self._path("renew"), wire.Fenced(**self._fenced()), patience_seconds=0)

    def fence(self) -> None:
        """Check the lease, and declare that the target is about to be changed; may be said again.

        Raises:
            LeaseLost: it ended.
            EpochConflict: a newer attempt exists.
            StateError: the job was cancelled.
        """
        self._send_again("fence", wire.Fenced(**self._fenced()))

    def exclusive(self, tags: Sequence[str]) -> str | None:
        """Keep other administrators of the target from being changed; or return the job that this one waits for.

        Raises:
            LeaseLost, EpochConflict: another attempt has the job, or it was queued again and the answer was lost.
        """
        body = wire.Exclusive(**self._fenced(), tags=list(tags))
        try:
            return self._client.call(self._path("exclusive"), body, wire.ExclusiveAnswer).waits_for
        except MaybeDone as error:
            raise error.refusal from error

    def stage(self, ciphertext: bytes) -> int:
        """Add a staged version and return its number.

        Raises:
            MaybeDone: it may be there already; the next claim tells.
        """
        body = wire.Stage(**self._fenced(), ciphertext=ciphertext)
        return self._client.call(self._path("stage"), body, wire.StageAnswer).seq

    def intend(self, seq: int) -> None:
        """Declare that the target may have the version from now on; may be said again."""
        self._send_again("intend", wire.Declaration(**self._fenced(), seq=seq))

    def promote(
        self,
        seq: int,
        evidence: Mapping[str, Any],
        record_data: bytes,
        record_revision: int,
        report: wire.Report | None = None,
        kept: bytes | None = None,
    ) -> wire.PromotionAnswer:
        """Make the version, or what was kept of it, current and write the record.

        Raises:
            MaybeDone: it may be done already; the record tells.
            VaultConflict: the record has a newer revision.
        """
        body = wire.Promotion(
            **self._fenced(),
            seq=seq,
            evidence=dict(evidence),
            record_data=record_data,
            record_revision=record_revision,
            report=report,
            kept=kept,
        )
        return self._client.call(self._path("promote"), body, wire.PromotionAnswer)

    def recover(
        self, ciphertext: bytes, evidence: Mapping[str, Any], record_data: bytes, record_revision: int
    ) -> wire.RecoveryAnswer:
        """Make a value that was found to log in the current one, and write the record; may be said again.

        Raises:
            VaultConflict: the record has a newer revision.
        """
        body = wire.Recovery(
            **self._fenced(),
            ciphertext=ciphertext,
            evidence=dict(evidence),
            record_data=record_data,
            record_revision=record_revision,
        )
        return self._client.call(self._path("recover"), body, wire.RecoveryAnswer)

    def abandon(self, seq: int, reason: str, evidence: Mapping[str, Any]) -> None:
        """Give a version up; nobody but the holder of the lease can have done it before."""
        body = wire.Abandonment(**self._fenced(), seq=seq, reason=reason, evidence=dict(evidence))
        self._send_once("abandon", body)

    def refusals(
        self,
        count: int,
        *,
        of: Literal["account", "admin"] = "account",
        window_seconds: int | None = None,
        machine_uid: str | None = None,
    ) -> wire.RefusalsAnswer:
        """Count refused logins, 0 to ask only, and return what is left of the budget."""
        body = wire.Refusals(
            **self._fenced(), count=count, of=of, window_seconds=window_seconds, machine_uid=machine_uid
        )
        return self._client.call(self._path("refusals"), body, wire.RefusalsAnswer)

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
        body = wire.Login(
            **self._fenced(), uid=uid, state=state, of=of, machine_uid=machine_uid, limit=limit,
            window_seconds=window_seconds,
        )  # fmt: skip
        try:
            return self._client.call(self._path("login"), body, wire.LoginAnswer)
        except MaybeDone as error:
            raise error.refusal from error

    def admin_versions(self, machine_uid: str | None = None) -> list[wire.LedgerVersion]:
        """Return the administrator's kept values, newest first; of the resource, or of a machine with services."""
        question = wire.AdminQuestion(**self._fenced(), machine_uid=machine_uid)
        return self._client.call(self._path("admin"), question, wire.AdminVersions).versions

    def declare_steps(self, steps: Sequence[wire.StepRow]) -> list[wire.StepRow]:
        """Declare the post-rotation steps, once, and return them as they stand."""
        body = wire.StepDeclaration(**self._fenced(), steps=list(steps))
        return self._client.call(self._path("steps"), body, wire.StepDeclaration).steps

    def start_step(self, key: str) -> None:
        """Move a step from pending to running.

        Raises:
            StateError: it is not pending, or the lease is lost; it must not be run.
        """
        self._send_once("steps/start", wire.StepStart(**self._fenced(), key=key))

    def finish_step(self, finish: wire.StepFinish) -> None:
        """Store how a step ended."""
        self._send_once("steps/finish", finish)

    def report(self, report: wire.Report) -> None:
        """End the attempt."""
        self._send_once("report", report, ends_lease=True)

    def release(self, reason: str) -> None:
        """Give the job back; nothing was changed."""
        self._send_once("release", wire.Release(**self._fenced(), reason=reason), ends_lease=True)

    def upload_discovery(self, content: bytes, counts: Mapping[str, int]) -> None:
        """Store the sealed result of a discovery."""
        self._send_once("discovery", wire.DiscoveryUpload(**self._fenced(), content=content, counts=dict(counts)))

    def new_report(self, **members: Any) -> wire.Report:
        """Return a report of this attempt."""
        return wire.Report(**self._fenced(), **members)

    def new_finish(self, **members: Any) -> wire.StepFinish:
        """Return the end of a step of this attempt."""
        return wire.StepFinish(**self._fenced(), **members)

    def _fenced(self) -> dict[str, Any]:
        return dict(self._members)

    def _path(self, action: str) -> str:
        return f"/jobs/{self._job_uid}/{action}"

    def _send_again(self, action: str, body: BaseModel) -> None:
        """Make a call that is allowed a second time: a repetition that is refused would be refused anyway."""
        try:
            self._client.send(self._path(action), body)
        except MaybeDone as error:
            raise error.refusal from error

    def _send_once(self, action: str, body: BaseModel, *, ends_lease: bool = False) -> None:
        """Make a call that nobody but the holder of the lease can have made; a repetition that says so counts as done.

        Args:
            action: of the job.
            body: what is said.
            ends_lease: once it is done the lease is over, so that the repetition is refused for that.

        Raises:
            LeaseLost, EpochConflict: somebody else may hold the lease, and whether the first try arrived is not known.
            StateError: the job was cancelled before anything was begun: the first try did not arrive.
        """
        try:
            self._client.send(self._path(action), body)
        except MaybeDone as error:
            # While we hold the lease nobody else makes this call, and before the first try it was allowed. So what
            # stands against the repetition is the first try itself, whose answer was lost.
            is_lost = isinstance(error.refusal, (errors.LeaseLost, errors.EpochConflict)) and not ends_lease
            if is_lost or is_cancellation(error.refusal):
                raise error.refusal from error

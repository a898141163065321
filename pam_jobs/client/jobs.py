"""Jobs: submitted, watched, and what they say opened with the record's key."""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pam_jobs.client.http import RouterClient
from pam_jobs.client.records import Records
from pam_jobs.crypto import aes
from pam_jobs.crypto.blob import from_base64
from pam_jobs.errors import PamJobsError, VaultError, VaultUnavailable
from pam_jobs.ids import new_uid

__all__ = ["Jobs", "is_final"]

_ENDED = frozenset({"succeeded", "failed", "cancelled", "expired", "waiting_human"})
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_MOST_JOBS = 1000  # of one request
_PAGE = 1000
_PATIENCE_SECONDS = 60.0  # a router that is being restarted

Progress = Callable[[dict[str, Any]], None]


def is_final(job: dict[str, Any]) -> bool:
    """Say whether the job stays as it is until somebody does something."""
    return job["state"] in _ENDED


class Jobs:
    """The jobs that the user may see."""

    def __init__(self, router: RouterClient, records: Records) -> None:
        self._router = router
        self._records = records

    def submit(self, kind: str, record_uid: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Create a job, or return the open one of the same record and kind.

        Args:
            kind: rotate, verify, reconcile or plan.
            record_uid: the user record.
            parameters: of the job; never secrets.
        """
        body = {"kind": kind, "record_uid": record_uid, "parameters": parameters or {}}
        job: dict[str, Any] = self._router.post("/api/v1/jobs", body, headers={"Idempotency-Key": new_uid()})
        return job

    def submit_all(
        self, kind: str, record_uids: Sequence[str], parameters: dict[str, Any] | None = None
    ) -> builtins.list[dict[str, Any]]:
        """Create a job for each record, or find the open one; what is refused keeps none of the others from theirs.

        Returns:
            ``record_uid``, ``job`` (None when refused) and ``problem`` (None when not), in the order of the records.
        """
        answers: builtins.list[dict[str, Any]] = []
        for start in range(0, len(record_uids), _MOST_JOBS):
            part = list(record_uids[start : start + _MOST_JOBS])
            body = {"kind": kind, "record_uids": part, "parameters": parameters or {}}
            answers += self._router.post("/api/v1/jobs/batch", body, headers={"Idempotency-Key": new_uid()})["jobs"]
        return answers

    def get(self, uid: str) -> dict[str, Any]:
        """Return one job."""
        job: dict[str, Any] = self._router.get(f"/api/v1/jobs/{uid}")
        return job

    def list(self, **filters: Any) -> list[dict[str, Any]]:
        """Return jobs, newest first; filters: record_uid, state, kind, gateway_uid, limit, before."""
        rows: list[dict[str, Any]] = self._router.get("/api/v1/jobs", **filters)["jobs"]
        return rows

    def cancel(self, uid: str) -> dict[str, Any]:
        """Cancel a job that has not begun to change its target."""
        job: dict[str, Any] = self._router.post(f"/api/v1/jobs/{uid}/cancel")
        return job

    def explain(self, uid: str) -> dict[str, Any]:
        """Return why the job is in its state."""
        answer: dict[str, Any] = self._router.get(f"/api/v1/jobs/{uid}/explain")
        return answer

    def explain_record(self, uid: str) -> dict[str, Any]:
        """Return why a record is rotated when it is, or not."""
        answer: dict[str, Any] = self._router.get(f"/api/v1/records/{uid}/explain")
        return answer

    def resume(self, uid: str) -> dict[str, Any]:
        """Do again what was set aside because it lost its leases, and return the job that does it."""
        job: dict[str, Any] = self._router.post(f"/api/v1/jobs/{uid}/resume")
        return job

    def proof(self, record_uid: str, *, max_age_days: float | None = None) -> dict[str, Any]:
        """Return what is known of a record's credential; a login longer ago than the age does not count."""
        answer: dict[str, Any] = self._router.get(f"/api/v1/records/{record_uid}/proof", max_age_days=max_age_days)
        return answer

    def proofs(self, *, max_age_days: float | None = None) -> Iterator[dict[str, Any]]:
        """Yield what is known of every credential that is rotated on a target, a page of them with each request."""
        after: str | None = None
        while True:
            page = self._router.get("/api/v1/proofs", max_age_days=max_age_days, limit=_PAGE, after=after)
            yield from page["proofs"]
            after = page["next"]
            if after is None:
                return

    def wait(self, uid: str, *, seconds: float | None = None, progress: Progress | None = None) -> dict[str, Any]:
        """Return the job once it is final, or as it is when the time is over.

        Args:
            uid: of the job.
            seconds: how long to wait at most; None: without end.
            progress: called with the job at each change of its state, or of why it waits.

        Raises:
            VaultUnavailable: the router was away for a minute.
        """
        start = time.monotonic()
        heard, pause, seen = start, _FIRST_PAUSE_SECONDS, ("", None)
        while True:
            try:
                job = self.get(uid)
                heard = time.monotonic()
            except VaultUnavailable:
                if time.monotonic() - heard > _PATIENCE_SECONDS:
                    raise
                job = None
            if job is not None:
                now = job["state"], job.get("cause")
                if now != seen and progress is not None:
                    progress(job)
                seen = now
                if is_final(job) or (seconds is not None and time.monotonic() - start >= seconds):
                    return job
            time.sleep(pause)
            pause = min(pause * 1.3, _LONGEST_PAUSE_SECONDS)

    def opened(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the job with its detail and the output of its steps decrypted, where the user has the record."""
        key = self._key_of(job)
        shown = dict(job)
        shown["detail"] = _open(job.get("detail"), key)
        shown["steps"] = [{**step, "output": _open(step.get("output"), key)} for step in job.get("steps") or []]
        return shown

    def _key_of(self, job: dict[str, Any]) -> bytes | None:
        sealed = job.get("detail") or any(step.get("output") for step in job.get("steps") or [])
        uid = job.get("record_uid") or job.get("configuration_uid")
        if not sealed or not uid:
            return None
        try:
            return self._records.get(uid).key
        except PamJobsError:
            return None  # the job is shown without what only the record's key opens


def _open(sealed: str | None, key: bytes | None) -> Any:
    """Return the JSON or text; None when there is nothing or it cannot be opened."""
    if not sealed or key is None:
        return None
    try:
        plain = aes.decrypt(from_base64(sealed), key).decode(errors="replace")
    except (VaultError, ValueError):
        return None
    try:
        return json.loads(plain)
    except ValueError:
        return plain

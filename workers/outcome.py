"""How an attempt ended, and the report that says so: codes in plain, sentences sealed by the record's key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pam_jobs import errors
from pam_jobs.crypto import aes
from pam_jobs.errors import Effect
from pam_jobs.jobs.wire import PostStatus, Status
from workers.lease import Cancelled

__all__ = ["Outcome", "outcome_of", "sealed_detail"]

_CAUSE_LENGTH: Final = 64
_SENTENCE_LENGTH: Final = 2000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of an attempt, or of its first part when scripts follow."""

    status: Status
    message: str = ""
    effect: Effect = Effect.NOT_APPLIED
    cause: str | None = None
    probe: Mapping[str, Any] | None = None  # {"verdict", "version_seq"}
    post_status: PostStatus = PostStatus.NONE
    services_status: PostStatus = PostStatus.NONE
    retry_after_seconds: float | None = None
    scripts: Sequence[Mapping[str, Any]] = ()  # name, uid, exit_code, stdout, stderr of each
    services: Sequence[Mapping[str, Any]] = ()  # name, type, machine, outcome of each
    extra: Mapping[str, Any] = field(default_factory=dict)  # more members of the sealed detail
    is_reported: bool = False  # the promotion carried the report


def outcome_of(error: Exception, *, may_be_applied: bool, may_land: bool = False) -> Outcome:
    """Return what an error means for the job.

    Args:
        error: what ended the attempt.
        may_be_applied: the target may have got a new value whose fate is not decided.
        may_land: it was sent before without an answer, of which the error says nothing.
    """
    if not isinstance(error, errors.PamJobsError):
        # Only its type: a foreign exception's text may hold anything.
        return Outcome(
            status=Status.UNKNOWN if may_be_applied else Status.FAILED,
            effect=Effect.UNKNOWN if may_be_applied else Effect.NOT_APPLIED,
            cause="internal",
            message=f"the gateway failed inside ({type(error).__name__}): look at its log",
        )
    cause = error.code[:_CAUSE_LENGTH]
    sentence = error.sentence()
    if isinstance(error, Cancelled):
        return Outcome(status=Status.CANCELLED, cause=cause, message=sentence)
    if isinstance(error, errors.AdminRefused):  # the target is set aside; who changed nothing changed nothing
        effect = Effect.UNKNOWN if may_be_applied else Effect.NOT_APPLIED
        return Outcome(status=Status.WAITING_HUMAN, effect=effect, cause=cause, message=sentence)
    if isinstance(error, errors.NotApplied) and not may_land:
        return Outcome(status=Status.FAILED, cause=cause, message=sentence)
    if may_be_applied or isinstance(error, errors.EffectUnknown):
        return Outcome(status=Status.UNKNOWN, effect=Effect.UNKNOWN, cause=cause, message=sentence)
    return Outcome(status=Status.FAILED, cause=cause, message=sentence)


def sealed_detail(outcome: Outcome, key: bytes, target: str | None) -> bytes:
    """Return the sentences of the outcome, sealed."""
    detail: dict[str, Any] = {"message": outcome.message[:_SENTENCE_LENGTH], "target": target, **outcome.extra}
    if outcome.scripts:
        detail["script"] = [dict(script) for script in outcome.scripts]
    if outcome.services:
        detail["services"] = [dict(service) for service in outcome.services]
    return aes.encrypt(json.dumps(detail).encode(), key)

"""A change of which one part was made and the other certainly not: a password without its key, or the other way round.

The custom fields `Rollback On Private Key Fail` and `Rollback On Password Fail` say whether the part that was made is set
back. Where it is not to be, or the target does not take the former part back, what logs in now becomes current: the new
part with the former other one. Until a login has proven the one or the other, everything is kept as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from connectors.base import Fence, Session
from pam_jobs.errors import Effect, EffectUnknown, NotApplied, PartlyApplied
from pam_jobs.jobs.wire import Status
from workers.outcome import Outcome
from workers.values import Value
from workers.work import Work

__all__ = ["Kept", "is_to_be_undone", "kept", "rolled_back", "set_back"]

_NAMES = {"password": "password", "private_key": "private key"}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is live instead of the version."""

    seq: int  # of the version
    changed: Value = field(repr=False)  # the part that was set
    whole: Value = field(repr=False)  # with it, what logs in
    outcome: Outcome


def is_to_be_undone(work: Work, error: PartlyApplied) -> bool:
    """Say whether the records want the part that was made to be set back."""
    flags = work.rollback_flags
    return flags.on_password_fail if error.failed == "password" else flags.on_private_key_fail


def set_back(work: Work, session: Session, error: PartlyApplied, fence: Fence) -> NotApplied | None:
    """Set the part that was made to its current value again; whether it is, only a login tells.

    Returns:
        The refusal, where the target certainly did not do it.
    """
    former = _part(work.current, error)
    if former.is_empty:
        return NotApplied("the record has no former value of that part")
    work.reach("before:undo")
    try:
        session.change(work.account, former.candidate(work.account), fence)
    except NotApplied as refusal:
        return refusal
    except EffectUnknown:
        pass
    work.reach("after:undo")
    return None


def rolled_back(work: Work, error: PartlyApplied) -> Outcome:
    """Return the outcome once the current value is proven to log in again."""
    return Outcome(
        status=Status.ROLLED_BACK,
        effect=Effect.NOT_APPLIED,
        cause=_cause(error),
        message=f"{_told(error)}; the other part was set back, and the current value logs in",
        probe={"verdict": "accepted", "version_seq": work.current_seq},
    )


def kept(work: Work, seq: int, value: Value, error: PartlyApplied, refusal: NotApplied | None) -> Kept:
    """Return what becomes current, once it is proven to log in.

    Args:
        work: the job.
        seq: of the version that was applied in part.
        value: its value.
        error: which part was made.
        refusal: why that part could not be set back; None: it is not to be.
    """
    status = Status.PARTIAL if refusal is None else Status.ROLLBACK_REFUSED
    end = "was set and stays" if refusal is None else f"could not be set back ({refusal.sentence()})"
    outcome = Outcome(
        status=status,
        effect=Effect.APPLIED,
        cause=_cause(error),
        message=f"{_told(error)}; the new {_NAMES[error.changed]} {end}",
        probe={"verdict": "accepted", "version_seq": seq + 1},
    )
    changed = _part(value, error)
    whole = replace(changed.merged_over(work.current), partly=(status.value, _cause(error)))
    return Kept(seq=seq, changed=changed, whole=whole, outcome=outcome)


def _part(value: Value, error: PartlyApplied) -> Value:
    if error.changed == "password":
        return Value(password=value.password)
    return Value(private_key=value.private_key, public_key=value.public_key)


def _cause(error: PartlyApplied) -> str:
    return f"{error.failed}_failed"


def _told(error: PartlyApplied) -> str:
    return f"the target did not take the new {_NAMES[error.failed]} ({error.message})"

"""Setting a credential back after its scripts failed: one more rotation, whose value is the former one.

It goes the way of every value (staged, applying, proven, current), so whatever is cut off is resumed by the same rules
and some value of the ledger logs in at every instant. The job's step ``rollback:<version>`` says which version is
undone, and that there is something to undo; it is declared with the scripts, before the version becomes current.

A target that does not take the former value back (rules against using a password again) is told as it is: the new
value stays the current one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import structlog

from connectors.base import Deadline
from pam_jobs.errors import (
    AdminRefused,
    Effect,
    EpochConflict,
    LeaseLost,
    NotApplied,
    PamJobsError,
    PolicyRefused,
    Unreachable,
    VaultUnavailable,
)
from pam_jobs.jobs.wire import PostStatus, Status, StepRow
from pam_jobs.records.rollback import RollbackFlags
from workers.breaker import TargetBusy
from workers.dependants import Dependants
from workers.following import Again
from workers.lease import told_when_cancelled
from workers.lockout import LockoutBudget
from workers.outcome import Outcome, outcome_of
from workers.rotation import Rotation
from workers.scripts import Credentials
from workers.timings import Timings
from workers.values import Value
from workers.work import Version, Work

__all__ = ["Rollback", "settle"]

_log = structlog.get_logger(__name__)
_KIND: Final = "rollback"
_MOST_ATTEMPTS: Final = 100  # the job's own limit comes first
_OVERTAKEN: Final = "overtaken"
_STAGE: Final = "rollback:"
_LATER: Final = (Unreachable, LockoutBudget, AdminRefused)  # says nothing against the former value


class Rollback:
    """What is done about one version when the scripts after it fail."""

    def __init__(self, row: StepRow, flags: RollbackFlags, timings: Timings, former: Value | None = None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            row: the step, as it stands.
            flags: of the records.
            timings: takes the time of each step.
            former: what logged in before the rotation, where this attempt has seen it; None: what the ledger says.
        """
        self.row = row
        self.seq = int(row.key.partition(":")[2])
        self._flags = flags
        self._timings = timings
        self._former = former
        self._rotation: Rotation | None = None
        self._dependants: Dependants | None = None

    @classmethod
    def planned(cls, seq: int, position: int, flags: RollbackFlags, timings: Timings, former: Value) -> Rollback:
        """Return the roll-back of a version that is about to become current."""
        row = StepRow(
            key=f"{_KIND}:{seq}",
            position=position,
            kind=_KIND,
            place="gateway",
            state="pending",
            most_attempts=_MOST_ATTEMPTS,
        )
        return cls(row, flags, timings, former)

    @classmethod
    def declared(cls, work: Work, flags: RollbackFlags, timings: Timings) -> Rollback | None:
        """Return the roll-back that an earlier attempt of the job declared, if any."""
        found = [cls(row, flags, timings) for row in work.claim.steps if row.kind == _KIND]
        # One is declared for each version that was about to become current; that which did counts.
        states = {version.seq: version for version in work.versions}
        live = [one for one in found if one.seq in states and states[one.seq].state in {"current", "previous"}]
        return next(iter(live or found), None)

    @property
    def has_begun(self) -> bool:
        """Say whether it was decided already that the version is undone."""
        return self.row.attempts > 0

    @property
    def may_be_applied(self) -> bool:
        """Say whether the target may have the former value again, and it is not decided."""
        return self._rotation is not None and self._rotation.may_be_applied

    def is_of(self, version: Version) -> bool:
        """Say whether the undecided version is this roll-back's."""
        return version.value.undoes == self.seq

    def run(self, work: Work, rotated: Outcome, dependants: Dependants) -> Outcome:
        """Set the former value back and, where the records say so, run the scripts once more with it.

        Args:
            work: the job, with the version to undo as its current one.
            rotated: how rotation, services and scripts ended.
            dependants: what runs as the account; what has the new value gets the former one.

        Raises:
            LeaseLost, EpochConflict: a newer attempt goes on.
            VaultUnavailable, TargetBusy: later; what was begun is durable.
        """
        self._dependants = dependants
        work.deadline = Deadline(work.ports.settings.job_seconds)
        if self.row.state == "failed":
            return self._without(rotated, self.row.cause or "refused")
        if self.row.state != "succeeded":
            with self._timings.of("rollback"):
                settled = self._set_back(work, rotated)
            if isinstance(settled, Outcome):
                return settled
            work = settled
        return self._with_again(work, rotated)

    def _set_back(self, work: Work, rotated: Outcome) -> Work | Outcome:
        """Return the job with the former value as its current one; or the outcome, where it did not come to that."""
        current = next((version for version in work.versions if version.state == "current"), None)
        if current is not None and current.value.undoes == self.seq:  # an earlier attempt came as far
            return self._is_back(work)
        obstacle, value = None, None
        if work.unresolved is None:  # else that value is brought to its end, whatever else is so
            obstacle, value = self._value(work, current)
        if obstacle is not None:
            return self._end(work, rotated, obstacle)
        self._start(work)
        named = replace(work, stage=_STAGE)
        rotation = self._rotation = Rotation(named, self._timings, lambda _version: None, value=value)
        try:
            outcome = rotation.run()
        except (LeaseLost, EpochConflict, VaultUnavailable, TargetBusy):
            raise
        except PamJobsError as error:
            return self._stopped(work, rotated, rotation, error)
        finally:
            work.finding = named.finding
        if outcome.status is not Status.OK or rotation.promoted is None:
            return self._undecided(work, rotated, outcome)
        _log.info("rolled_back", seq=self.seq)
        return self._is_back(work.going_on(rotation.promoted, rotation.version))

    def _value(self, work: Work, current: Version | None) -> tuple[str | None, Value | None]:
        """Return why nothing can be set back, or the value to set."""
        if current is None or current.seq != self.seq or not work.current.covers(current.value):
            return _OVERTAKEN, None
        former = self._former.like(current.value) if self._former else work.before(self.seq)
        if former is None or not former.has_parts_of(current.value):
            return "no_former_value", None
        return None, replace(former, undoes=self.seq)

    def _is_back(self, work: Work) -> Work:
        self._again(work).declare()
        self._finish(work, "succeeded")
        return work

    def _stopped(self, work: Work, rotated: Outcome, rotation: Rotation, error: PamJobsError) -> Outcome:
        """Tell a refusal as one when nothing is left open; else it is tried again."""
        is_final = isinstance(error, NotApplied) and not isinstance(error, _LATER)
        version = rotation.version
        if is_final and version is not None and version.state == "staged" and not isinstance(error, PolicyRefused):
            rotation.give_up(error.code)  # the target has not heard of it
        if is_final and rotation.version is None:
            return self._end(work, rotated, error.code, error.sentence())
        return self._undecided(work, rotated, outcome_of(error, may_be_applied=True))

    def _undecided(self, work: Work, rotated: Outcome, outcome: Outcome) -> Outcome:
        self._finish(work, "unknown", outcome.cause)
        is_waiting = outcome.status is Status.WAITING_HUMAN
        return replace(
            rotated,
            status=Status.WAITING_HUMAN if is_waiting else Status.UNKNOWN,
            effect=Effect.UNKNOWN,
            cause=outcome.cause,
            probe=None,
            retry_after_seconds=outcome.retry_after_seconds,
            message=f"{_failed(rotated)} failed, and it is not settled yet whether the former value is back: {outcome.message}",
        )

    def _end(self, work: Work, rotated: Outcome, cause: str, sentence: str = "") -> Outcome:
        self._finish(work, "failed", cause)
        return self._without(rotated, cause, sentence)

    def _without(self, rotated: Outcome, cause: str, sentence: str = "") -> Outcome:
        if cause == _OVERTAKEN:
            message = f"{_failed(rotated)} failed; nothing is rolled back, since somebody else has set another value meanwhile"
            return replace(rotated, message=message)
        return replace(
            rotated,
            status=Status.ROLLBACK_REFUSED,
            effect=Effect.APPLIED,
            cause=cause[:64],
            message=f"{_failed(rotated)} failed, and the former value could not be set back ({sentence or cause}): the new one stays",
        )

    def _with_again(self, work: Work, rotated: Outcome) -> Outcome:
        back = replace(
            rotated,
            status=Status.ROLLED_BACK,
            effect=Effect.NOT_APPLIED,
            message=f"{_failed(rotated)} failed; the former value was set back and logs in",
            probe={"verdict": "accepted", "version_seq": work.current_seq},
        )
        again = self._again(work)
        if again.is_empty:
            return back
        undone = next((version.value for version in work.versions if version.seq == self.seq), Value())
        credentials = Credentials(old=undone.merged_over(work.current), new=work.current, user=work.user)
        work.deadline = Deadline(work.ports.settings.job_seconds)
        with self._timings.of("rerun"):
            return again.run(back, credentials)

    def _again(self, work: Work) -> Again:
        dependants = self._dependants or Dependants(work)
        return Again(work, dependants, self.row.position, re_run=self._flags.re_run)

    def _start(self, work: Work) -> None:
        if self.row.state == "running":
            return
        with told_when_cancelled():
            work.job.start_step(self.row.key)
        work.lease.begin()
        self.row = self.row.model_copy(update={"state": "running", "attempts": self.row.attempts + 1})
        work.reach("rollback:begun")

    def _finish(self, work: Work, state: str, cause: str | None = None) -> None:
        self._start(work)
        work.reach("rollback:before:finish")
        work.job.finish_step(work.job.new_finish(key=self.row.key, state=state, cause=cause and cause[:64]))
        work.reach("rollback:after:finish")


def _failed(rotated: Outcome) -> str:
    return "services" if rotated.services_status is PostStatus.FAILED else "scripts"


def settle(work: Work, timings: Timings) -> tuple[Work, Outcome | None]:
    """Bring a roll-back to its end that another job left undecided, so that this job can go on.

    Returns:
        The job as it goes on; and the outcome, where it cannot.

    Raises:
        PamJobsError: it cannot, and nothing was decided.
    """
    named = replace(work, stage=_STAGE)
    rotation = Rotation(named, timings, lambda _version: None)
    try:
        outcome = rotation.run()
    except PolicyRefused:
        if rotation.version is not None:
            raise
        return work.going_on(work.user, None), None
    finally:
        work.finding = named.finding
    if outcome.status is not Status.OK or rotation.promoted is None:
        return work, outcome
    return work.going_on(rotation.promoted, rotation.version), None

"""What runs as the rotated account, as durable steps: each service, task or pool gets the new password once.

A machine that cannot be reached is tried again with the job's next attempts. What was updated is not touched again, but
for a roll-back of the credential, which updates it back.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import structlog

from connectors.base import Capability, Connector, Deadline, Dependant, DependantOutcome, DependantState, RunAs, Session
from pam_jobs.crypto import aes
from pam_jobs.errors import (
    AdminRefused,
    EffectUnknown,
    EpochConflict,
    InvalidInput,
    LeaseLost,
    NotApplied,
    PamJobsError,
    StateError,
    Unreachable,
    Unsupported,
    VaultUnavailable,
)
from pam_jobs.jobs import wire
from pam_jobs.jobs.wire import MOST_STEPS, AdminFinding, PostStatus, StepRow
from pam_jobs.records.services import KIND, RESTORE, ServiceName, ServiceNames
from pam_jobs.secret import SecretValue
from workers.breaker import TargetBusy
from workers.chain import through
from workers.lease import Cancelled, told_when_cancelled
from workers.lockout import LockoutBudget
from workers.machines import Machine
from workers.scrub import Scrubber
from workers.values import Value
from workers.work import Work

__all__ = ["Dependants"]

_log = structlog.get_logger(__name__)
_MOST_ATTEMPTS: Final = 100  # the job's own limit comes first
_LATER: Final = (Unreachable, TargetBusy, LockoutBudget, AdminRefused)
"""What keeps a machine from being worked on now; the job tries again."""

_UNTOUCHED: Final = frozenset({"not_found", "not_running_as_user"})
_NOT_REACHED: Final = frozenset(
    {"unreachable", "breaker_open", "target_busy", "lockout_budget", "admin_refused", "target_set_aside"}
)
_NOT_STARTED: Final = "not_started"


@dataclass(frozen=True, kw_only=True)
class _Step:
    key: str
    position: int
    link: wire.ServiceLink
    entry: ServiceName


class Dependants:
    """The services of one job, by machine in the order of their names."""

    def __init__(self, work: Work, kind: str = KIND, after: int = 0, only: Iterable[str] | None = None) -> None:
        """Read the names; nothing is sent yet.

        Args:
            work: the job.
            kind: ``dependant``, or ``restore`` once the credential was rolled back.
            after: position of the last step before them.
            only: digests of those that count; None: all.

        Raises:
            InvalidInput: there are too many, or the names cannot be read.
            VaultError: the names were sealed by another key.
        """
        self._work = work
        self._kind = kind
        self._steps = list(self._planned(after, None if only is None else set(only)))
        self._states = {row.key: row for row in work.claim.steps if row.kind == kind}
        self._findings: dict[str, AdminFinding] = {}
        self._results: list[dict[str, Any]] = []
        if len(self._steps) > MOST_STEPS // 2:
            raise InvalidInput(
                f"{len(self._steps)} services run as this user, more than {MOST_STEPS // 2}",
                remedy="spread them over several accounts",
            )

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to update, in this attempt and in earlier ones."""
        return not self._steps and not self._states

    @property
    def count(self) -> int:
        """How many services are mapped."""
        return len(self._steps)

    @property
    def rows(self) -> list[StepRow]:
        """The steps to declare."""
        return [
            StepRow(
                key=step.key, position=step.position, kind=self._kind, place="machine", state="pending",
                most_attempts=_MOST_ATTEMPTS,
            )
            for step in self._steps
        ]  # fmt: skip

    @property
    def results(self) -> Sequence[Mapping[str, Any]]:
        """What became of each service in this attempt, scrubbed."""
        return tuple(self._results)

    @property
    def findings(self) -> list[AdminFinding]:
        """What was learned of the administrators of machines other than the job's resource."""
        return list(self._findings.values())

    @property
    def told(self) -> list[dict[str, str]]:
        """What would be updated, for a plan."""
        return [
            {"machine": step.link.machine_uid, "type": step.entry.kind.value, "name": step.entry.name}
            for step in self._steps
        ]

    @property
    def status(self) -> PostStatus:
        """How all of them stand; those whose mapping is gone meanwhile count only where they ended."""
        planned = {step.key for step in self._steps}
        ends = {row.state for key, row in self._states.items() if key in planned or row.state != "pending"}
        if not ends:
            return PostStatus.NONE
        if "failed" in ends:
            return PostStatus.FAILED
        return PostStatus.OK if ends == {"succeeded"} else PostStatus.UNKNOWN

    @property
    def is_waiting(self) -> bool:
        """Say whether something is left for the job's next attempt."""
        return not self._work.claim.is_last_attempt and any(self._is_open(step) for step in self._steps)

    def take(self, rows: Iterable[StepRow]) -> None:
        """Take the steps as the router has them; only those are worked on."""
        self._states = {row.key: row for row in rows if row.kind == self._kind}

    def restoring(self, work: Work, after: int) -> Dependants:
        """Return those that may have the value that was rolled back, to be updated back."""
        touched = [key.partition(":")[2] for key, row in self._states.items() if _is_touched(row)]
        return Dependants(work, RESTORE, after, only=touched)

    def run(self, value: Value) -> PostStatus:
        """Update what is left to update and return how all of them stand.

        Args:
            value: what logs in now.

        Raises:
            LeaseLost, EpochConflict: a newer attempt goes on.
            VaultUnavailable: the vault is away; the next attempt goes on.
        """
        if value.password is None:
            return self.status
        for _, group in groupby(self._steps, key=lambda step: step.link.machine_uid):
            todo = [step for step in group if self._is_open(step)]
            if todo:
                self._on_machine(todo, value, value.password)
        return self.status

    def _planned(self, after: int, only: set[str] | None) -> Iterable[_Step]:
        position = after
        for link in self._work.claim.services:
            for entry in ServiceNames.open(link.names, self._work.user.key).entries:
                digest = f"{link.machine_uid}:{self._digest(entry)}"
                if only is None or digest in only:
                    position += 1
                    yield _Step(key=f"{self._kind}:{digest}", position=position, link=link, entry=entry)

    def _digest(self, entry: ServiceName) -> str:
        """Return a name for the step that says nothing to whoever lacks the user record's key."""
        text = "\0".join(("service", *entry.identity))
        return hmac.new(self._work.user.key, text.encode(), hashlib.sha256).hexdigest()[:32]

    def _is_open(self, step: _Step) -> bool:
        row = self._states.get(step.key)
        if row is None:
            return False
        return row.state == "pending" or (row.state == "unknown" and row.attempts < row.most_attempts)

    def _on_machine(self, steps: list[_Step], value: Value, password: SecretValue) -> None:
        work = self._work
        machine: Machine | None = None
        try:
            machine = Machine.of(work, steps[0].link, value)
            run_as = machine.run_as(password)
            with work.ports.breakers.slot(machine.key):
                through(
                    work.ports.chain_for(machine.target.protocol, machine.target.options.get("operatingSystem")),
                    machine.target.protocol,
                    lambda connector: self._with(connector, machine, steps, run_as),
                )
        except (LeaseLost, EpochConflict, VaultUnavailable, Cancelled):
            raise
        except PamJobsError as error:
            _log.warning("machine_not_updated", machine=steps[0].link.machine_uid, cause=error.code)
            for step in steps:
                if self._is_open(step):
                    self._not_reached(step, error)
        finally:
            if machine is not None and machine.administrator is not None:
                self._note(machine)

    def _note(self, machine: Machine) -> None:
        finding = machine.administrator.finding if machine.administrator is not None else None
        if finding is not None and finding.machine_uid is not None:
            self._findings[machine.link.machine_uid] = finding

    def _with(self, connector: Connector, machine: Machine, steps: list[_Step], run_as: RunAs) -> None:
        if Capability.DEPENDANTS not in connector.capabilities:
            raise Unsupported(f"{connector.name} updates no services")
        deadline = Deadline(self._work.ports.settings.machine_seconds)
        with machine.open(connector, deadline) as session:
            self._work.ports.breakers.worked(machine.key)
            for step in steps:
                if self._is_open(step):
                    self._update(session, step, run_as, machine)

    def _update(self, session: Session, step: _Step, run_as: RunAs, machine: Machine) -> None:
        work = self._work
        self._start(step)
        work.reach(f"running:{self._kind}:{step.position}")
        dependant = Dependant(kind=step.entry.kind.value, name=step.entry.name)
        away: Unreachable | None = None
        try:
            outcome = session.update_dependant(dependant, run_as, self._fence)
        except Unreachable as error:
            away, outcome = error, _of_error(error)
        except (NotApplied, EffectUnknown) as error:
            outcome = _of_error(error)
        work.reach(f"after:{self._kind}:{step.position}")
        state, cause = self._state_of(step, outcome)
        self._finish(step, state, cause, outcome, run_as.password, machine)
        if away is not None:
            raise away

    def _fence(self) -> None:
        work = self._work
        work.lease.check()
        work.job.fence()
        work.reach(f"fenced:{self._kind}")
        work.lease.check()  # the answer may have come so late that a successor is at work by now

    def _state_of(self, step: _Step, outcome: DependantOutcome) -> tuple[str, str | None]:
        cause = (outcome.cause or outcome.state.value)[:64]
        match outcome.state:
            case DependantState.UPDATED | DependantState.RESTARTED | DependantState.ALREADY:
                return "succeeded", None
            case DependantState.NOT_FOUND | DependantState.OTHER_ACCOUNT:
                # What discovery saw once may be gone; what an operator named must be there.
                return "succeeded" if step.entry.via_discovery else "failed", outcome.state.value
            case DependantState.NOT_STARTED:
                return "failed", _NOT_STARTED
            case DependantState.REFUSED:
                return "failed", cause
            case DependantState.UNKNOWN:
                is_over = self._work.claim.is_last_attempt and cause in _NOT_REACHED
                return "failed" if is_over else "unknown", cause

    def _not_reached(self, step: _Step, error: PamJobsError) -> None:
        """Note that nothing could be done for a service: for now, or for good."""
        self._start(step)
        is_over = self._work.claim.is_last_attempt or not isinstance(error, _LATER)
        outcome = DependantOutcome(state=DependantState.UNKNOWN, cause=error.code, detail=error.sentence())
        self._finish(step, "failed" if is_over else "unknown", error.code[:64], outcome)

    def _start(self, step: _Step) -> None:
        work = self._work
        work.lease.check()
        work.reach(f"before:{self._kind}:{step.position}")
        with told_when_cancelled():
            work.job.start_step(step.key)
        work.lease.begin()
        row = self._states[step.key]
        self._states[step.key] = row.model_copy(update={"state": "running", "attempts": row.attempts + 1})

    def _finish(
        self,
        step: _Step,
        state: str,
        cause: str | None,
        outcome: DependantOutcome,
        password: SecretValue | None = None,
        machine: Machine | None = None,
    ) -> None:
        work = self._work
        scrubber = Scrubber([password.reveal()] if password is not None else [])
        output = {
            "name": step.entry.name,
            "type": step.entry.kind.value,
            "machine": machine.record.record.title if machine is not None else step.link.machine_uid,
            "uid": step.link.machine_uid,
            "outcome": outcome.state.value,
            "detail": scrubber.clean(outcome.detail),
            "restarted": list(outcome.restarted),
        }
        self._results.append(output)
        sealed = aes.encrypt(json.dumps(output).encode(), work.user.key)
        try:
            work.job.finish_step(work.job.new_finish(key=step.key, state=state, cause=cause, output=sealed))
        except (LeaseLost, EpochConflict):
            raise
        except StateError:
            _log.info("step_left", step=step.position)
        self._states[step.key] = self._states[step.key].model_copy(update={"state": state, "cause": cause})
        _log.info("step_ended", kind=self._kind, step=step.position, state=state, cause=cause)
        work.reach(f"stored:{self._kind}:{step.position}")


def _of_error(error: NotApplied | EffectUnknown) -> DependantOutcome:
    is_refused = isinstance(error, NotApplied) and not isinstance(error, Unreachable)
    state = DependantState.REFUSED if is_refused else DependantState.UNKNOWN
    return DependantOutcome(state=state, cause=error.code, detail=error.sentence())


def _is_touched(row: StepRow) -> bool:
    """Say whether the service may have the value that the step was to set."""
    match row.state:
        case "succeeded":
            return row.cause not in _UNTOUCHED
        case "failed":
            return row.cause == _NOT_STARTED
        case "unknown":
            return row.cause not in _NOT_REACHED
        case _:
            return False

"""Post-rotation scripts as durable steps: in order, in their place, each run to its end at most once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import structlog

from connectors.base import Capability, Connector, Deadline, Session
from pam_jobs.crypto import aes
from pam_jobs.errors import (
    EffectUnknown,
    EpochConflict,
    LeaseLost,
    PamJobsError,
    StateError,
    TargetError,
    Unsupported,
    VaultUnavailable,
)
from pam_jobs.jobs.wire import PostStatus, StepRow
from pam_jobs.records.record import ReRun, ScriptRef
from workers.chain import through
from workers.lease import Cancelled, told_when_cancelled
from workers.ports import VaultRecord
from workers.script_host import ScriptResult, argv_for, run_script, safe_name
from workers.script_input import ScriptInput
from workers.scrub import Scrubber, secrets_of
from workers.values import Value
from workers.work import Work

__all__ = ["OUTPUT_BYTES", "Credentials", "Purpose", "Scripts", "post_status"]

_log = structlog.get_logger(__name__)

OUTPUT_BYTES: Final = 64 * 1024
"""How much of each output is kept."""

_MOST_RUNS: Final = 3  # of a script that may be run again while its end is unknown


class Purpose(StrEnum):
    """What the scripts are run for; the kind of their steps, and the beginning of their keys."""

    SCRIPT = "script"  # a credential was rotated
    RERUN = "rerun"  # it was rolled back


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What the scripts are told of the rotation."""

    old: Value
    new: Value
    user: VaultRecord = field(repr=False)  # the record as it is after the rotation


@dataclass(frozen=True, kw_only=True)
class _Step:
    row: StepRow
    owner: VaultRecord = field(repr=False)
    script: ScriptRef


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    name: str = ""
    content: bytes = field(default=b"", repr=False)
    stdin: bytes = field(default=b"", repr=False)
    scrubber: Scrubber = field(default_factory=lambda: Scrubber(()))
    obstacle: PamJobsError | None = None


class Scripts:
    """The scripts of one job: of the user record, then the resource's, then the configuration's."""

    def __init__(self, work: Work, purpose: Purpose = Purpose.SCRIPT, after: int = 0) -> None:
        """Read the order from the records.

        Args:
            work: the job.
            purpose: a finished script never runs again for the same one.
            after: position of the last step before them.

        Raises:
            InvalidInput: an attached script names no file.
        """
        self._work = work
        self._purpose = purpose
        self._steps = self._planned(after)
        self._results: list[dict[str, Any]] = []
        self._states: dict[str, StepRow] | None = None

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to run, in this attempt and in earlier ones."""
        return not self._steps and not self._mine(self._work.claim.steps)

    @property
    def count(self) -> int:
        """How many scripts the records have."""
        return len(self._steps)

    @property
    def results(self) -> Sequence[Mapping[str, Any]]:
        """What became of each script of this attempt, scrubbed."""
        return tuple(self._results)

    @property
    def ended(self) -> PostStatus:
        """How the scripts of earlier attempts ended."""
        return post_status(row.state for row in self._mine(self._work.claim.steps))

    def give_time(self, deadline: Deadline) -> None:
        """Let the scripts run within this time; the change before them may have used up the job's own."""
        self._work.deadline = deadline

    def declare(self, more: Sequence[StepRow] = ()) -> list[StepRow]:
        """Make the steps durable, so that a crash resumes at the first unfinished one; return all of the job's.

        Args:
            more: steps of another kind.
        """
        self._work.reach("before:declare")
        rows = self._declared(more)
        self._states = {row.key: row for row in self._mine(rows)}
        self._work.reach("after:declare")
        return rows

    def run(self, credentials: Credentials) -> PostStatus:
        """Run what has not run yet, and return how all of them ended.

        A step that an earlier attempt left running is unknown: it is run again where its attachment says so, a few
        times, and only reported otherwise. After a failed script the next ones still run: each stands for itself.

        Raises:
            LeaseLost, EpochConflict: a newer attempt goes on.
        """
        if self.is_empty:
            return PostStatus.NONE
        if self._states is None:
            self._states = {row.key: row for row in self._mine(self._declared())}
        states = self._states
        ends = [self._bring_to_end(step, states.get(step.row.key, step.row), credentials) for step in self._steps]
        known = {step.row.key for step in self._steps}
        ends += [row.state for key, row in states.items() if key not in known]
        return post_status(ends)

    def _bring_to_end(self, step: _Step, row: StepRow, credentials: Credentials) -> str:
        match row.state:
            case "running":
                return self._leave(step)
            case "succeeded" | "failed":
                return row.state
        state = row.state
        for _ in range(row.attempts, row.most_attempts):
            state = self._run_step(step, credentials)
            if state != "unknown":
                break
        return state

    def _mine(self, rows: Iterable[StepRow]) -> list[StepRow]:
        return [row for row in rows if row.kind == self._purpose]

    def _declared(self, more: Sequence[StepRow] = ()) -> list[StepRow]:
        return self._work.job.declare_steps([*(step.row for step in self._steps), *more])

    def _planned(self, after: int) -> list[_Step]:
        work = self._work
        steps: list[_Step] = []
        for owner in (work.user, work.resource, work.configuration):
            if owner is None:
                continue
            place = "machine" if owner is work.resource and owner.record.type == "pamMachine" else "gateway"
            for number, script in enumerate(owner.record.scripts, start=1):
                row = StepRow(
                    key=f"{self._purpose}:{owner.uid}:{script.file_uid}:{number}",
                    position=after + len(steps) + 1,
                    kind=self._purpose,
                    place=place,
                    state="pending",
                    most_attempts=_MOST_RUNS if script.re_run is ReRun.IF_UNKNOWN else 1,
                )
                steps.append(_Step(row=row, owner=owner, script=script))
        return steps

    def _leave(self, step: _Step) -> str:
        """Report a step that was cut off in this very attempt; it may have done a part of its work."""
        finish = self._work.job.new_finish(key=step.row.key, state="unknown", cause="interrupted")
        try:
            self._work.job.finish_step(finish)
        except (LeaseLost, EpochConflict):
            raise
        except StateError:
            _log.info("step_left", step=step.row.position)
        return "unknown"

    def _run_step(self, step: _Step, credentials: Credentials) -> str:
        work = self._work
        work.lease.check()
        # Before the step begins: a vault that is away leaves it pending, for the next attempt.
        prepared = self._prepare(step, credentials)
        work.reach(f"before:step:{step.row.position}")
        try:
            with told_when_cancelled():
                work.job.start_step(step.row.key)
        except (LeaseLost, EpochConflict, Cancelled):
            raise
        except StateError:
            return "unknown"  # somebody started it before us
        work.lease.begin()
        work.reach(f"running:step:{step.row.position}")
        work.lease.check()  # the answer may have come so late that a successor has run it by now
        started = time.monotonic()
        state, cause, result = self._outcome(step, prepared, credentials)
        _log.info(
            "step_ended",
            step=step.row.position,
            state=state,
            cause=cause,
            milliseconds=round((time.monotonic() - started) * 1000),
        )
        self._store(step, state, cause, result, prepared.scrubber)
        return state

    def _prepare(self, step: _Step, credentials: Credentials) -> _Prepared:
        """Read what the script needs; what stands against it is kept for its result.

        Raises:
            VaultUnavailable: the vault is away; nothing was begun.
        """
        file = step.owner.files.get(step.script.file_uid)
        try:
            if file is None:
                raise StateError("the script's file is no longer attached", remedy="attach the script again")
            content = self._work.ports.vault.download(file)
            records = self._records(step, credentials)
        except VaultUnavailable:
            raise
        except PamJobsError as error:
            return _Prepared(obstacle=error)
        return _Prepared(
            name=file.name,
            content=content,
            stdin=self._input(records, credentials).encode(),
            scrubber=self._scrubber(records, credentials),
        )

    def _outcome(
        self, step: _Step, prepared: _Prepared, credentials: Credentials
    ) -> tuple[str, str | None, ScriptResult]:
        """Run the script and return state, cause and result."""
        try:
            if prepared.obstacle is not None:
                raise prepared.obstacle
            result = self._execute(step, prepared, credentials)
        except (LeaseLost, EpochConflict):
            raise
        except PamJobsError as error:
            state = "unknown" if isinstance(error, EffectUnknown) else "failed"
            return state, error.code, ScriptResult(exit_code=-1, stdout="", stderr=error.sentence())
        return ("succeeded", None, result) if result.exit_code == 0 else ("failed", "script_failed", result)

    def _store(self, step: _Step, state: str, cause: str | None, result: ScriptResult, scrubber: Scrubber) -> None:
        clean = scrubber.clean
        name = self._name(step)
        exit_code = result.exit_code if cause in {None, "script_failed"} else None
        output = {
            "name": name,
            "uid": step.owner.uid,
            "command": step.script.command,
            "exit_code": exit_code,
            "stdout": clean(result.stdout)[:OUTPUT_BYTES],
            "stderr": clean(result.stderr)[:OUTPUT_BYTES],
        }
        self._results.append(output)
        work = self._work
        work.reach(f"after:step:{step.row.position}")
        work.job.finish_step(
            work.job.new_finish(
                key=step.row.key,
                state=state,
                exit_code=exit_code,
                cause=cause,
                output=aes.encrypt(json.dumps(output).encode(), work.user.key),
            )
        )
        work.reach(f"stored:step:{step.row.position}")

    def _name(self, step: _Step) -> str:
        file = step.owner.files.get(step.script.file_uid)
        return file.name if file else step.script.file_uid

    def _records(self, step: _Step, credentials: Credentials) -> list[VaultRecord]:
        """Return the records that the script is handed: configuration, resource, additional credentials, user."""
        work = self._work
        more: dict[str, VaultRecord] = {}
        if step.script.record_uids:
            more = work.ports.vault.fetch(step.script.record_uids)
        missing = [uid for uid in step.script.record_uids if uid not in more]
        if missing:
            raise StateError(
                f"the gateway cannot read the additional credential {missing[0]}",
                remedy="share its folder with the gateway's application",
            )
        return [
            work.configuration,
            *([work.resource] if work.resource else []),
            *(more[uid] for uid in dict.fromkeys(step.script.record_uids)),
            credentials.user,
        ]

    def _input(self, records: Sequence[VaultRecord], credentials: Credentials) -> ScriptInput:
        work = self._work
        return ScriptInput(
            configuration_uid=work.configuration.uid,
            resource_uid=work.resource.uid if work.resource else None,
            user_uid=work.user.uid,
            login=work.login,
            new_password=credentials.new.password,
            old_password=credentials.old.password,
            records=[(record.uid, record.record) for record in records],
        )

    def _scrubber(self, records: Sequence[VaultRecord], credentials: Credentials) -> Scrubber:
        secrets = {text for record in records for text in secrets_of(record.record)}
        for value in (credentials.old, credentials.new):
            secrets |= {part.reveal() for part in (value.password, value.private_key) if part}
        whole = self._input(records, credentials)
        encoded = whole.encode().decode().strip()
        return Scrubber([*secrets, encoded, *_wrapped(encoded)])

    def _execute(self, step: _Step, prepared: _Prepared, credentials: Credentials) -> ScriptResult:
        work = self._work
        shell = work.user.record.custom("Shell")
        work.deadline.check("the script")
        if step.row.place == "machine":
            return self._on_machine(prepared, step.script.command, shell, credentials)
        settings = work.ports.settings
        return run_script(
            prepared.content,
            prepared.name,
            step.script.command,
            prepared.stdin,
            time_limit_seconds=min(settings.script_seconds, work.deadline.remaining()),
            output_limit=OUTPUT_BYTES + prepared.scrubber.longest,
            shell=shell,
            work_dir=settings.work_dir,
        )

    def _on_machine(
        self, prepared: _Prepared, command: str, shell: str | None, credentials: Credentials
    ) -> ScriptResult:
        work = self._work

        def run_with(connector: Connector) -> ScriptResult:
            if Capability.RUN_SCRIPT not in connector.capabilities:
                raise Unsupported(f"{connector.name} cannot run scripts on a machine")
            own = credentials.new.merged_over(credentials.old)
            with work.open(connector, own) as session:
                path = session.upload("", safe_name(prepared.name), prepared.content)
                try:
                    limit = Deadline(min(work.ports.settings.script_seconds, work.deadline.remaining()))
                    argv = argv_for(path, command, shell, is_windows=connector.is_windows)
                    done = session.run(argv, prepared.stdin, limit)
                finally:
                    _remove(session, path)
            return ScriptResult(exit_code=done.exit_code, stdout=done.stdout, stderr=done.stderr)

        return through(work.chain, work.target.protocol, run_with)


def post_status(ends: Iterable[str]) -> PostStatus:
    """Return the code for the states in which steps ended."""
    states = set(ends)
    if not states:
        return PostStatus.NONE
    if states & {"failed", "pending"}:
        return PostStatus.FAILED
    return PostStatus.OK if states == {"succeeded"} else PostStatus.UNKNOWN


def _remove(session: Session, path: str) -> None:
    try:
        session.remove(path)
    except TargetError as error:
        _log.warning("script_not_removed", cause=error.code)


def _wrapped(encoded: str) -> list[str]:
    """Return the lines that ``base64`` makes of the input when a script encodes it again at the usual width."""
    return [
        encoded[start : start + 76] for start in range(0, len(encoded), 76) if len(encoded[start : start + 76]) > 40
    ]

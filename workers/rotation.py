"""The rotation protocol: at every instant some value held in the vault logs in to the target.

::

    recover → preflight → generate → stage → intend → change → probe → promote

Each arrow is durable before the next step begins, so that a crash anywhere is resumed by the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import structlog

from connectors.base import UNPROVABLE, Connector, Preflight, Session, Verdict, VerdictState
from pam_jobs.errors import (
    AdminRefused,
    AuthRejected,
    Effect,
    EffectUnknown,
    PartlyApplied,
    PolicyRefused,
    StateError,
)
from pam_jobs.jobs import wire
from pam_jobs.jobs.wire import LOCKOUT_BUDGET, Report, Status
from pam_jobs.secret import SecretValue
from workers import partly
from workers.chain import through
from workers.lease import told_when_cancelled
from workers.lockout import LockoutBudget
from workers.logins import Logins
from workers.outcome import Outcome
from workers.parts import Parts, new_value, parts_of
from workers.ports import VaultRecord
from workers.preflight import checked_preflight
from workers.promotion import promote, promoted
from workers.recovery import Action, Decision, decide
from workers.restored import Proven
from workers.router import MaybeDone, RouterUnavailable
from workers.timings import Timings
from workers.values import Value
from workers.work import Version, Work

__all__ = ["Rotation"]

_log = structlog.get_logger(__name__)
_MOST_VALUES: Final = 3  # new values tried against a target's password policy
_MOST_CHANGES: Final = 2  # times the same value is set within one attempt

BeforePromotion = Callable[[Version], Callable[[Outcome], Report] | None]
"""Called when the version is proven; declares the steps that follow, or answers how to build the last report."""


class _Ended(Exception):
    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.cause)
        self.outcome = outcome


class Rotation:
    """One attempt at one credential."""

    def __init__(
        self,
        work: Work,
        timings: Timings,
        before_promotion: BeforePromotion,
        value: Value | None = None,
        proven: Proven | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            work: the job.
            timings: takes the time of each step.
            before_promotion: declares what follows the promotion.
            value: what to set; None makes a new one.
            proven: what logins have shown already, where the ledger is not to be believed alone.
        """
        self._work = work
        self._timings = timings
        self._before_promotion = before_promotion
        self._logins = Logins(work)
        self._version: Version | None = work.unresolved
        # Nobody heard what became of it.
        self._is_lost = self._version is not None and self._version.state == "applying"
        self._given = self._version.value if self._version and self._version.value.undoes is not None else value
        self._kept: partly.Kept | None = None
        self._own = proven.own if proven else None  # what logs in, where that was learned
        self._is_blind = proven is not None and proven.own is None  # nothing known logs in; the admin sets a value
        self._evidence: dict[str, object] = dict(proven.evidence) if proven else {}
        self._login_verdict = "accepted"
        self._returned: Mapping[str, str | SecretValue] = {}  # custom fields that come with the change
        self.promoted: VaultRecord | None = None
        self.value: Value | None = None

    @property
    def version(self) -> Version | None:
        """The version that is set, or was; None: there is none yet, or it was given up."""
        return self._version

    @property
    def may_be_applied(self) -> bool:
        """Say whether the target may have a value whose fate is not decided."""
        return self.promoted is None and self._version is not None and self._version.state == "applying"

    @property
    def may_land(self) -> bool:
        """Say whether a value was sent without an answer: a login showed that it is not live, and it may be yet."""
        return self.may_be_applied and self._is_lost

    def run(self) -> Outcome:
        """Do what is left to do; the outcome's report is still to be sent unless it says otherwise."""
        work = self._work
        try:
            with work.ports.breakers.slot(work.target_key):
                if self._version is not None and self._version.state == "applying":
                    work.lease.begin()  # what an earlier attempt began is brought to an end, cancelled or not
                    if not self._is_blind and self._recover():
                        return self._promote()
                self._check_budget()
                return through(work.chain, work.target.protocol, self._change_and_prove)
        except _Ended as ended:
            return ended.outcome

    def _recover(self) -> bool:
        """Settle a value that an earlier attempt may have applied; True when it is live."""
        version = self._version
        if version is None:
            return False
        with self._timings.of("recover"):
            decision = self._decide(version.value, None)
        _log.info("recovered", action=decision.action.value, cause=decision.cause, seq=version.seq)
        return self._follow(decision)

    def _decide(self, value: Value, seen: Verdict | None, session: Session | None = None) -> Decision:
        work = self._work
        may_reconcile = not work.is_self and (work.claim.kind == "reconcile" or work.switch("reconcile"))
        older = work.older
        if may_reconcile:
            # One login is kept to prove what the admin sets; else every attempt would spend its budget on old values.
            needed = 2 if seen is not None else 3
            older = older[: max(0, self._logins.left - needed)]
        return decide(
            lambda tried: self._login(tried, session),
            value,
            work.current,
            older,
            may_reconcile=may_reconcile,
            seen=seen,
        )

    def _login(self, value: Value, session: Session | None = None) -> Verdict:
        with self._timings.of("probe"):
            verdict = self._logins.attempt(value, session)
        if verdict.state is VerdictState.ACCEPTED:
            self._own = value
        return verdict

    def _follow(self, decision: Decision) -> bool:
        """Return whether the value is live; False asks to set it."""
        self._evidence.update(decision.evidence)
        match decision.action:
            case Action.PROMOTE:
                return True
            case Action.APPLY:
                return False
            case Action.WAIT:
                status = Status.WAITING_HUMAN
            case Action.BACK_OFF:
                status = Status.UNKNOWN
        current = "locked" if decision.cause == "locked" else self._evidence.get("current")
        raise _Ended(
            Outcome(
                status=status,
                effect=Effect.UNKNOWN,
                cause=decision.cause[:64],
                message=decision.message,
                probe={"verdict": current, "version_seq": self._work.current_seq} if current else None,
                extra={"evidence": dict(self._evidence)},
            )
        )

    def _check_budget(self) -> None:
        if self._logins.left > 0:
            return
        is_open = self.may_be_applied
        raise _Ended(
            Outcome(
                status=Status.UNKNOWN if is_open else Status.FAILED,
                effect=Effect.UNKNOWN if is_open else Effect.NOT_APPLIED,
                cause=LOCKOUT_BUDGET,
                message="the target refused this account too many logins lately: the new value could not be proven",
            )
        )

    def _change_and_prove(self, connector: Connector) -> Outcome:
        """Set the value with this connector until a login proves it, and promote it."""
        work = self._work
        work.lease.check()
        parts = None if self._given else parts_of(work.user.record, connector)
        for turn in range(1, _MOST_CHANGES + 1):
            with self._timings.of("open"):
                session = self._open(connector)
            with session:
                with self._timings.of("preflight"):
                    limits = checked_preflight(session, work)
                work.ports.breakers.worked(work.target_key)
                if self._set(session, parts, limits, is_last=turn == _MOST_CHANGES):
                    return self._promote()  # the session that made the change stays open until this is durable
        raise _Ended(
            Outcome(
                status=Status.WAITING_HUMAN,
                effect=Effect.UNKNOWN,
                cause="not_effective",
                message="the target confirmed the change twice, but the new value does not log in: look at the account",
            )
        )

    def _open(self, connector: Connector) -> Session:
        """Log in as who changes the account; an account that changes itself also tries its older values, each once."""
        work = self._work
        if not work.is_self:
            return work.open(connector)
        refused: AuthRejected | None = None
        for value in [self._own] if self._own is not None else [work.current, *work.older]:
            if self._logins.left <= 0:
                break
            try:
                session = work.open(connector, value)
            except AuthRejected as error:
                refused = error
            except LockoutBudget:
                break
            else:
                self._own = value
                return session
        if refused is None:
            raise LockoutBudget
        if work.admin is None:
            raise refused
        work.finding = wire.AdminFinding(verdict=wire.AdminVerdict.REFUSED, cause=AdminRefused.code)
        raise AdminRefused(
            "the target refused the administrator's own credential",
            remedy="correct the record; the target is set aside until then",
        ) from refused

    def _set(self, session: Session, parts: Parts | None, limits: Preflight, *, is_last: bool) -> bool:
        """Change once and prove it; False asks for another turn with the same value."""
        lost: EffectUnknown | None = None
        try:
            self._change(session, parts, limits)
        except PartlyApplied as error:
            self._after_part(session, error)
            return True
        except EffectUnknown as error:
            _log.warning("effect_unknown", cause=error.code)
            lost, self._is_lost = error, True
        version = self._staged()
        verdict = None
        if lost is None:
            verdict = self._login(version.value, session)
            if verdict.state is VerdictState.UNKNOWN and verdict.cause != LOCKOUT_BUDGET:
                self._work.lease.check()
                time.sleep(self._work.ports.settings.settle_seconds)
                verdict = self._login(version.value, session)
            self._returned = session.returned_fields()
            if verdict.cause == UNPROVABLE:
                self._login_verdict = wire.CONFIRMED
                return True
        decision = self._decide(version.value, verdict)
        if self._follow(decision):
            return True
        if is_last and lost is not None:
            raise lost
        return False

    def _after_part(self, session: Session, error: PartlyApplied) -> None:
        """Return once a value with the part that was set is proven to log in, and is to be kept.

        Raises:
            PartlyApplied: no login proves what is live; the next attempt sets the same value again.
        """
        work, version = self._work, self._staged()
        _log.warning("applied_in_part", changed=error.changed)
        refusal = None
        if partly.is_to_be_undone(work, error):
            refusal = partly.set_back(work, session, error, self._fence)
            if refusal is None:
                if not self.give_up(f"{error.failed}_failed"):
                    raise error
                raise _Ended(partly.rolled_back(work, error))
        kept = partly.kept(work, version.seq, version.value, error, refusal)
        if self._login(kept.whole, session).state is not VerdictState.ACCEPTED:
            raise error
        self._kept = kept
        self._evidence["failed"] = error.failed
        sealed = kept.whole.seal(work.user.key)
        self._version = replace(version, seq=version.seq + 1, value=kept.whole, ciphertext=sealed)

    def _change(self, session: Session, parts: Parts | None, limits: Preflight) -> None:
        """Send the change; a value that the target's policy refuses is given up and replaced, a few times."""
        work = self._work
        for tried in range(1, _MOST_VALUES + 1):
            if self._version is None:
                self._stage(parts, limits)
            version = self._staged()
            was_sent = version.state == "applying"
            work.reach("before:change")
            try:
                with self._timings.of("change"):
                    session.change(work.account, version.value.candidate(work.account), self._fence)
            except PolicyRefused:
                # What was sent before may have landed since it was looked for, and be refused because it is there already.
                if was_sent and self._login(version.value, session).state is VerdictState.ACCEPTED:
                    return
                if not self.give_up("policy_refused") or self._given or tried == _MOST_VALUES:
                    raise
            else:
                work.reach("after:change")
                return

    def _stage(self, parts: Parts | None, limits: Preflight) -> None:
        work = self._work
        with self._timings.of("generate"):
            value = self._given
            if value is None and parts is not None:
                value = new_value(parts, work.user.record, work.complexity, limits)
        if value is None:
            raise StateError("there is nothing to set")
        work.lease.check()
        work.reach("before:stage")
        sealed = value.seal(work.user.key)
        with self._timings.of("stage"):
            try:
                seq = work.job.stage(sealed)
            except MaybeDone as error:
                raise RouterUnavailable("it is not known whether the new value was staged") from error
        work.reach("after:stage")
        self._version = Version(seq=seq, state="staged", value=value, ciphertext=sealed)
        self._is_lost = False

    def _fence(self) -> None:
        """Make it durable that the target may have the value, and check the lease, in one call."""
        work, version = self._work, self._staged()
        work.lease.check()
        with self._timings.of("journal"):
            work.note(version, "applying")
        work.reach("before:intend")
        with self._timings.of("intend"), told_when_cancelled():
            work.job.intend(version.seq)
        work.lease.begin()
        self._version = replace(version, state="applying")
        work.reach("after:intend")
        work.lease.check()

    def _staged(self) -> Version:
        if self._version is None:
            raise StateError("no value is staged")
        return self._version

    def give_up(self, reason: str) -> bool:
        """Give up a value that the target refused, once the current one is proven; False when it is not."""
        work, version = self._work, self._staged()
        evidence: dict[str, object] = {"effect": "not_applied"}
        if not work.current.is_empty:
            verdict = self._login(work.current)
            if verdict.state is not VerdictState.ACCEPTED and verdict.cause != UNPROVABLE:
                return False
            evidence["current"] = wire.CONFIRMED if verdict.cause == UNPROVABLE else "accepted"
        work.job.abandon(version.seq, reason, evidence)
        work.note(version, "abandoned")
        _log.info("value_abandoned", seq=version.seq)
        self._version = None
        return True

    def _promote(self) -> Outcome:
        work, version, kept = self._work, self._staged(), self._kept
        self._check_old(version)
        in_grace = self._evidence["old"] == VerdictState.ACCEPTED
        outcome = (
            kept.outcome
            if kept
            else promoted(version.seq, is_blind=self._is_blind, in_grace=in_grace, login=self._login_verdict)
        )
        outcome = replace(outcome, extra={"old": self._evidence["old"]})
        last_report = self._before_promotion(version)
        evidence = {**self._evidence, "login": self._login_verdict}
        work.reach("before:promote")
        report = last_report(outcome) if last_report else None
        with self._timings.of("promote"):
            seq, value = (kept.seq, kept.changed) if kept else (version.seq, version.value)
            sealed = version.ciphertext if kept else None
            self.promoted = promote(work, seq, value, evidence, report, kept=sealed, fields=self._returned)
        work.reach("after:promote")
        if kept:
            work.note(replace(version, seq=kept.seq), "abandoned")
        work.note(version, "current")
        self.value = version.value
        return outcome if report is None else replace(outcome, is_reported=True)

    def _check_old(self, version: Version) -> None:
        """Find out, when asked to, whether the old value is refused now; whatever comes, the rotation goes on."""
        self._evidence["old"] = "not_tried"
        work = self._work
        is_wanted = work.switch("check_old") and self._logins.left > 1 and not work.current.is_empty
        if is_wanted and not work.current.covers(version.value):
            self._evidence["old"] = self._login(work.current).state.value

"""Fresh logins as the account, counted against its lockout budget."""

from __future__ import annotations

from typing import Final

import structlog

from connectors.base import UNPROVABLE, Session, Verdict, VerdictState
from pam_jobs.errors import InvalidInput, NotApplied, Unreachable, Unsupported
from pam_jobs.jobs.wire import LOCKOUT_BUDGET, LoginState
from workers.breaker import TargetBusy
from workers.chain import through
from workers.lockout import LockoutBudget
from workers.values import Value
from workers.work import Work

__all__ = ["Logins"]

_log = structlog.get_logger(__name__)
_NO_RIGHT: Final = "no_connect_right"
"""The connector could not tell, because the account may not come in from where the gateway is."""

_ENDS: Final = {
    VerdictState.ACCEPTED: LoginState.ACCEPTED,
    VerdictState.REFUSED: LoginState.REFUSED,
    VerdictState.PARTIAL: LoginState.REFUSED,  # one part of the credential was
}
"""What a verdict is to the lockout budget; the others say nothing of the credential."""


class Logins:
    """Tries values on the target; never once more than the budget allows to be refused."""

    def __init__(self, work: Work, *, spare: int = 0) -> None:
        """Begin with what the router says is left.

        Args:
            work: the job.
            spare: how many logins of the budget are left for others, at least 0.
        """
        self._work = work
        self._spare = spare

    @property
    def left(self) -> int:
        """How many logins may still be refused."""
        return self._work.budget.left

    def attempt(self, value: Value, session: Session | None = None) -> Verdict:
        """Try one login with the value; never raises for what the target does.

        Args:
            value: what to log in with.
            session: an open session whose connector makes the login; None opens one that can only probe.

        Raises:
            LeaseLost, EpochConflict: a newer attempt goes on.
            TargetBusy: others log in as the same account, and nothing was changed yet.
            VaultUnavailable: the router is away, of whom a place for the login was to be had.
        """
        if self.left <= self._spare:
            return Verdict(state=VerdictState.UNKNOWN, cause=LOCKOUT_BUDGET)
        self._work.lease.check()
        self._work.reach("before:probe")
        try:
            with self._work.budget.login() as place:
                verdict = self._tried(value, session)
                place.state = _ENDS.get(verdict.state, LoginState.UNDECIDED)
        except LockoutBudget:
            return Verdict(state=VerdictState.UNKNOWN, cause=LOCKOUT_BUDGET)
        except TargetBusy as error:
            if not self._work.lease.has_begun:
                raise
            return Verdict(state=VerdictState.UNKNOWN, cause=error.code, detail=error.message)
        self._work.reach("after:probe")
        breakers, key = self._work.ports.breakers, self._work.target_key
        if verdict.state is VerdictState.UNKNOWN and verdict.cause != UNPROVABLE:
            breakers.failed(key)
        else:
            breakers.worked(key)
        return verdict

    def _tried(self, value: Value, session: Session | None) -> Verdict:
        verdict = self._probe(value, session)
        if session is None and verdict.cause == _NO_RIGHT and verdict.state is VerdictState.UNKNOWN:
            return self._beside_administrator(value) or verdict
        return verdict

    def _probe(self, value: Value, session: Session | None) -> Verdict:
        work = self._work
        credential = value.credential(work.account)
        if session is not None:
            return session.probe(work.account, credential)
        try:
            return through(
                work.chain,
                work.target.protocol,
                lambda connector: _reached(_once(connector.open(work.target, None, work.deadline), work, value)),
            )
        except NotApplied as error:
            return Verdict(state=VerdictState.UNKNOWN, cause=error.code, detail=error.message)

    def _beside_administrator(self, value: Value) -> Verdict | None:
        """Let the machine itself try an account that may not log in from afar, as most services' accounts; None: it cannot."""
        work = self._work
        if work.administrator is None:
            return None
        try:
            return through(work.chain, work.target.protocol, lambda connector: _once(work.open(connector), work, value))
        except (NotApplied, TargetBusy, InvalidInput) as error:
            _log.info("not_tried_on_machine", cause=error.code)
            return None


def _once(session: Session, work: Work, value: Value) -> Verdict:
    with session:
        return session.probe(work.account, value.credential(work.account))


def _reached(verdict: Verdict) -> Verdict:
    """Return the verdict of a connector that reached its target, so that else the next way to it is tried.

    Raises:
        Unreachable: it did not.
        Unsupported: there is no such way.
    """
    for error in (Unreachable, Unsupported):
        if verdict.state is VerdictState.UNKNOWN and verdict.cause == error.code:
            raise error(verdict.detail)
    return verdict

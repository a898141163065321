"""Fresh logins as the account, counted against its lockout budget."""

from __future__ import annotations

from typing import Final

import structlog

from connectors.base import UNPROVABLE, Session, Verdict, VerdictState
from pam_jobs.errors import InvalidInput, NotApplied, Unreachable, Unsupported
from pam_jobs.jobs.wire import LOCKOUT_BUDGET
from workers.breaker import TargetBusy
from workers.chain import through
from workers.lockout import Budget
from workers.values import Value
from workers.work import Work

__all__ = ["Logins"]

_log = structlog.get_logger(__name__)
_NO_RIGHT: Final = "no_connect_right"
"""The connector could not tell, because the account may not come in from where the gateway is."""


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
        self._budget = Budget(work.job, "account", work.claim.refusals_left, lambda: work.lockout)

    @property
    def left(self) -> int:
        """How many logins may still be refused."""
        return self._budget.left

    def attempt(self, value: Value, session: Session | None = None) -> Verdict:
        """Try one login with the value; never raises for what the target does.

        Args:
            value: what to log in with.
            session: an open session whose connector makes the login; None opens one that can only probe.
        """
        if self.left <= self._spare:
            return Verdict(state=VerdictState.UNKNOWN, cause=LOCKOUT_BUDGET)
        self._work.lease.check()
        self._work.reach("before:probe")
        verdict = self._probe(value, session)
        if session is None and verdict.cause == _NO_RIGHT and verdict.state is VerdictState.UNKNOWN:
            verdict = self._beside_administrator(value) or verdict
        self._work.reach("after:probe")
        breakers, key = self._work.ports.breakers, self._work.target_key
        if verdict.state is VerdictState.UNKNOWN and verdict.cause != UNPROVABLE:
            breakers.failed(key)
        else:
            breakers.worked(key)
        if verdict.state in {VerdictState.REFUSED, VerdictState.PARTIAL}:
            self.spend()
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

    def spend(self) -> None:
        """Count one refused login of the account, here and at the router."""
        self._budget.spend()
        self._work.claim.refusals_left = self._budget.left  # for what else this attempt does


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

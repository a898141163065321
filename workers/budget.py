"""The lockout budget of the job's own account: how many of its logins may still be refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from connectors.base import Connector, Credential, Deadline, Session, Target
from pam_jobs.errors import AuthRejected, EpochConflict, LeaseLost, PamJobsError
from pam_jobs.jobs.wire import LoginState
from workers.lockout import Lockout
from workers.places import Place, Places
from workers.ports import JobPort

__all__ = ["Budget"]

_log = structlog.get_logger(__name__)


class Budget:
    """How many logins of one account may still be refused; every refusal is counted at the router as well.

    One attempt at a time holds the account's credential, so it is enough to count after the login; unless others log in
    as the account as well, for it administers something: then each login has its place first.
    """

    def __init__(self, job: JobPort, told: int, lockout: Callable[[], Lockout], places: Places | None = None) -> None:
        """Take what the claim told.

        Args:
            job: the calls on the job.
            told: what the default rule leaves.
            lockout: returns the target's rule; asked with the first login.
            places: of an account that administers something.
        """
        self._job = job
        self._told = told
        self._lockout = lockout
        self._places = places
        self._left: int | None = None

    @property
    def left(self) -> int:
        """How many logins may still be refused; the router is asked once where the target has a rule of its own.

        Raises:
            InvalidInput: the target's rule cannot be read.
            VaultUnavailable: the router is away.
        """
        if self._left is None:
            self._left = self._told if self._lockout().is_default else self._ask(0)
        return self._left

    def enter(self, connector: Connector, target: Target, credential: Credential, deadline: Deadline) -> Session:
        """Log in as the account itself, to change something as it; as ``Places.enter``, where it has places.

        Raises:
            AuthRejected: the target refused it; that is counted.
            NotApplied: anything else the target said.
        """
        try:
            if self._places is not None:
                return self._places.enter(connector, target, credential, deadline)
            return connector.open(target, credential, deadline)
        except AuthRejected:
            self._spend()
            raise

    @contextmanager
    def login(self) -> Iterator[Place]:
        """Hold a place, where one is needed, while one login is made; a refused one is counted.

        Raises:
            LockoutBudget, TargetBusy: none is to be had; no login was made.
            LeaseLost, EpochConflict: a newer attempt goes on.
            Cancelled, GatewayStopping: the job is not to go on.
            VaultUnavailable: the router is away.
        """
        if self._places is None:
            place = Place()
            yield place
        else:
            with self._places.one() as place:
                yield place
        if place.state is LoginState.REFUSED:
            self._spend()

    def _spend(self) -> None:
        """Count one refused login, here and, where it had no place, at the router."""
        self._left = max(0, self.left - 1)
        if self._places is not None:
            return
        try:
            self._left = min(self._left, self._ask(1))
        except (LeaseLost, EpochConflict):
            raise
        except PamJobsError as error:
            _log.warning("refusal_not_counted", cause=error.code)
            self._left = 0  # nobody else knows of it: one that is not counted is the last one

    def _ask(self, new: int) -> int:
        """Count new refusals and return what is left."""
        rule = self._lockout()
        answer = self._job.refusals(new, window_seconds=rule.window_seconds)
        return answer.refusals_left if rule.limit is None else max(0, rule.limit - answer.refused)

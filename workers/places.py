"""Logins as an account that several jobs log in as at once: each has its place in the lockout budget before it is made.

The router grants the places, over all gateways and their instances. Whoever takes a kept connection makes no login, and
needs none.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

import structlog

from connectors.base import Connector, Credential, Deadline, Session, Target
from connectors.kept import KeepingConnector
from pam_jobs.errors import AuthRejected, PamJobsError
from pam_jobs.ids import new_uid
from pam_jobs.jobs.wire import LoginState
from workers.breaker import TargetBusy
from workers.doors import Administrators
from workers.lease import Lease
from workers.lockout import Lockout, LockoutBudget
from workers.ports import JobPort

__all__ = ["Place", "Places"]

_log = structlog.get_logger(__name__)
_PAUSES: Final = (0.05, 0.5)  # seconds between two questions, spread so that those who wait do not ask all at once
_between = secrets.SystemRandom().uniform


@dataclass
class Place:
    """One login's place, and how the login ended; where an exception ends it, that tells."""

    state: LoginState = LoginState.ACCEPTED


class Places:
    """The places of one account, for one job."""

    def __init__(
        self,
        job: JobPort,
        of: Literal["account", "admin"],
        lockout: Callable[[], Lockout],
        *,
        lease: Lease,
        doors: Administrators,
        machine_uid: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            job: the calls on the job.
            of: whose they are.
            lockout: returns the target's rule.
            lease: ends the waiting when it does.
            doors: say how long a login waits for others.
            machine_uid: whose administrator it is, where that is not the job's resource.
            sleep: waits so many seconds.
        """
        self._job = job
        self._of = of
        self._lockout = lockout
        self._lease = lease
        self._doors = doors
        self._machine_uid = machine_uid
        self._sleep = sleep
        self._told = 0

    def enter(self, connector: Connector, target: Target, credential: Credential, deadline: Deadline) -> Session:
        """Log in, over a kept connection where the connector has one.

        Raises:
            AuthRejected: the target refused it; that is counted.
            LockoutBudget: no login may be refused any more; none was made.
            TargetBusy: others log in, and may be refused; none was made.
            InvalidInput: the target's rule cannot be read.
            NotApplied: anything else the target said.
        """
        self._lockout()  # a rule that cannot be read is told also where no login is needed
        told = self._told
        try:
            if isinstance(connector, KeepingConnector):  # its sessions ask when they find no kept connection
                return connector.open(target, replace(credential, guard=self.one), deadline)
            with self.one():
                return connector.open(target, credential, deadline)
        except AuthRejected:
            if self._told == told:  # by a connector that did not ask
                self._count()
            raise

    @contextmanager
    def one(self) -> Iterator[Place]:
        """Hold a place while one login is made.

        Raises:
            LockoutBudget: so many were refused that there is none.
            TargetBusy: others have the last ones, and did not come to an end in time.
            LeaseLost, EpochConflict: a newer attempt goes on.
            Cancelled, GatewayStopping: the job is not to go on.
            VaultUnavailable: the router is away.
        """
        uid, place = new_uid(), Place()
        self._wait_for(uid)
        try:
            yield place
        except Exception as error:
            self._tell(uid, LoginState.REFUSED if isinstance(error, AuthRejected) else LoginState.UNDECIDED)
            raise
        self._tell(uid, place.state)

    def _wait_for(self, uid: str) -> None:
        rule = self._lockout()
        end = self._doors.monotonic() + self._doors.wait_seconds
        while True:
            self._lease.check()
            answer = self._job.login(
                uid, LoginState.WANTED, of=self._of, machine_uid=self._machine_uid, limit=rule.limit,
                window_seconds=rule.window_seconds,
            )  # fmt: skip
            if answer.is_granted:
                return
            if answer.is_used_up:
                raise LockoutBudget(remedy="correct the record, or wait until the lockout window has passed")
            pause = _between(*_PAUSES)
            if self._doors.monotonic() + pause >= end:
                raise TargetBusy("other jobs log in as this account, and may use up its lockout budget")
            self._sleep(pause)

    def _tell(self, uid: str, state: LoginState) -> None:
        """Settle a place. One that cannot be settled counts like a refusal, until a later login is accepted."""
        self._told += state is LoginState.REFUSED
        try:
            self._job.login(uid, state, of=self._of, machine_uid=self._machine_uid)
        except PamJobsError as error:  # a lost lease is learned with the next step: here a connection would be lost too
            _log.warning("login_not_settled", state=state.value, cause=error.code)

    def _count(self) -> None:
        rule = self._lockout()
        try:
            self._job.refusals(1, of=self._of, window_seconds=rule.window_seconds, machine_uid=self._machine_uid)
        except PamJobsError as error:
            _log.warning("refusal_not_counted", cause=error.code)

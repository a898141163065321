"""What follows a promotion: first what runs as the account, then the scripts; one declaration, one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from connectors.base import Deadline
from pam_jobs.errors import EpochConflict, LeaseLost, PamJobsError, VaultUnavailable
from pam_jobs.jobs.wire import PostStatus, Status, StepRow
from pam_jobs.records.services import WAITING
from workers.dependants import Dependants
from workers.outcome import Outcome
from workers.scripts import Credentials, Purpose, Scripts
from workers.timings import Timings
from workers.values import Value
from workers.work import Work

__all__ = ["Again", "Following", "resumed"]

_log = structlog.get_logger(__name__)
_WELL = {PostStatus.OK, PostStatus.NONE}


class Following:
    """Dependants and scripts of one job."""

    def __init__(self, work: Work, timings: Timings, dependants: Dependants | None = None) -> None:
        """Read both from the records and the claim.

        Args:
            work: the job.
            timings: takes the time of each.
            dependants: those that were read already.

        Raises:
            InvalidInput: an attached script names no file, or there are too many services.
            VaultError: the services' names were sealed by another key.
        """
        self._work = work
        self._timings = timings
        self.dependants = dependants or Dependants(work)
        self.scripts = Scripts(work, after=self.dependants.count)

    @property
    def is_empty(self) -> bool:
        """Say whether nothing follows."""
        return self.dependants.is_empty and self.scripts.is_empty

    @property
    def count(self) -> int:
        """How many steps there are."""
        return self.dependants.count + self.scripts.count

    def declare(self, more: Sequence[StepRow], *, has_password: bool) -> None:
        """Make the steps durable, so that a crash resumes at the first one that is not finished.

        Args:
            more: steps of another kind.
            has_password: what runs as the account has only to do with its password.
        """
        services = self.dependants.rows if has_password else []
        with self._timings.of("declare"):
            self.dependants.take(self.scripts.declare([*services, *more]))

    def not_run(self, outcome: Outcome) -> Outcome:
        """Return the outcome of a rotation that did not come to what follows it."""
        return replace(
            outcome,
            post_status=outcome.post_status if self.scripts.is_empty else PostStatus.NOT_RUN,
            services_status=outcome.services_status if self.dependants.is_empty else PostStatus.NOT_RUN,
        )

    def run(self, outcome: Outcome, credentials: Credentials) -> Outcome:
        """Update the services, run the scripts, and say how both ended.

        Scripts do not wait for a machine that is away: it is tried again by the job's next attempts.
        """
        # A target that hung may have used up the job's time, and steps that are declared must still run.
        self.scripts.give_time(Deadline(self._work.ports.settings.job_seconds))
        if not self.dependants.is_empty:
            with self._timings.of("services"):
                self.dependants.run(credentials.new.merged_over(credentials.old))
        with self._timings.of("scripts"):
            post = self._guarded(credentials)
        return self.told(outcome, post)

    def ended(self, outcome: Outcome) -> Outcome:
        """Return how both ended in earlier attempts."""
        return self.told(outcome, self.scripts.ended)

    def told(self, outcome: Outcome, post: PostStatus) -> Outcome:
        """Return the outcome with both codes."""
        services = self.dependants.status
        cause = next(
            (f"{what}_{code.value}" for what, code in (("services", services), ("scripts", post)) if code not in _WELL),
            outcome.cause,
        )
        return replace(
            outcome, post_status=post, services_status=services, cause=cause,
            scripts=self.scripts.results, services=self.dependants.results,
        )  # fmt: skip

    def waiting(self, outcome: Outcome) -> Outcome:
        """Return the outcome of an attempt after which machines are still to be reached, if any are."""
        if not self.dependants.is_waiting or outcome.status in {Status.UNKNOWN, Status.WAITING_HUMAN}:
            return outcome
        return replace(
            outcome,
            status=Status.UNKNOWN,
            cause=WAITING,
            message=f"{outcome.message}; not every machine with services could be reached, which is tried again",
        )

    def _guarded(self, credentials: Credentials) -> PostStatus:
        try:
            return self.scripts.run(credentials)
        except (LeaseLost, EpochConflict, VaultUnavailable):
            raise  # the steps are durable; the next attempt goes on
        except PamJobsError as error:
            _log.warning("scripts_stopped", cause=error.code)
            return PostStatus.FAILED


class Again:
    """What follows a roll-back: what was updated is updated back, and the scripts run once more where that is wished."""

    def __init__(self, work: Work, dependants: Dependants, after: int, *, re_run: bool) -> None:
        self.dependants = dependants.restoring(work, after)
        self.scripts = Scripts(work, Purpose.RERUN, after + self.dependants.count) if re_run else None
        self._work = work

    @property
    def is_empty(self) -> bool:
        """Say whether nothing follows."""
        return self.dependants.is_empty and self.scripts is None

    def declare(self) -> None:
        """Make the steps durable."""
        if self.scripts is not None:
            self.dependants.take(self.scripts.declare(self.dependants.rows))
        elif not self.dependants.is_empty:
            self.dependants.take(self._work.job.declare_steps(self.dependants.rows))

    def run(self, back: Outcome, credentials: Credentials) -> Outcome:
        """Do it and add to the outcome of the roll-back what came of it; also what an earlier attempt declared."""
        if not self.dependants.is_empty:
            self.dependants.take(self._work.job.declare_steps(self.dependants.rows))
        services = self.dependants.run(credentials.new)
        post = self.scripts.run(credentials) if self.scripts is not None else PostStatus.NONE
        names = (("services", services), ("rerun", post))
        cause = next((f"{what}_{code.value}" for what, code in names if code not in _WELL), back.cause)
        told = replace(
            back,
            scripts=(*back.scripts, *(self.scripts.results if self.scripts is not None else ())),
            services=(*back.services, *self.dependants.results),
            cause=cause,
        )
        if not self.dependants.is_waiting:
            return told
        message = f"{back.message}; not every service could be updated back yet, which is tried again"
        return replace(told, status=Status.UNKNOWN, message=message)


def resumed(work: Work) -> Credentials:
    """Return what the steps of an earlier attempt would have been told."""
    previous = [version.value for version in work.versions if version.state == "previous"]
    return Credentials(old=previous[0] if previous else Value(), new=work.current, user=work.user)

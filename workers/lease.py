"""A lease on a job: renewed in the background, checked before every step that matters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import structlog

from pam_jobs.errors import AccessDenied, EpochConflict, LeaseLost, NotFound, PamJobsError, StateError
from pam_jobs.jobs.wire import GATEWAY_STOPPING
from workers.ports import JobPort

__all__ = ["Cancelled", "GatewayStopping", "Lease", "is_cancellation", "told_when_cancelled"]

_log = structlog.get_logger(__name__)


class Cancelled(StateError):
    """An operator cancelled the job before anything was changed."""

    code = "cancelled"


class GatewayStopping(StateError):
    """The gateway stops, and the job has not begun to change anything: it is given back."""

    code = GATEWAY_STOPPING


def is_cancellation(refusal: PamJobsError) -> bool:
    """Say whether the router refuses because the job was cancelled before anything was begun."""
    return isinstance(refusal, StateError) and "cancel" in refusal.message


@contextmanager
def told_when_cancelled() -> Iterator[None]:
    """Make the router's refusal to begin, because the job was cancelled, a ``Cancelled``.

    Raises:
        Cancelled: the job was cancelled; the target was not changed.
    """
    try:
        yield
    except (LeaseLost, EpochConflict):
        raise
    except StateError as error:
        if is_cancellation(error):
            raise Cancelled from error
        raise


class Lease:
    """Holds one job while it is worked on; use it as a context manager.

    It counts as lost as soon as it may have ended: when the router says so, or when no renewal got through in time.
    """

    def __init__(
        self,
        job: JobPort,
        lease_seconds: float,
        claimed_at: float,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        """Take note of a lease.

        Args:
            job: the calls on the job.
            lease_seconds: how long it lasts without renewal.
            claimed_at: when the claim was sent, on the same clock.
            monotonic: the clock, in seconds; it counts the time for which the machine was suspended.
        """
        self._job = job
        self._seconds = lease_seconds
        self._monotonic = monotonic
        self.claimed_at = claimed_at
        self._until = claimed_at + lease_seconds
        self._lost: PamJobsError | None = None
        self._is_cancelled = False
        self._is_given_back = False
        self._is_irreversible = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def cancel(self) -> None:
        """Take note that an operator cancelled the job; it has no effect once the change has begun."""
        self._is_cancelled = True

    def give_back(self) -> None:
        """Let the job stop at its next step, to go on elsewhere; one that has begun to change its target is ended here."""
        self._is_given_back = True

    def begin(self) -> None:
        """Take note that the first irreversible byte is about to be sent."""
        self._is_irreversible = True

    @property
    def has_begun(self) -> bool:
        """Say whether the target may have been changed by this attempt."""
        return self._is_irreversible

    def check(self) -> None:
        """Return while the work may go on.

        Raises:
            LeaseLost: the lease ended, or may have.
            EpochConflict: a newer attempt exists.
            Cancelled: an operator cancelled the job, and nothing was changed yet.
            GatewayStopping: the gateway stops, and nothing was changed yet.
        """
        if self._lost is not None:
            raise self._lost
        if self._monotonic() >= self._until:
            raise LeaseLost("no renewal of the lease got through in time")
        if self._is_cancelled and not self._is_irreversible:
            raise Cancelled
        if self._is_given_back and not self._is_irreversible:
            raise GatewayStopping

    def renew(self) -> None:
        """Renew once; a router that is away is tried again until the lease may have ended."""
        sent_at = self._monotonic()
        try:
            self._job.renew()
        except (LeaseLost, EpochConflict) as error:
            self._lost = error
        except (StateError, NotFound, AccessDenied) as error:
            self._lost = LeaseLost(f"the router no longer lends the job ({error.code})")
        except PamJobsError as error:
            _log.warning("lease_not_renewed", cause=error.code)
        else:
            self._until = sent_at + self._seconds

    def _keep(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            self.renew()
            if self._lost is not None or self._monotonic() >= self._until:
                return

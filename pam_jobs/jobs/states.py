"""Where a job may go from where it stands: one table, which every change of state is checked against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pam_jobs.db.tables import JobKind, JobState

__all__ = ["CHANGING", "FINAL", "HELD", "LOOKING", "OPEN", "TRANSITIONS", "WAITING", "is_allowed", "sources"]

_S = JobState

TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    # A claim may come before the sender has recorded that it published.
    _S.CREATED: frozenset({_S.QUEUED, _S.LEASED, _S.CANCELLED, _S.EXPIRED}),
    _S.QUEUED: frozenset({_S.QUEUED, _S.LEASED, _S.CANCELLED, _S.EXPIRED}),
    # To itself: the lease ended and another attempt took it before the reconciler looked.
    _S.LEASED: frozenset(
        {_S.LEASED, _S.RUNNING, _S.QUEUED, _S.SUCCEEDED, _S.FAILED, _S.UNKNOWN, _S.WAITING_HUMAN, _S.CANCELLED}
    ),
    # Not to cancelled: what has begun on the target is brought to an end.
    _S.RUNNING: frozenset({_S.LEASED, _S.RUNNING, _S.QUEUED, _S.SUCCEEDED, _S.FAILED, _S.UNKNOWN, _S.WAITING_HUMAN}),
    _S.UNKNOWN: frozenset({_S.QUEUED, _S.LEASED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.WAITING_HUMAN: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.EXPIRED: frozenset(),
}

CHANGING: Final = (JobKind.ROTATE, JobKind.RECONCILE)
"""Kinds of jobs that change a credential on its target."""

LOOKING: Final = (JobKind.VERIFY, JobKind.PLAN)
"""Kinds of jobs that change nothing, and so also run for a record whose rotation was switched off."""

WAITING: Final = (_S.CREATED, _S.QUEUED)
"""Nobody works on it and nobody has said how an attempt ended."""

HELD: Final = (_S.LEASED, _S.RUNNING)
"""An instance of a gateway holds the lease, as far as is known."""

OPEN: Final = (*WAITING, *HELD, _S.UNKNOWN)
"""Something will still happen by itself."""

FINAL: Final = (_S.SUCCEEDED, _S.FAILED, _S.WAITING_HUMAN, _S.CANCELLED, _S.EXPIRED)
"""Nothing more happens; after ``waiting_human`` an operator submits the next job."""


def is_allowed(source: JobState, to: JobState) -> bool:
    """Say whether a job may go from one state to the other."""
    return to in TRANSITIONS[source]


def sources(to: JobState) -> tuple[JobState, ...]:
    """Return the states from which a job may go there, for the condition of the update that takes it there."""
    return tuple(source for source, targets in TRANSITIONS.items() if to in targets)

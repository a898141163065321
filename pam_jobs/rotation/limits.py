"""How many jobs may be at work at a time: limits of gateways, configurations and targets."""

from __future__ import annotations

from enum import Enum
from typing import Final

from pam_jobs.errors import InvalidInput

__all__ = ["KEEP", "MOST", "Keep", "checked_limit"]

MOST: Final = 10_000
"""No gateway works on more: it has at most 100 instances of 64 threads."""


class Keep(Enum):
    """A limit that is left as it is; None would take it away."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


def checked_limit(limit: int | None, of: str, instead: str) -> int | None:
    """Return the limit.

    Args:
        limit: jobs at a time; None: no limit.
        of: what it is the limit of.
        instead: how to get what a limit of zero would be for.

    Raises:
        InvalidInput: it is below 1 or above ``MOST``.
    """
    if limit is not None and limit < 1:
        raise InvalidInput(
            f"a limit of {limit} would keep every job of the {of} waiting for ever",
            remedy=f"give a number from 1 to {MOST}, or none for no limit; {instead}",
        )
    if limit is not None and limit > MOST:
        raise InvalidInput(
            f"a limit of {limit} is above what any {of} could reach",
            remedy=f"give a number from 1 to {MOST}, or none for no limit",
        )
    return limit

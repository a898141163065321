"""The rule of the lockout budget: how many logins a target may refuse an account before nobody tries any more.

The router counts for all gateways. The default is its own; a target's own rule stands in the resource's record, or in
the configuration's for all its resources, as the custom fields `Lockout Limit` and `Lockout Window Minutes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pam_jobs.errors import InvalidInput, NotApplied

__all__ = ["Lockout", "LockoutBudget"]

_MOST_LOGINS: Final = 100
_MOST_MINUTES: Final = 1440


class LockoutBudget(NotApplied):
    """The target refused this account too many logins lately."""

    code = "lockout_budget"


@dataclass(frozen=True, kw_only=True)
class Lockout:
    """A target's own rule; None: the default counts."""

    limit: int | None = None
    window_seconds: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Lockout:
        """Return what the target's options say.

        Raises:
            InvalidInput: a number is none, or out of range.
        """
        minutes = _number(options, "Lockout Window Minutes", _MOST_MINUTES)
        return cls(
            limit=_number(options, "Lockout Limit", _MOST_LOGINS), window_seconds=minutes * 60 if minutes else None
        )

    @property
    def is_default(self) -> bool:
        """Say whether the target has no rule of its own."""
        return self.limit is None and self.window_seconds is None


def _number(options: Mapping[str, str], label: str, most: int) -> int | None:
    text = options.get("_".join(label.casefold().split()), "").strip()
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise InvalidInput(
            f"the custom field {label} of the resource is {text[:20]!r}", remedy=f"write a number from 1 to {most}"
        )
    return int(text)

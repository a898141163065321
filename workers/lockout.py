"""The lockout budget: how many logins a target may refuse an account before nobody tries any more.

The router counts for all gateways. The default is its own; a target's own rule stands in the resource's record, or in
the configuration's for all its resources, as the custom fields `Lockout Limit` and `Lockout Window Minutes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from pam_jobs.errors import EpochConflict, InvalidInput, LeaseLost, NotApplied, PamJobsError
from workers.ports import JobPort

__all__ = ["Budget", "Lockout", "LockoutBudget"]

_log = structlog.get_logger(__name__)
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


class Budget:
    """How many logins of one account may still be refused; every refusal is counted at the router as well."""

    def __init__(
        self,
        job: JobPort,
        of: Literal["account", "admin"],
        told: int,
        lockout: Callable[[], Lockout],
        *,
        machine_uid: str | None = None,
    ) -> None:
        """Take what the claim told.

        Args:
            job: the calls on the job.
            of: whose budget it is.
            told: what the default rule leaves.
            lockout: returns the target's rule; asked with the first login.
            machine_uid: whose administrator it is, where that is not the job's resource.
        """
        self._job = job
        self._of = of
        self._told = told
        self._lockout = lockout
        self._machine_uid = machine_uid
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

    def spend(self) -> None:
        """Count one refused login, here and at the router."""
        self._left = max(0, self.left - 1)
        try:
            self._left = min(self._left, self._ask(1))
        except (LeaseLost, EpochConflict):
            raise
        except PamJobsError as error:
            _log.warning("refusal_not_counted", cause=error.code)
            if self._of == "account":  # nobody else knows of it: one that is not counted is the last one
                self._left = 0

    def _ask(self, new: int) -> int:
        """Count new refusals and return what is left."""
        rule = self._lockout()
        answer = self._job.refusals(new, of=self._of, window_seconds=rule.window_seconds, machine_uid=self._machine_uid)
        return answer.refusals_left if rule.limit is None else max(0, rule.limit - answer.refused)

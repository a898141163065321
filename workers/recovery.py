"""What to do about a value that the target may have: decided by logins, within the lockout budget.

| the new value logs in | the current one logs in | then                                                               |
|-----------------------|-------------------------|--------------------------------------------------------------------|
| yes                   | not tried               | promote                                                            |
| in part               | not tried               | apply the same value again                                         |
| refused               | yes, or in part         | apply the same value again                                         |
| refused               | there is none           | apply the same value again                                         |
| refused               | refused                 | the admin sets the same value where that is allowed; else the new  |
|                       |                         | one is tried once more: a change under way may have come between   |
| refused twice         | refused                 | out of sync: an older value is looked for and named, and an        |
|                       |                         | operator decides                                                   |
| locked                | any                     | an operator decides; a login more would keep the account locked    |
| unknown               | any                     | back off and keep everything                                       |

Where no login can ever be tried (some online services), the same value is applied again until the target confirms it.

Nothing here believes a login that was not answered, and nothing makes up a new value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, assert_never

from connectors.base import UNPROVABLE, Verdict, VerdictState
from pam_jobs.jobs.wire import LOCKOUT_BUDGET
from workers.values import Value

__all__ = ["Action", "Decision", "Login", "decide"]

Login = Callable[[Value], Verdict]
"""Tries one fresh login; answers ``unknown`` with the cause ``lockout_budget`` when none may be tried any more."""


class Action(StrEnum):
    """What follows from what was learned."""

    PROMOTE = "promote"  # the value is live
    APPLY = "apply"  # set the same value (again)
    WAIT = "wait"  # only an operator can decide
    BACK_OFF = "back_off"  # nothing is known; try again later


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do, and why. The evidence holds codes only."""

    action: Action
    cause: str = ""
    message: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


def decide(
    login: Login,
    candidate: Value,
    current: Value,
    older: Sequence[Value],
    *,
    may_reconcile: bool,
    seen: Verdict | None = None,
) -> Decision:
    """Return what to do about a candidate that the target may have.

    Args:
        login: tries a value.
        candidate: the value in question.
        current: what was believed before; may be empty.
        older: values before that, newest first.
        may_reconcile: an admin may set the candidate although nothing known logs in.
        seen: the verdict on the candidate, where it was tried just now.
    """
    verdict = seen or login(candidate)
    evidence: dict[str, Any] = {"login": verdict.state.value}
    match verdict.state:
        case VerdictState.ACCEPTED:
            return Decision(action=Action.PROMOTE, evidence=evidence)
        case VerdictState.PARTIAL:
            return Decision(action=Action.APPLY, cause="partial", evidence=evidence)
        case VerdictState.LOCKED:
            return _locked(evidence)
        case VerdictState.UNKNOWN:
            return _unknown(verdict, evidence)
        case VerdictState.REFUSED:
            return _after_refusal(login, candidate, current, older, evidence, may_reconcile=may_reconcile)
        case _:
            assert_never(verdict.state)


def _after_refusal(
    login: Login,
    candidate: Value,
    current: Value,
    older: Sequence[Value],
    evidence: dict[str, Any],
    *,
    may_reconcile: bool,
) -> Decision:
    if current.is_empty:
        return Decision(action=Action.APPLY, cause="no_current", evidence=evidence)
    verdict = login(current)
    evidence["current"] = verdict.state.value
    match verdict.state:
        case VerdictState.ACCEPTED | VerdictState.PARTIAL:
            return Decision(action=Action.APPLY, cause="not_applied", evidence=evidence)
        case VerdictState.LOCKED:
            return _locked(evidence)
        case VerdictState.UNKNOWN:
            return _unknown(verdict, evidence)
        case VerdictState.REFUSED:
            return _after_both_refusals(login, candidate, older, evidence, may_reconcile=may_reconcile)
        case _:
            assert_never(verdict.state)


def _after_both_refusals(
    login: Login, candidate: Value, older: Sequence[Value], evidence: dict[str, Any], *, may_reconcile: bool
) -> Decision:
    """Try the candidate once more: what was sent over a line that broke may have landed between the two logins."""
    if not may_reconcile:  # the admin would set the same value, whatever happened
        again = login(candidate)
        match again.state:
            case VerdictState.ACCEPTED:
                return Decision(action=Action.PROMOTE, evidence={**evidence, "login": again.state.value})
            case VerdictState.PARTIAL:
                return Decision(action=Action.APPLY, cause="partial", evidence=evidence)
            case VerdictState.LOCKED:
                return _locked(evidence)
            case VerdictState.UNKNOWN if again.cause != LOCKOUT_BUDGET:
                return _unknown(again, evidence)
            case _:  # it really is neither
                pass
    return _out_of_sync(login, older, evidence, may_reconcile=may_reconcile)


def _out_of_sync(login: Login, older: Sequence[Value], evidence: dict[str, Any], *, may_reconcile: bool) -> Decision:
    evidence["older"] = "none"
    for back, value in enumerate(older, start=1):
        verdict = login(value)
        if verdict.state is VerdictState.LOCKED:
            return _locked(evidence)
        if verdict.state is VerdictState.UNKNOWN:
            evidence["older"] = "not_tried" if verdict.cause == LOCKOUT_BUDGET else "unknown"
            break
        if verdict.state in {VerdictState.ACCEPTED, VerdictState.PARTIAL}:
            evidence["older"] = f"accepted:{back}"
            break
    found = str(evidence["older"]).startswith("accepted")
    said = "the target accepts neither the new nor the current value" + (", but an earlier one" if found else "")
    if may_reconcile:
        return Decision(action=Action.APPLY, cause="out_of_sync", message=said, evidence=evidence)
    return Decision(
        action=Action.WAIT,
        cause="out_of_sync",
        message=f"{said}: run `pam action reconcile` to let the admin set the new one, or correct the record",
        evidence=evidence,
    )


def _locked(evidence: dict[str, Any]) -> Decision:
    return Decision(
        action=Action.WAIT,
        cause="locked",
        message="the account is locked on the target: unlock it there, then rotate again",
        evidence=evidence,
    )


def _unknown(verdict: Verdict, evidence: dict[str, Any]) -> Decision:
    if verdict.cause == UNPROVABLE:
        return Decision(action=Action.APPLY, cause=UNPROVABLE, evidence=evidence)
    cause = verdict.cause or "unknown"
    message = "it cannot be told now whether the new value is live; both are kept and it is tried again"
    if cause == LOCKOUT_BUDGET:
        message = "no login may be refused any more without risking a lock-out; both values are kept until later"
    return Decision(action=Action.BACK_OFF, cause=cause, message=message, evidence=evidence)

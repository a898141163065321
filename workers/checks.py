"""The modes beside rotation: verify, reconcile without an unfinished rotation, and plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from connectors.base import AccountMetadata, Capability, Connector, Verdict, VerdictState
from pam_jobs.errors import Effect, EffectUnknown, Forbidden, InvalidInput, TargetError, Unsupported
from pam_jobs.jobs.wire import LOCKOUT_BUDGET, Status
from workers.breaker import BreakerOpen, TargetBusy
from workers.chain import through
from workers.dependants import Dependants
from workers.lease import told_when_cancelled
from workers.logins import Logins
from workers.outcome import Outcome
from workers.parts import new_value, parts_of
from workers.preflight import checked_preflight
from workers.proving import take_from_journal
from workers.restored import CAUSE, Lead, kept_leads
from workers.timings import Timings
from workers.work import Work

__all__ = ["plan", "reconcile", "verify", "with_services"]

_KEPT: Final = "the target refuses the current value and takes one that the gateway's journal kept: rotate or reconcile"
_log = structlog.get_logger(__name__)
_UNFINISHED: Final = "unfinished"
_MOST_TRIES: Final = 3  # of a verification that could not be decided; the next scheduled one comes anyway


def verify(work: Work, timings: Timings) -> Outcome:
    """Return whether the current value logs in; changes nothing.

    One that the schedule asks for leaves the account a login: it must not be what stops a rotation, or locks a person
    out.
    """
    if work.current.is_empty:
        raise InvalidInput("the record has no credential to verify", remedy="store the credential in the record")
    is_scheduled = work.claim.trigger == "scheduled"
    verdict, live = _look(work, Logins(work, spare=1 if is_scheduled else 0), timings)
    probe = _probe(work, verdict)
    if verdict.state is VerdictState.ACCEPTED:
        return Outcome(status=Status.OK, message="the current value logs in", probe=probe)
    if verdict.state is VerdictState.UNKNOWN:
        is_kept_back = is_scheduled and verdict.cause == LOCKOUT_BUDGET  # the schedule asks again by itself
        return Outcome(
            status=Status.FAILED if is_kept_back or work.claim.attempts >= _MOST_TRIES else Status.UNKNOWN,
            cause=verdict.cause or "unknown",
            message=f"it cannot be told whether the current value logs in: {verdict.detail or verdict.cause}",
            probe=probe,
        )
    cause, message = _drift(verdict, live)
    return Outcome(status=Status.FAILED, cause=cause, message=message, probe=probe)


def _look(work: Work, logins: Logins, timings: Timings) -> tuple[Verdict, str | None]:
    """Return the verdict on the current value; where it is refused, also the code of what logs in instead."""
    live: str | None = None
    try:
        with work.ports.breakers.slot(work.target_key), timings.of("probe"):
            verdict = _why_refused(work, logins.attempt(work.current))
            if verdict.state is VerdictState.REFUSED:
                unfinished = work.unresolved
                if unfinished is not None and unfinished.state == "applying":
                    live = _UNFINISHED if logins.attempt(unfinished.value).state is VerdictState.ACCEPTED else None
                if live is None and _logs_in(logins, kept_leads(work)):
                    live = CAUSE
    except BreakerOpen as error:  # others have just found out that it cannot be reached
        verdict = Verdict(state=VerdictState.UNKNOWN, cause=error.code, detail=error.message)
    return verdict, live


def _logs_in(logins: Logins, leads: Sequence[Lead]) -> bool:
    """Say whether one of the values is live; an untried one counts as not."""
    return any(logins.attempt(lead.value).state is VerdictState.ACCEPTED for lead in leads)


def _why_refused(work: Work, verdict: Verdict) -> Verdict:
    """Ask the administrator whether the account is locked: many targets refuse it then in the same words."""
    if verdict.state is not VerdictState.REFUSED or work.administrator is None:
        return verdict

    def ask(connector: Connector) -> AccountMetadata:
        if Capability.METADATA not in connector.capabilities:
            raise Unsupported("the connector cannot tell whether an account is locked")
        with work.open(connector) as session:
            return session.metadata(work.account)

    try:
        told = through(work.chain, work.target.protocol, ask)
    except (TargetError, TargetBusy, InvalidInput) as error:
        _log.info("locks_not_seen", cause=error.code)
        return verdict
    is_over = told.expires is not None and told.expires <= work.ports.clock.now()
    causes = (("locked", told.locked), ("disabled", told.disabled), ("expired", is_over))
    cause = next((cause for cause, holds in causes if holds), None)
    return verdict if cause is None else replace(verdict, state=VerdictState.LOCKED, cause=cause)


def _probe(work: Work, verdict: Verdict) -> dict[str, Any]:
    """Return what the report says of a login with the current value."""
    probe: dict[str, Any] = {"verdict": verdict.state.value, "version_seq": work.current_seq}
    if verdict.cause and verdict.state is not VerdictState.ACCEPTED:
        probe["cause"] = verdict.cause
    return probe


def _drift(verdict: Verdict, live: str | None) -> tuple[str, str]:
    if verdict.state is VerdictState.LOCKED:
        return "locked", "the account is locked on the target: unlock it there"
    if live == CAUSE:
        return CAUSE, _KEPT
    if live == _UNFINISHED:
        return live, "the value of an unfinished rotation logs in: rotate again, and it becomes the current one"
    if verdict.state is VerdictState.PARTIAL:
        return "partial", "only a part of the current credential logs in: run `pam action reconcile`"
    return "drift", "the target refuses the current value: correct the record, or run `pam action reconcile`"


def reconcile(work: Work, timings: Timings) -> Outcome:
    """Make the target hold the current value again, set by the admin; nothing to do when it logs in."""
    if work.current.is_empty:
        raise InvalidInput("the record has no credential to set", remedy="rotate the record instead")
    logins = Logins(work)
    with work.ports.breakers.slot(work.target_key):
        with timings.of("probe"):
            spare = -1 if work.is_self else 1
            found, verdict = take_from_journal(work, logins, spare=spare)
            if found is not None:
                told = "a value that the gateway's journal kept logs in; it is the current one again"
                return _in_sync(found, told, Effect.NOT_APPLIED)
            if verdict is None and logins.left != spare:  # the last one shows whether what the admin set is live
                verdict = logins.attempt(work.current)
        if verdict is not None and (ended := _without_change(work, verdict)) is not None:
            return ended
        if work.is_self:
            return Outcome(
                status=Status.FAILED,
                cause=Forbidden.code,
                message="the account's own credential is refused, and no admin can set it: name an admin of the resource,"
                " or correct the record",
                probe=_probe(work, verdict) if verdict is not None else None,
            )
        return through(
            work.chain, work.target.protocol, lambda connector: _set_current(work, connector, logins, timings)
        )


def _without_change(work: Work, verdict: Verdict) -> Outcome | None:
    """Return the end of a reconciliation that changes nothing; None when the current value is refused."""
    if verdict.state is VerdictState.ACCEPTED:
        return _in_sync(work, "the current value logs in; nothing was to be done", Effect.NOT_APPLIED)
    if verdict.state is VerdictState.UNKNOWN:
        return Outcome(
            status=Status.UNKNOWN,
            cause=verdict.cause or "unknown",
            message=f"it cannot be told whether the current value logs in: {verdict.detail or verdict.cause}",
            probe=_probe(work, verdict),
        )
    if verdict.state is VerdictState.LOCKED:
        return Outcome(
            status=Status.WAITING_HUMAN,
            cause="locked",
            message="the account is locked on the target: unlock it there, then reconcile again",
            probe=_probe(work, verdict),
        )
    return None


def _set_current(work: Work, connector: Connector, logins: Logins, timings: Timings) -> Outcome:
    rows = (each for each in work.versions if each.seq == work.current_seq and each.kind == "credential")
    known = next(rows, None)

    def fence() -> None:
        work.lease.check()
        if known is not None:
            work.note(known, "applying")
        with told_when_cancelled():
            work.job.fence()
        work.lease.begin()
        work.reach("after:fence")
        work.lease.check()  # the answer may have come so late that a successor is at work by now

    with work.open(connector) as session:
        checked_preflight(session, work)
        lost: EffectUnknown | None = None
        try:
            with timings.of("change"):
                session.change(work.account, work.current.candidate(work.account), fence)
        except EffectUnknown as error:
            lost = error
        with timings.of("probe"):
            verdict = logins.attempt(work.current, None if lost else session)
    if verdict.state is VerdictState.ACCEPTED:
        if known is not None:
            work.note(known, "current")
        return _in_sync(work, "the admin set the current value, and it logs in", Effect.APPLIED)
    if lost is not None:
        raise lost
    return Outcome(
        status=Status.UNKNOWN if verdict.state is VerdictState.UNKNOWN else Status.WAITING_HUMAN,
        effect=Effect.APPLIED,
        cause=verdict.cause or "not_effective",
        message="the admin set the current value, but it could not be seen to log in",
        probe=_probe(work, verdict),
    )


def _in_sync(work: Work, message: str, effect: Effect) -> Outcome:
    return Outcome(
        status=Status.OK,
        effect=effect,
        message=message,
        probe={"verdict": "accepted", "version_seq": work.current_seq},
    )


def plan(work: Work, timings: Timings) -> Outcome:
    """Return what a rotation would do; changes nothing, and logs in as the admin only."""

    def look(connector: Connector) -> Outcome:
        parts = parts_of(work.user.record, connector)
        with timings.of("open"):
            session = work.open(connector)
        with session, timings.of("preflight"):
            found = checked_preflight(session, work)
            new_value(parts, work.user.record, work.complexity, found)  # made to see that it can be, then dropped
        unfinished = work.unresolved
        reuse = f"; the value of an unfinished rotation (version {unfinished.seq}) comes first" if unfinished else ""
        return Outcome(
            status=Status.OK,
            message=f"would rotate the {' and the '.join(parts.names())} of {work.login}{reuse}",
            extra={
                "plan": {
                    "account": work.login,
                    "parts": parts.names(),
                    "connector": connector.name,
                    "server": found.server,
                    "by": "itself" if work.is_self else (work.admin.uid if work.admin else None),
                    "complexity": work.complexity.to_line(),
                    "min_length": found.min_length,
                    "max_length": found.max_length,
                    "refusals_left": work.claim.refusals_left,
                }
            },
        )

    with work.ports.breakers.slot(work.target_key):
        return through(work.chain, work.target.protocol, look)


def with_services(planned: Outcome, dependants: Dependants) -> Outcome:
    """Return the plan with what would be updated because it runs as the account."""
    if planned.status is not Status.OK or dependants.count == 0:
        return planned
    told = dependants.told
    machines = len({each["machine"] for each in told})
    what = f"{len(told)} {'service' if len(told) == 1 else 'services'} on {machines}"
    return replace(
        planned,
        message=f"{planned.message}; would update {what} {'machine' if machines == 1 else 'machines'}",
        extra={**planned.extra, "plan": {**planned.extra.get("plan", {}), "services": told}},
    )

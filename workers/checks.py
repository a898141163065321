"""The modes beside rotation: verify, reconcile without an unfinished rotation, and plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from connectors.base import Connector, Verdict, VerdictState
from pam_jobs.errors import Effect, EffectUnknown, Forbidden, InvalidInput
from pam_jobs.jobs.wire import Status
from workers.chain import through
from workers.logins import Logins
from workers.outcome import Outcome
from workers.parts import new_value, parts_of
from workers.proving import take_from_journal
from workers.restored import CAUSE, Lead, kept_leads
from workers.rotation import checked_preflight
from workers.timings import Timings
from workers.work import Work

__all__ = ["plan", "reconcile", "verify"]

_KEPT: Final = "the target refuses the current value and takes one that the gateway's journal kept: rotate or reconcile"
_MOST_TRIES: Final = 3  # of a verification that could not be decided; the next scheduled one comes anyway


def verify(work: Work, timings: Timings) -> Outcome:
    """Return whether the current value logs in; changes nothing."""
    if work.current.is_empty:
        raise InvalidInput("the record has no credential to verify", remedy="store the credential in the record")
    logins = Logins(work)
    with work.ports.breakers.slot(work.target_key), timings.of("probe"):
        verdict = logins.attempt(work.current)
        unfinished = work.unresolved if verdict.state is VerdictState.REFUSED else None
        new = logins.attempt(unfinished.value) if unfinished and unfinished.state == "applying" else None
        kept = verdict.state is VerdictState.REFUSED and _logs_in(logins, kept_leads(work))
    probe = {"verdict": verdict.state.value, "version_seq": work.current_seq}
    if verdict.state is VerdictState.ACCEPTED:
        return Outcome(status=Status.OK, message="the current value logs in", probe=probe)
    if verdict.state is VerdictState.UNKNOWN:
        last = work.claim.attempts >= _MOST_TRIES
        return Outcome(
            status=Status.FAILED if last else Status.UNKNOWN,
            cause=verdict.cause or "unknown",
            message=f"it cannot be told whether the current value logs in: {verdict.detail or verdict.cause}",
            probe=probe,
        )
    cause, message = (CAUSE, _KEPT) if kept else _drift(verdict, new)
    return Outcome(status=Status.FAILED, cause=cause, message=message, probe=probe)


def _logs_in(logins: Logins, leads: Sequence[Lead]) -> bool:
    """Say whether one of the values is live; an untried one counts as not."""
    return any(logins.attempt(lead.value).state is VerdictState.ACCEPTED for lead in leads)


def _drift(verdict: Verdict, new: Verdict | None) -> tuple[str, str]:
    if verdict.state is VerdictState.LOCKED:
        return "locked", "the account is locked on the target: unlock it there"
    if new is not None and new.state is VerdictState.ACCEPTED:
        return "unfinished", "the value of an unfinished rotation logs in: rotate again, and it becomes the current one"
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
            spare = 0 if work.is_self else 1  # to prove what the admin sets
            found, verdict = take_from_journal(work, logins, spare=spare)
            if found is not None:
                told = "a value that the gateway's journal kept logs in; it is the current one again"
                return _in_sync(found, told, Effect.NOT_APPLIED)
            if verdict is None:
                verdict = logins.attempt(work.current)
        if verdict.state is VerdictState.ACCEPTED:
            return _in_sync(work, "the current value logs in; nothing was to be done", Effect.NOT_APPLIED)
        if verdict.state is VerdictState.UNKNOWN:
            return Outcome(
                status=Status.UNKNOWN,
                cause=verdict.cause or "unknown",
                message=f"it cannot be told whether the current value logs in: {verdict.detail or verdict.cause}",
            )
        if verdict.state is VerdictState.LOCKED:
            return Outcome(
                status=Status.WAITING_HUMAN,
                cause="locked",
                message="the account is locked on the target: unlock it there, then reconcile again",
            )
        if work.is_self:
            raise Forbidden(
                "the account's own credential is refused, and no admin can set it",
                remedy="name an admin of the resource, or correct the record",
            )
        return through(
            work.chain, work.target.protocol, lambda connector: _set_current(work, connector, logins, timings)
        )


def _set_current(work: Work, connector: Connector, logins: Logins, timings: Timings) -> Outcome:
    rows = (each for each in work.versions if each.seq == work.current_seq and each.kind == "credential")
    known = next(rows, None)

    def fence() -> None:
        work.lease.check()
        if known is not None:
            work.note(known, "applying")
        work.job.fence()
        work.lease.begin()

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
        probe={"verdict": verdict.state.value, "version_seq": work.current_seq},
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

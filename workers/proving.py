"""The steps of ``workers.restored``: logins that show what is live, and a found value that goes back into the ledger."""

from __future__ import annotations

from dataclasses import replace

import structlog

from connectors.base import Verdict, VerdictState
from pam_jobs.errors import Effect
from pam_jobs.jobs.wire import Status
from workers import restored
from workers.logins import Logins
from workers.outcome import Outcome
from workers.promotion import record_found
from workers.recovery import Action
from workers.restored import Lead, Proven
from workers.timings import Timings
from workers.work import Work

__all__ = ["prove", "take_from_journal"]

_log = structlog.get_logger(__name__)
_STATUS = {Action.WAIT: Status.WAITING_HUMAN, Action.BACK_OFF: Status.UNKNOWN}


def prove(work: Work, timings: Timings) -> tuple[Work, Proven, Outcome | None]:
    """Find out which value is live; a value that the ledger lost, or set aside, is its current one afterwards.

    Returns:
        The job as it goes on, what was learned, and the outcome where it does not go on.

    Raises:
        LeaseLost, EpochConflict: a newer attempt decides.
        VaultUnavailable, TargetBusy: later; nothing was changed.
    """
    logins = Logins(work)
    may_reconcile = not work.is_self and (work.claim.kind == "reconcile" or work.switch("reconcile"))
    leads = restored.leads(work)
    with work.ports.breakers.slot(work.target_key), timings.of("prove"):
        # One login is kept to prove what the admin sets.
        most = logins.left - 1 if may_reconcile else logins.left
        result = restored.search(logins.attempt, leads, most=most, may_reconcile=may_reconcile)
    found, evidence = result.found, {f"before_{name}": verdict for name, verdict in result.evidence.items()}
    _log.info("ledger_suspected", found=found.source if found else None, **evidence)
    if found is not None:
        work = _accounted(work, found)
        return work, Proven(own=found.value, evidence=evidence), None
    decision = result.decision
    if decision is None or decision.action is Action.APPLY:
        return work, Proven(evidence={**evidence, "cause": restored.CAUSE}), None
    current = result.evidence.get("current")
    is_open = any(version.state == "applying" for version in work.versions)
    return (
        work,
        Proven(evidence=evidence),
        Outcome(
            status=_STATUS[decision.action],
            effect=Effect.UNKNOWN if is_open else Effect.NOT_APPLIED,
            cause=decision.cause[:64],
            message=decision.message,
            probe={"verdict": current, "version_seq": work.current_seq} if current not in {None, "not_tried"} else None,
            extra={"evidence": evidence},
        ),
    )


def take_from_journal(work: Work, logins: Logins, *, spare: int = 0) -> tuple[Work | None, Verdict | None]:
    """Try the values that the ledger lost, if there are any: none in all the time without a restore.

    Args:
        work: the job.
        logins: tries them.
        spare: how many logins are kept for later.

    Returns:
        The job with the one that logs in as its current value, None when none does; and the verdict where no further
        login would tell more.
    """
    for lead in restored.kept_leads(work):
        if logins.left <= spare:
            break
        verdict = logins.attempt(lead.value)
        if verdict.state is VerdictState.ACCEPTED:
            return _accounted(work, lead), verdict
        if verdict.state in {VerdictState.UNKNOWN, VerdictState.LOCKED}:
            return None, verdict
    return None, None


def _accounted(work: Work, found: Lead) -> Work:
    """Bring ledger and journal to agree on the value that is live."""
    if found.ciphertext:
        evidence = {"login": "accepted", "source": found.source, "cause": restored.CAUSE}
        work = record_found(work, found.ciphertext, found.value, evidence)
    elif found.source != "current":
        return work  # an undecided version: the rotation itself promotes it
    live = next((version for version in work.versions if version.seq == work.current_seq), None)
    if live is not None and live.ciphertext:
        work.note(replace(live, value=found.value), "current")
    return work

"""After a restore of the control plane's database from an older backup: which value is live, before any is changed.

The ledger is suspected when the router says so (the operator or a gateway told it of a restore), or when the gateway's
journal knows a newer value than the ledger has, or another one under the same number. Then logins decide, within the
lockout budget, the likeliest value first:

| what logs in                        | then                                                                        |
|-------------------------------------|-----------------------------------------------------------------------------|
| a value of the journal, or an older | it becomes the current one, in ledger and record, and the rotation goes on   |
| the ledger's current value          | nothing was lost; the rotation goes on                                      |
| none                                | the admin sets a value where that is allowed; else an operator decides      |
| unknown                             | back off and keep everything                                                |

No new value is made up before one of these rows is reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from connectors.base import VerdictState
from pam_jobs.errors import PamJobsError
from pam_jobs.jobs.wire import LedgerVersion
from workers.journal_lines import CURRENT, Kept
from workers.recovery import Action, Decision, Login
from workers.values import Value
from workers.work import Work

__all__ = ["CAUSE", "Lead", "Proven", "Search", "ahead", "is_suspected", "kept_leads", "leads", "search"]

_log = structlog.get_logger(__name__)

CAUSE: Final = "restored_backup"
_LIKELIEST: Final = 2  # leads that have to be tried before it is said that none is live


@dataclass(frozen=True, kw_only=True)
class Lead:
    """A value that may be live."""

    source: str  # journal, current, unfinished, previous
    value: Value = field(repr=False)
    ciphertext: bytes = field(default=b"", repr=False)  # where it is to be recorded when it is live


@dataclass(frozen=True, kw_only=True)
class Search:
    """What the logins showed. The evidence holds codes only."""

    found: Lead | None = None
    decision: Decision | None = None  # what to do when nothing was found
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Proven:
    """What a rotation knows of the target before it begins."""

    own: Value | None = field(default=None, repr=False)  # what logs in; None: nothing that is known
    evidence: Mapping[str, Any] = field(default_factory=dict)  # codes only


def ahead(kept: Sequence[Kept], versions: Sequence[LedgerVersion]) -> list[Kept]:
    """Return what the journal holds and the ledger has not got to, newest first; empty in all the time without a restore.

    Args:
        kept: the journal's values, newest first; those before its current one are history.
        versions: the ledger's rows.
    """
    known = {row.ciphertext for row in versions}
    numbers = {row.seq for row in versions}
    newest = max(numbers, default=0)
    found = []
    for each in kept:
        if each.ciphertext not in known and (each.seq > newest or each.seq in numbers):
            found.append(each)
        if each.state == CURRENT:
            break
    return found


def is_suspected(work: Work) -> bool:
    """Say whether the ledger may have been set back."""
    return work.claim.prove_first or bool(_ahead(work))


def kept_leads(work: Work) -> list[Lead]:
    """Return the values that the journal holds and the ledger has lost, newest first."""
    return _distinct([each for each in _opened(work, _ahead(work)) if not work.current.covers(each.value)])


def leads(work: Work) -> list[Lead]:
    """Return every value that may be live, the likeliest first."""
    newer = _ahead(work)
    current = [Lead(source="current", value=work.current)]
    first = [*_opened(work, newer), *current]
    if newer and _is_later(work, newer[0]):
        first = [*current, *_opened(work, newer)]
    unresolved = work.unresolved
    unfinished = [Lead(source="unfinished", value=unresolved.value)] if unresolved else []
    rest = [each for each in work.ports.journal.of(work.user.uid) if each not in newer]
    older = [
        Lead(source="previous", value=version.value, ciphertext=version.ciphertext)
        for version in work.versions
        if version.state in {"current", "previous"} and version.kind == "credential"
    ]
    return _distinct([*first, *unfinished, *_opened(work, rest), *older])


def search(login: Login, found: Sequence[Lead], *, most: int, may_reconcile: bool) -> Search:
    """Try the leads until one is live.

    Args:
        login: tries a value.
        found: the leads, the likeliest first.
        most: how many logins may be spent.
        may_reconcile: an admin may set a value although nothing known logs in.
    """
    evidence: dict[str, Any] = {}
    for number, lead in enumerate(found):
        verdict = login(lead.value) if number < most else None
        if verdict is None or verdict.cause == "lockout_budget":
            evidence.setdefault(lead.source, "not_tried")
            if number >= min(_LIKELIEST, len(found)) or (may_reconcile and number > 0):
                break
            return Search(decision=_back_off("lockout_budget", evidence), evidence=evidence)
        evidence[lead.source] = verdict.state.value
        match verdict.state:
            case VerdictState.ACCEPTED:
                return Search(found=lead, evidence=evidence)
            case VerdictState.PARTIAL if lead.source == "current":
                return Search(found=lead, evidence=evidence)
            case VerdictState.LOCKED:
                message = "the account is locked on the target: unlock it there, then rotate again"
                return Search(
                    decision=Decision(action=Action.WAIT, cause="locked", message=message, evidence=evidence),
                    evidence=evidence,
                )
            case VerdictState.UNKNOWN:
                return Search(decision=_back_off(verdict.cause or "unknown", evidence), evidence=evidence)
            case _:
                pass
    return Search(decision=_nothing_found(evidence, may_reconcile=may_reconcile), evidence=evidence)


def _nothing_found(evidence: dict[str, Any], *, may_reconcile: bool) -> Decision:
    said = "the control plane's database was restored from an older backup, and no value that is known logs in"
    if may_reconcile or not evidence:
        return Decision(action=Action.APPLY, cause=CAUSE, message=said, evidence=evidence)
    remedy = "run `pam action reconcile` to let the admin set the one in the vault, or correct the record"
    return Decision(action=Action.WAIT, cause=CAUSE, message=f"{said}: {remedy}", evidence=evidence)


def _back_off(cause: str, evidence: dict[str, Any]) -> Decision:
    message = (
        "the control plane's database was restored from an older backup, and it cannot be told now which value is live:"
        " everything is kept, nothing was changed, and it is tried again"
    )
    return Decision(action=Action.BACK_OFF, cause=cause, message=message, evidence=evidence)


def _ahead(work: Work) -> list[Kept]:
    return ahead(work.ports.journal.of(work.user.uid), work.claim.versions)


def _is_later(work: Work, kept: Kept) -> bool:
    """Say whether the ledger's current value is younger than the journal's: set by somebody after the restore."""
    current = next((row for row in work.claim.versions if row.state == "current"), None)
    return current is not None and current.staged_at > kept.at


def _opened(work: Work, kept: Sequence[Kept]) -> list[Lead]:
    found = []
    for each in kept:
        try:
            value = Value.open(each.ciphertext, work.user.key)
        except PamJobsError as error:
            _log.warning("journal_value_not_opened", cause=error.code, seq=each.seq)
        else:
            found.append(Lead(source="journal", value=value, ciphertext=each.ciphertext))
    return found


def _distinct(found: Sequence[Lead]) -> list[Lead]:
    kept: list[Lead] = []
    for lead in found:
        is_known = any(each.value.covers(lead.value) and lead.value.covers(each.value) for each in kept)
        if not lead.value.is_empty and not is_known:
            kept.append(lead)
    return kept

"""Counters, kept in the database: the audit log in its order is counted once, and the totals outlive every process.

A counter in a process would miss what other processes decide and begin anew with each start; counting the rows of jobs
at each scrape would cost more with every day. The log has no gaps and says everything that is counted, so the totals and
how far they have come are moved on in one transaction, whoever does it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from pam_jobs import errors
from pam_jobs.db.base import table_of
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import AuditEvent, EventTotal, JobKind, JobState
from pam_jobs.jobs import poisoned, set_aside
from pam_jobs.jobs.outcome import EXHAUSTED, EXPIRED
from pam_jobs.jobs.sql import IgnoringInsert, run
from pam_jobs.jobs.wire import ADMINISTRATOR_BUSY, LOCKOUT_BUDGET, OLD_IN_GRACE, PostStatus, Status

__all__ = ["CAUSES", "OTHER", "count_once", "known_cause", "read"]

OTHER: Final = "other"
_NONE: Final = "none"
_BATCH: Final = 5_000  # positions in one transaction: half a second at most
_CURSOR: Final = "pam_audit_events_total"
_NO_LABELS: Final = "[]"


def _codes(error: type[errors.PamJobsError]) -> Iterator[str]:
    yield error.code
    for kind in error.__subclasses__():
        yield from _codes(kind)


CAUSES: Final = frozenset(
    {
        _NONE, OTHER, EXHAUSTED, EXPIRED, poisoned.CAUSE, LOCKOUT_BUDGET, OLD_IN_GRACE, set_aside.CAUSE, "internal", "managed", "partial",
        ADMINISTRATOR_BUSY,
        # of gateways, as their errors, decisions and verdicts say them
        "breaker_open", "target_busy", "gateway_stopping", "cancelled", "router_unavailable", "maybe_done", "unfinished", "unknown", "throttled",
        "in_part", "disabled",
        "no_current", "no_credential", "no_password", "out_of_sync", "overtaken", "restored_backup", "not_effective",
        "admin_locked", "wrong_credential", "wrong_password", "second_factor", "method_not_allowed", "no_login",
        "timed_out", "refused_login", "cut_during_login", "external_authentication", "not_allowed_from_here",
        "no_database", "no_connect_right", "stale_pooler", "too_many_connections", "starting_up", "not_permitted", "interrupted",
        "command", "password_refused", "private_key_refused", "refused",
        "change_after_reset", "expired_in_grace", "other_account", "any_password", "account_restriction", "not_parsed",
        "saas", "unprovable", "confirmed", "not_running_as_user", "target_set_aside", "services_waiting", "not_started", "not_stopped",
        "not_at_this_hour", "account_expired",
        *(f"{prefix}_{status}" for prefix in ("scripts", "rerun", "services") for status in PostStatus),
        *_codes(errors.PamJobsError),
    }
)  # fmt: skip
"""Causes that get a label of their own. A gateway says causes as it likes; what is not here counts as ``other``.

A connector's new cause is added here; a test finds those that are missing.
"""

_CREATED: Final = "pam_job_created"
_LEASE_LOST: Final = "pam_job_lease_lost"
_FIXED: Final[Mapping[str, JobState]] = {
    "pam_job_completed": JobState.SUCCEEDED,
    "record_rotation_on_demand_ok": JobState.SUCCEEDED,
    "record_rotation_scheduled_ok": JobState.SUCCEEDED,
    "pam_job_unknown": JobState.UNKNOWN,
    "pam_job_cancelled": JobState.CANCELLED,
    "pam_job_expired": JobState.EXPIRED,
}
_BY_CODE: Final = (
    "pam_job_failed",
    "record_rotation_on_demand_fail",
    "record_rotation_scheduled_fail",
    "discovery_job_completed",
)
_COUNTED: Final = (_CREATED, _LEASE_LOST, *_FIXED, *_BY_CODE)

_EVENTS: Final = table_of(AuditEvent)
_TOTALS: Final = table_of(EventTotal)
_HEAD: Final = select(func.max(_EVENTS.c.position))
_REACHED: Final = select(_TOTALS.c.value).where(_TOTALS.c.counter == _CURSOR)
_NEXT: Final = select(_EVENTS.c.event, _EVENTS.c.fields).where(
    _EVENTS.c.position > bindparam("after"), _EVENTS.c.position <= bindparam("upto"), _EVENTS.c.event.in_(_COUNTED)
)
_ADD: Final = (
    update(_TOTALS)
    .where(_TOTALS.c.counter == bindparam("of"), _TOTALS.c.labels == bindparam("by"))
    .values(value=_TOTALS.c.value + bindparam("more"))
)
_FIRST: Final = IgnoringInsert(_TOTALS)

Key = tuple[str, tuple[str, ...]]


def known_cause(cause: object) -> str:
    """Return the cause as a label: itself, ``none`` or ``other``."""
    if cause is None:
        return _NONE
    return str(cause) if cause in CAUSES else OTHER


def count_once(database: Database) -> bool:
    """Take the next events of the log into the totals, each once however many processes do it.

    Returns:
        True when there are more; call again.
    """
    with database.transaction(read_only=True) as session:  # asked first without any lock: mostly nothing is new
        head = session.scalar(_HEAD) or 0
        if head == (session.scalar(_REACHED) or 0):
            return False
    with database.transaction() as session:
        _FIRST.run(session, {"counter": _CURSOR, "labels": _NO_LABELS, "value": 0})
        after = session.execute(_REACHED.with_for_update()).scalar_one()
        upto = min(head, after + _BATCH)
        if upto <= after:  # another process was here
            return False
        for (counter, labels), more in _counted(session, after, upto).items():
            _add(session, counter, json.dumps(labels), more)
        _add(session, _CURSOR, _NO_LABELS, upto - after)
    return bool(upto < head)


def read(session: Session) -> dict[str, list[tuple[tuple[str, ...], int]]]:
    """Return every counter with its values by labels."""
    found: dict[str, list[tuple[tuple[str, ...], int]]] = {_CURSOR: []}
    for counter, labels, value in session.execute(select(_TOTALS.c.counter, _TOTALS.c.labels, _TOTALS.c.value)):
        found.setdefault(counter, []).append((tuple(json.loads(labels)), value))
    return found


def _counted(session: Session, after: int, upto: int) -> Counter[Key]:
    rows = session.execute(_NEXT, {"after": after, "upto": upto})
    return Counter(_key(event, fields) for event, fields in rows)


def _key(event: str, fields: Mapping[str, Any]) -> Key:
    kind = fields.get("job_kind")
    kind = str(kind) if kind in _KINDS else OTHER
    if event == _CREATED:
        return "pam_jobs_created_total", (kind,)
    if event == _LEASE_LOST:
        return "pam_lease_losses_total", (str(fields.get("gateway_uid", "")),)
    cause = fields.get("cause") or (EXPIRED if event == "pam_job_expired" else None)
    return "pam_job_outcomes_total", (kind, _outcome(event, fields.get("result_code")), known_cause(cause))


def _outcome(event: str, code: object) -> str:
    if (fixed := _FIXED.get(event)) is not None:
        return str(fixed)
    if code == Status.WAITING_HUMAN:
        return str(JobState.WAITING_HUMAN)
    return str(JobState.SUCCEEDED if event == "discovery_job_completed" and code == Status.OK else JobState.FAILED)


def _add(session: Session, counter: str, labels: str, more: int) -> None:
    if run(session, _ADD, {"of": counter, "by": labels, "more": more}) == 0:
        _FIRST.run(session, {"counter": counter, "labels": labels, "value": more})


_KINDS: Final = frozenset(str(kind) for kind in JobKind)

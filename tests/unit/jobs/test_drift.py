from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pam_jobs.db.tables import AuditEvent, DriftState, JobKind, JobState, RotationSettings
from pam_jobs.errors import StateError
from pam_jobs.jobs import history
from pam_jobs.jobs.explain import explain
from pam_jobs.jobs.proof import prove
from pam_jobs.jobs.reconciler import reconcile_once
from pam_jobs.jobs.submission import KEEP_WAITING
from pam_jobs.jobs.wire import Report, Status
from pam_jobs.vault import drift, ledger
from tests.support.attempts import CONTROL_SETTINGS, POLICY, Attempt, ask, begin, outbox, reload
from tests.support.fleet import OPERATOR, Fleet

pytestmark = pytest.mark.unit

EVENTS = ("credential_drift_detected", "credential_drift_resolved", "credential_drift_unchecked")


@pytest.fixture
def held(fleet: Fleet, record: str) -> str:
    """A record whose credential an operator gave."""
    give(fleet, record)
    return record


def give(fleet: Fleet, record: str) -> None:
    with fleet.database.transaction() as session:
        ledger.operator_current(session, fleet.clock, record, b"sealed", fleet.user_uid)
        drift.forget(session, fleet.clock, OPERATOR, record)


def settings(fleet: Fleet, record: str) -> RotationSettings:
    with fleet.database.transaction(read_only=True) as session:
        return session.get_one(RotationSettings, record)


def state(fleet: Fleet, record: str) -> tuple[str, str | None]:
    row = settings(fleet, record)
    return row.drift, row.drift_cause


def events(fleet: Fleet, record: str) -> list[AuditEvent]:
    rows = [row for name in EVENTS for row in fleet.events(name) if row.fields["record_uid"] == record]
    return sorted(rows, key=lambda row: row.id)


def told(fleet: Fleet, record: str) -> list[tuple[str, Any, Any]]:
    """Return the record's drift events in order: state before, state after, cause."""
    rows = events(fleet, record)
    return [(row.fields["drift_before"], row.fields["drift_state"], row.fields.get("cause")) for row in rows]


def check(
    fleet: Fleet, record: str, verdict: str | None, cause: str | None = None, probe: dict[str, str] | None = None
) -> Attempt:
    """Verify once with that end."""
    fleet.clock.advance(timedelta(hours=1))
    attempt = begin(fleet, ask(fleet, record, JobKind.VERIFY).uid)
    attempt.report(
        Status.OK if verdict == "accepted" else Status.FAILED,
        cause=cause,
        probe={"verdict": verdict, "version_seq": 1, **(probe or {})} if verdict else None,
    )
    return attempt


def rotate(fleet: Fleet, record: str, seq: int = 1, revision: int = 1) -> None:
    attempt = begin(fleet, ask(fleet, record).uid)
    attempt.stage()
    attempt.intend(seq)
    attempt.promote(seq, revision=revision, report=attempt.reported())


def test_a_record_begins_unchecked(fleet: Fleet, record: str) -> None:
    row = settings(fleet, record)
    assert (row.drift, row.drift_checked_at, row.drift_since) == ("unchecked", None, fleet.clock.now())


def test_a_promotion_makes_it_healthy_and_needs_no_event_of_its_own(fleet: Fleet, record: str) -> None:
    rotate(fleet, record)
    row = settings(fleet, record)
    assert (row.drift, row.drift_cause, row.drift_checked_at) == ("healthy", None, fleet.clock.now())
    assert told(fleet, record) == []
    assert len(fleet.events("credential_promoted")) == 1


ENDS: list[tuple[str | None, str, dict[str, str], tuple[str, str]]] = [
    ("refused", "drift", {"cause": "auth_rejected"}, ("out_of_sync", "drift")),
    ("partial", "partial", {}, ("out_of_sync", "partial")),
    ("locked", "locked", {"cause": "expired"}, ("locked", "expired")),
    ("unknown", "unreachable", {"cause": "unreachable"}, ("unreachable", "unreachable")),
    ("unknown", "lockout_budget", {"cause": "lockout_budget"}, ("unchecked", "lockout_budget")),
    (None, "not_found", {}, ("unchecked", "not_found")),
]


def test_each_end_of_a_verification_has_its_state_and_one_event(fleet: Fleet) -> None:
    for verdict, cause, probe, seen in ENDS:
        record = fleet.add_record()
        fleet.put(record)
        give(fleet, record)
        check(fleet, record, "accepted")
        since = fleet.clock.now()
        assert settings(fleet, record).drift_since == since

        job = check(fleet, record, verdict, cause, probe).claim.job_uid
        first = fleet.clock.now()
        check(fleet, record, verdict, cause, probe)

        row = settings(fleet, record)
        assert (row.drift, row.drift_cause) == seen
        assert row.drift_since == first
        assert row.drift_checked_at == (since if seen[0] == "unchecked" else fleet.clock.now())
        assert told(fleet, record) == [("unchecked", "healthy", None), ("healthy", *seen)]
        [event] = [row for row in events(fleet, record) if row.fields["drift_before"] == "healthy"]
        assert (event.username, event.fields["job_uid"], event.fields["gateway_uid"]) == (
            f"gateway:{fleet.gateway_uid}", job, fleet.gateway_uid,
        )  # fmt: skip


def test_what_drifted_is_resolved_once(fleet: Fleet, held: str) -> None:
    check(fleet, held, "refused", "drift")
    for kind in (JobKind.RECONCILE, JobKind.VERIFY):
        begin(fleet, ask(fleet, held, kind).uid).report(probe={"verdict": "accepted", "version_seq": 1})
    assert told(fleet, held) == [("unchecked", "out_of_sync", "drift"), ("out_of_sync", "healthy", None)]


def test_a_rotation_resolves_drift(fleet: Fleet, held: str) -> None:
    check(fleet, held, "refused", "drift")
    rotate(fleet, held, seq=2)
    assert state(fleet, held) == ("healthy", None)
    assert told(fleet, held)[1:] == [("out_of_sync", "healthy", None)]


def test_a_check_that_is_not_made_takes_nothing_from_what_the_target_said(fleet: Fleet, held: str) -> None:
    check(fleet, held, "refused", "said")
    before = settings(fleet, held)
    attempt = begin(fleet, ask(fleet, held, JobKind.VERIFY).uid)
    attempt.report(
        Status.FAILED,
        cause="lockout_budget",
        probe={"verdict": "unknown", "version_seq": 1, "cause": "lockout_budget"},
    )
    after = settings(fleet, held)
    assert (after.drift, after.drift_cause, after.drift_checked_at) == (
        before.drift, before.drift_cause, before.drift_checked_at,
    )  # fmt: skip
    assert after.last_probe == before.last_probe
    assert len(told(fleet, held)) == 1


@pytest.mark.parametrize("known", ["accepted", "refused"])
def test_a_verification_that_nobody_began_in_time_leaves_the_credential_unchecked(
    fleet: Fleet, held: str, known: str
) -> None:
    check(fleet, held, known)
    before, count = state(fleet, held), len(told(fleet, held))
    ask(fleet, held, JobKind.VERIFY)
    fleet.clock.advance(KEEP_WAITING)
    assert reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY).expired == 1
    if known == "refused":
        assert (state(fleet, held), len(told(fleet, held))) == (before, count), "what the target said stands"
    else:
        assert state(fleet, held) == ("unchecked", "expired")
        assert told(fleet, held)[count:] == [("healthy", "unchecked", "expired")]


def test_an_old_verification_takes_nothing_from_a_newer_login(fleet: Fleet, held: str) -> None:
    old = ask(fleet, held, JobKind.VERIFY, trigger="scheduled")
    fleet.clock.advance(KEEP_WAITING / 2)
    rotate(fleet, held, seq=2)
    fleet.clock.advance(KEEP_WAITING / 2)
    reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)
    assert reload(fleet, old.uid).state == JobState.EXPIRED
    assert state(fleet, held)[0] == "healthy"


def test_an_attempt_that_is_tried_again_tells_nothing_yet(fleet: Fleet, held: str) -> None:
    job = ask(fleet, held, JobKind.VERIFY)
    begin(fleet, job.uid).report(Status.UNKNOWN, cause="unreachable", probe={"verdict": "unknown", "version_seq": 1})
    assert reload(fleet, job.uid).state == JobState.UNKNOWN
    assert state(fleet, held)[0] == "unchecked"
    assert told(fleet, held) == []


def test_a_new_credential_is_unchecked_and_an_older_login_tells_nothing_of_it(fleet: Fleet, held: str) -> None:
    check(fleet, held, "accepted")
    attempt = begin(fleet, ask(fleet, held, JobKind.VERIFY).uid)
    give(fleet, held)
    attempt.report(probe={"verdict": "accepted", "version_seq": 1})
    row = settings(fleet, held)
    assert (row.drift, row.drift_cause, row.drift_checked_at) == ("unchecked", "edited", None)
    assert told(fleet, held)[1:] == [("healthy", "unchecked", "edited")]
    assert fleet.events("credential_drift_unchecked")[-1].username == OPERATOR.username


def test_another_resource_is_another_target(fleet: Fleet, held: str) -> None:
    check(fleet, held, "accepted")
    fleet.put(held)
    assert state(fleet, held) == ("healthy", None)
    with fleet.database.transaction() as session:
        session.get_one(RotationSettings, held).resource_uid = None
    fleet.put(held)
    assert state(fleet, held) == ("unchecked", "resource_changed")


def test_a_rotation_that_waits_for_a_person_tells_what_it_saw(fleet: Fleet, held: str) -> None:
    begin(fleet, ask(fleet, held).uid).report(
        Status.WAITING_HUMAN, cause="out_of_sync", probe={"verdict": "refused", "version_seq": 1}
    )
    assert state(fleet, held) == ("out_of_sync", "out_of_sync")


def test_a_rotation_whose_target_is_away_says_nothing_of_drift(fleet: Fleet, held: str) -> None:
    check(fleet, held, "accepted")
    begin(fleet, ask(fleet, held).uid).report(
        Status.FAILED, cause="unreachable", probe={"verdict": "unknown", "version_seq": 1}
    )
    assert state(fleet, held) == ("healthy", None)


def test_after_a_restore_nothing_is_known_until_a_login(fleet: Fleet, held: str) -> None:
    check(fleet, held, "accepted")
    with fleet.database.transaction() as session:
        history.begin_anew(session, fleet.clock, OPERATOR, cause="command")
        assert prove(session, fleet.clock, held).status == "restored"
    row = settings(fleet, held)
    assert (row.drift, row.drift_cause, row.drift_checked_at) == ("unchecked", "restored", None)
    check(fleet, held, "accepted")
    with fleet.database.transaction(read_only=True) as session:
        shown = prove(session, fleet.clock, held)
    assert (shown.status, shown.drift, shown.proven_at) == ("proven", "healthy", fleet.clock.now())


# a scheduled verification and the rotation of the same credential


def test_a_scheduled_verification_waits_for_the_end_of_a_rotation(fleet: Fleet, held: str) -> None:
    rotation = ask(fleet, held)
    attempt = begin(fleet, rotation.uid)
    attempt.stage()
    attempt.intend(2)
    attempt.report(Status.UNKNOWN, cause="connection_lost")
    waiting = ask(fleet, held, JobKind.VERIFY, trigger="scheduled")

    with pytest.raises(StateError, match=rotation.uid):
        begin(fleet, waiting.uid)
    with fleet.database.transaction(read_only=True) as session:
        told = explain(session, fleet.clock, POLICY, reload(fleet, waiting.uid))
    assert any(rotation.uid in sentence for sentence in told)

    fleet.clock.advance(timedelta(minutes=10))
    begin(fleet, rotation.uid).promote(2, report=Report(epoch=2, instance="i1", status=Status.OK))
    assert begin(fleet, waiting.uid).claim.kind == "verify"
    assert outbox(fleet, waiting.uid) >= 1


def test_a_person_may_look_between_two_attempts_of_a_rotation(fleet: Fleet, held: str) -> None:
    begin(fleet, ask(fleet, held).uid).report(Status.UNKNOWN, cause="connection_lost")
    assert begin(fleet, ask(fleet, held, JobKind.VERIFY).uid).claim.kind == "verify"


def test_every_state_is_told_of_by_one_of_the_events(fleet: Fleet, held: str) -> None:
    ends = {
        DriftState.HEALTHY: "credential_drift_resolved",
        DriftState.UNCHECKED: "credential_drift_unchecked",
        DriftState.LOCKED: "credential_drift_detected",
        DriftState.OUT_OF_SYNC: "credential_drift_detected",
        DriftState.UNREACHABLE: "credential_drift_detected",
    }
    assert set(ends) == set(DriftState)
    for end, name in ends.items():
        with fleet.database.transaction() as session:
            drift.tell(session, fleet.clock, OPERATOR, "other", end, cause=None, fields={"record_uid": str(end)})
        assert fleet.events(name)[-1].fields["record_uid"] == end

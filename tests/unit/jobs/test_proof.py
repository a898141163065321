from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, update

from pam_jobs.db.tables import JobKind, RotationSettings
from pam_jobs.errors import InvalidInput
from pam_jobs.jobs.proof import Proof, ProofPage, prove, prove_all
from pam_jobs.jobs.wire import Status
from pam_jobs.vault import ledger
from tests.support.attempts import ask, begin
from tests.support.fleet import Fleet


def proof(fleet: Fleet, record: str) -> Proof:
    with fleet.database.transaction(read_only=True) as session:
        return prove(session, fleet.clock, record)


def rotate(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    attempt.stage()
    attempt.intend()
    return attempt


def test_a_promoted_credential_is_proven_by_its_login(fleet: Fleet, record: str):
    attempt = rotate(fleet, record)
    attempt.promote(report=attempt.reported())
    shown = proof(fleet, record)
    assert shown.proven
    assert shown.current is not None
    assert (shown.current.seq, shown.current.evidence["login"], shown.unresolved) == (1, "accepted", [])
    assert shown.last_probe is not None
    assert shown.last_probe["verdict"] == "accepted"


def test_nothing_is_proven_of_a_record_without_a_credential(fleet: Fleet, record: str):
    shown = proof(fleet, record)
    assert not shown.proven
    assert shown.current is None
    assert "no credential version" in shown.reason


def test_a_credential_that_an_operator_gave_is_proven_by_a_verification(fleet: Fleet, record: str):
    with fleet.database.transaction() as session:
        ledger.operator_current(session, fleet.clock, record, b"sealed", fleet.user_uid)
    assert "nobody has seen version 1 log in" in proof(fleet, record).reason
    begin(fleet, ask(fleet, record, JobKind.VERIFY).uid).report(probe={"verdict": "accepted", "version_seq": 1})
    assert proof(fleet, record).proven
    begin(fleet, ask(fleet, record, JobKind.VERIFY).uid).report(
        Status.FAILED, probe={"verdict": "refused", "version_seq": 1}
    )
    shown = proof(fleet, record)
    assert not shown.proven
    assert "refused version 1" in shown.reason


def test_an_unresolved_value_that_may_be_live_is_not_proven(fleet: Fleet, record: str):
    rotate(fleet, record)
    shown = proof(fleet, record)
    assert not shown.proven
    assert [(row.seq, row.state) for row in shown.unresolved] == [(1, "applying")]


def test_a_staged_value_takes_nothing_from_the_proof_of_the_current_one(fleet: Fleet, record: str):
    attempt = rotate(fleet, record)
    attempt.promote(report=attempt.reported())
    begin(fleet, ask(fleet, record).uid).stage(b"the next value, sealed by the record's key")
    shown = proof(fleet, record)
    assert shown.proven
    assert [row.state for row in shown.unresolved] == ["staged"]


def give(fleet: Fleet, record: str) -> None:
    with fleet.database.transaction() as session:
        ledger.operator_current(session, fleet.clock, record, b"sealed", fleet.user_uid)


def verify(fleet: Fleet, record: str, verdict: str) -> None:
    status = Status.OK if verdict == "accepted" else Status.FAILED
    begin(fleet, ask(fleet, record, JobKind.VERIFY).uid).report(status, probe={"verdict": verdict, "version_seq": 1})


@pytest.mark.parametrize(("seen", "status"), [("accepted", "proven"), ("refused", "out_of_sync")])
@pytest.mark.parametrize("later", ["unknown", "locked"])
def test_a_login_that_told_nothing_takes_nothing_from_the_proof(
    fleet: Fleet, record: str, seen: str, status: str, later: str
):
    give(fleet, record)
    verify(fleet, record, seen)
    at = fleet.clock.now()
    fleet.clock.advance(timedelta(days=1))
    verify(fleet, record, later)
    shown = proof(fleet, record)
    assert shown.status == status
    assert shown.proven_at == (at if seen == "accepted" else None)
    assert shown.last_probe is not None
    assert shown.last_probe["verdict"] == later


def test_a_proof_names_the_login_the_job_and_the_gateway_and_writes_times_in_one_form(fleet: Fleet, record: str):
    attempt = rotate(fleet, record)
    attempt.promote(report=attempt.reported())
    shown = proof(fleet, record)
    assert shown.last_probe == {
        "verdict": "accepted", "version_seq": 1, "at": fleet.clock.now(), "gateway": fleet.gateway_uid,
        "job": attempt.claim.job_uid,
    }  # fmt: skip
    assert shown.reason == "version 1 logged in at 2026-03-02 12:00:00 UTC"
    told = json.loads(shown.model_dump_json())
    times = [
        told["proven_at"], told["drift_since"], told["drift_checked_at"], told["last_probe"]["at"],
        told["current"]["staged_at"], told["current"]["decided_at"], told["current"]["evidence"]["at"],
    ]  # fmt: skip
    assert times == ["2026-03-02T12:00:00Z"] * len(times)


def test_a_proof_that_is_too_old_does_not_count(fleet: Fleet, record: str):
    give(fleet, record)
    verify(fleet, record, "accepted")
    fleet.clock.advance(timedelta(days=8))
    with fleet.database.transaction(read_only=True) as session:
        recent = prove(session, fleet.clock, record, max_age=timedelta(days=7))
        old = prove(session, fleet.clock, record, max_age=timedelta(days=9))
        with pytest.raises(InvalidInput):
            prove(session, fleet.clock, record, max_age=timedelta(0))
    assert (recent.proven, recent.status) == (False, "too_old")
    assert recent.proven_at == fleet.clock.now() - timedelta(days=8)
    assert old.proven


def page(fleet: Fleet, **wanted: Any) -> tuple[ProofPage, int]:
    """Return a page and how many statements it took."""
    statements: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(fleet.database.engine, "before_cursor_execute", count)
    try:
        with fleet.database.transaction(read_only=True) as session:
            found = prove_all(session, fleet.clock, **wanted)
    finally:
        event.remove(fleet.database.engine, "before_cursor_execute", count)
    return found, sum(1 for statement in statements if statement.startswith("SELECT"))


def test_all_proofs_come_in_pages_with_two_queries_each(fleet: Fleet, record: str):
    uids = sorted([record, *(fleet.add_record() for _ in range(4))])
    for uid in uids:
        if uid != record:
            fleet.put(uid)
        give(fleet, uid)
    verify(fleet, uids[1], "accepted")
    verify(fleet, uids[2], "refused")
    seen: list[Proof] = []
    after = None
    for size in (2, 2, 1):
        found, queries = page(fleet, after=after, limit=2)
        assert (len(found.proofs), queries) == (size, 2)
        seen += found.proofs
        after = found.next
    assert after is None
    assert [entry.record for entry in seen] == uids
    assert [entry.status for entry in seen] == [
        "never_proven", "proven", "out_of_sync", "never_proven", "never_proven",
    ]  # fmt: skip
    assert [entry.drift for entry in seen[:3]] == ["unchecked", "healthy", "out_of_sync"]


def test_a_page_has_an_end_and_a_user_without_a_target_is_left_out(fleet: Fleet, record: str):
    with fleet.database.transaction() as session:
        session.execute(update(RotationSettings).values(profile="scripts_only", resource_uid=None))
    assert page(fleet)[0] == ProofPage(proofs=[], next=None)
    for limit in (0, 1001):
        with pytest.raises(InvalidInput):
            page(fleet, limit=limit)

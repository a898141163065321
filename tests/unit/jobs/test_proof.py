from __future__ import annotations

from pam_jobs.db.tables import JobKind
from pam_jobs.jobs.proof import Proof, prove
from pam_jobs.jobs.wire import Status
from pam_jobs.vault import ledger
from tests.support.attempts import ask, begin
from tests.support.fleet import Fleet


def proof(fleet: Fleet, record: str) -> Proof:
    with fleet.database.transaction(read_only=True) as session:
        return prove(session, record)


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

"""A database that was restored from an older backup: noticed, marked once, and mended by what gateways still know."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, select

from pam_jobs.db.tables import (
    AuditEvent,
    CredentialEpoch,
    DatabaseGeneration,
    JobKind,
    RotationSettings,
    StoredRecord,
    VersionState,
)
from pam_jobs.errors import EpochConflict, InvalidInput, VaultConflict
from pam_jobs.jobs import history, recovered, wire
from pam_jobs.jobs.proof import prove
from pam_jobs.jobs.trail import gateway_actor
from pam_jobs.jobs.wire import Status
from pam_jobs.vault import ledger
from tests.support.attempts import SECRET, Attempt, ask, begin, reload, version
from tests.support.fleet import OPERATOR, Fleet

LOST = b"ciphertext-of-a-value-that-the-backup-lacks"


def told(fleet: Fleet, said: wire.Position | None = None) -> wire.Position:
    with fleet.database.transaction() as session:
        actor = gateway_actor(fleet.gateway_uid)
        return history.check(session, fleet.clock, actor, said, fleet.gateway_uid)


def mark(fleet: Fleet) -> int:
    with fleet.database.transaction() as session:
        return history.begin_anew(session, fleet.clock, OPERATOR, cause="command")


def generations(fleet: Fleet) -> int:
    with fleet.database.transaction(read_only=True) as session:
        return len(session.scalars(select(DatabaseGeneration.number)).all())


def is_marked(fleet: Fleet, record: str) -> bool:
    with fleet.database.transaction(read_only=True) as session:
        return session.get_one(RotationSettings, record).prove_since is not None


def epoch(fleet: Fleet, record: str) -> int:
    with fleet.database.transaction(read_only=True) as session:
        return session.get_one(CredentialEpoch, record).epoch


def set_back(fleet: Fleet, to: wire.Position) -> None:
    """Forget every event since."""
    with fleet.database.transaction() as session:
        session.execute(delete(AuditEvent).where(AuditEvent.id > to.event_id))


def rotated(fleet: Fleet, record: str) -> Attempt:
    attempt = begin(fleet, ask(fleet, record).uid)
    seq = attempt.stage()
    attempt.intend(seq)
    with fleet.database.transaction(read_only=True) as session:
        revision = session.get_one(StoredRecord, record).revision
    attempt.promote(seq, revision=revision, report=attempt.reported())
    return attempt


def lift(attempt: Attempt, known: int) -> int:
    with attempt.database.transaction() as session:
        actor = gateway_actor(attempt.fleet.gateway_uid)
        return recovered.lift(session, attempt.clock, actor, attempt.holder, known)


def recover(attempt: Attempt, revision: int = 1, ciphertext: bytes = LOST, **evidence: str) -> wire.RecoveryAnswer:
    said = wire.Recovery(
        epoch=attempt.claim.epoch, instance=attempt.instance, ciphertext=ciphertext, record_data=b"with the found value",
        record_revision=revision, evidence=evidence or {"login": "accepted", "source": "journal"},
    )  # fmt: skip
    with attempt.database.transaction() as session:
        return recovered.recover(session, attempt.clock, gateway_actor(attempt.fleet.gateway_uid), attempt.holder, said)


def test_a_database_that_went_on_is_the_same_one(fleet: Fleet, record: str):
    before = told(fleet)
    rotated(fleet, record)
    after = told(fleet, before)
    assert after.event_id > before.event_id
    assert told(fleet, after).generation == before.generation
    assert generations(fleet) == 1
    assert not is_marked(fleet, record)


def test_a_database_that_was_set_back_is_noticed_and_marked_once(fleet: Fleet, record: str):
    backup = told(fleet)
    rotated(fleet, record)
    lost = told(fleet, backup)
    set_back(fleet, backup)
    new = told(fleet, lost)
    assert new.generation != lost.generation
    assert is_marked(fleet, record)
    told(fleet, lost)  # another gateway, or another instance, that remembers the lost time too
    told(fleet, backup)
    assert generations(fleet) == 2
    (event,) = fleet.events("pam_database_restored")
    assert (event.fields["cause"], event.fields["gateway_uid"]) == ("gateway", fleet.gateway_uid)


def test_it_is_noticed_also_when_the_database_has_grown_beyond_that_place(fleet: Fleet, record: str):
    backup = told(fleet)
    rotated(fleet, record)
    lost = told(fleet)
    set_back(fleet, backup)
    for _ in range(3):
        rotated(fleet, record)
    assert told(fleet).event_id > lost.event_id
    told(fleet, lost)
    assert generations(fleet) == 2


def test_a_restore_to_before_the_last_generation_is_a_restore_too(fleet: Fleet, record: str):
    told(fleet)
    unknown = told(fleet).model_copy(update={"generation": "GenerationThatIsNotHer"})
    told(fleet, unknown)
    assert generations(fleet) == 2


def test_events_that_were_removed_as_too_old_are_no_restore(fleet: Fleet, record: str):
    old = told(fleet)
    rotated(fleet, record)
    with fleet.database.transaction() as session:
        session.execute(delete(AuditEvent).where(AuditEvent.id <= old.event_id))
    told(fleet, old)
    assert generations(fleet) == 1


def test_the_command_marks_every_credential_and_overtakes_every_attempt(fleet: Fleet, record: str):
    other = fleet.add_record()
    fleet.put(other)
    rotated(fleet, record)
    running = begin(fleet, ask(fleet, record).uid)
    assert mark(fleet) == 2
    with pytest.raises(EpochConflict):
        running.stage()
    assert epoch(fleet, record) == running.claim.epoch + history.LIFT
    assert begin(fleet, ask(fleet, other).uid).claim.epoch == history.LIFT + 1, "also where nothing was rotated yet"


def test_a_marked_credential_is_claimed_as_such_until_it_was_seen_to_log_in(fleet: Fleet, record: str):
    rotated(fleet, record)
    mark(fleet)
    attempt = begin(fleet, ask(fleet, record, JobKind.VERIFY).uid)
    assert attempt.claim.prove_first
    attempt.report(Status.FAILED, probe={"verdict": "refused", "version_seq": 1})
    attempt = begin(fleet, ask(fleet, record, JobKind.VERIFY).uid)
    assert attempt.claim.prove_first
    attempt.report(probe={"verdict": "accepted", "version_seq": 1})
    assert not begin(fleet, ask(fleet, record).uid).claim.prove_first


def test_a_promotion_takes_the_mark_away(fleet: Fleet, record: str):
    mark(fleet)
    rotated(fleet, record)
    assert not is_marked(fleet, record)


def test_evidence_from_before_a_restore_proves_nothing(fleet: Fleet, record: str):
    rotated(fleet, record)
    mark(fleet)
    with fleet.database.transaction(read_only=True) as session:
        shown = prove(session, fleet.clock, record)
    assert not shown.proven
    assert "restored from an older backup" in shown.reason


def test_a_gateway_that_knows_a_later_attempt_goes_on_above_it(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    assert lift(attempt, 40) == 41
    with pytest.raises(EpochConflict):
        lift(attempt, 40)  # its answer got lost, or it is a late writer's: nobody can tell
    with pytest.raises(EpochConflict):
        attempt.stage()
    assert attempt.with_epoch(41).stage() == 1
    assert version(fleet, record).epoch == 41
    assert is_marked(fleet, record)
    assert [event.fields["known_epoch"] for event in fleet.events("credential_epoch_lifted")] == [40]


def test_an_attempt_that_was_overtaken_by_its_own_instance_does_not_get_the_newer_epoch(fleet: Fleet, record: str):
    job = ask(fleet, record)
    late = begin(fleet, job.uid)
    fleet.clock.advance(timedelta(seconds=61))
    newer = begin(fleet, job.uid)
    with pytest.raises(EpochConflict):
        lift(late, newer.claim.epoch - 1)


def test_an_attempt_that_was_overtaken_lifts_nothing(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    mark(fleet)
    with pytest.raises(EpochConflict):
        lift(attempt, 7)


def test_a_value_that_was_found_becomes_current_with_its_record(fleet: Fleet, record: str):
    rotated(fleet, record)
    mark(fleet)
    attempt = begin(fleet, ask(fleet, record).uid)
    answer = recover(attempt, revision=2)
    assert (answer.revision, answer.seq) == (3, 2)
    assert [(row.seq, row.state, row.ciphertext) for row in answer.versions] == [
        (2, "current", LOST), (1, "previous", SECRET),
    ]  # fmt: skip
    with fleet.database.transaction(read_only=True) as session:
        stored = session.get_one(StoredRecord, record)
        assert (stored.data, stored.revision) == (b"with the found value", 3)
        assert prove(session, fleet.clock, record).proven
    assert version(fleet, record, 2).evidence["source"] == "journal"
    assert [event.fields["version_seq"] for event in fleet.events("credential_recovered")] == [2]
    assert recover(attempt, revision=2).revision == 3, "its answer got lost"
    assert len(fleet.events("credential_recovered")) == 1
    attempt.stage(b"the next value, which is a good deal longer")
    attempt.intend(3)
    attempt.promote(3, revision=3, report=attempt.reported())
    assert reload(fleet, attempt.claim.job_uid).state == "succeeded"


def test_a_value_of_an_attempt_that_was_under_way_is_kept(fleet: Fleet, record: str):
    begun = begin(fleet, ask(fleet, record).uid)
    begun.stage()
    begun.intend()
    begun.report(Status.UNKNOWN)
    fleet.clock.advance(timedelta(minutes=5))
    recover(begin(fleet, begun.claim.job_uid))
    assert [version(fleet, record, seq).state for seq in (1, 2)] == [VersionState.PREVIOUS, VersionState.CURRENT]


def test_nothing_is_recovered_without_a_login_or_over_somebodys_edit(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    with pytest.raises(InvalidInput):
        recover(attempt, login="refused")
    with pytest.raises(VaultConflict):
        recover(attempt, revision=9)
    with fleet.database.transaction(read_only=True) as session:
        assert ledger.versions(session, record) == []

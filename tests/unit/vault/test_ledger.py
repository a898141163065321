from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from pam_jobs.clock import VirtualClock
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import CredentialVersion, Folder, StoredRecord, User, VersionKind, VersionState
from pam_jobs.errors import Conflict, EpochConflict, InvalidInput, NotFound, StateError
from pam_jobs.ids import new_uid
from pam_jobs.vault import ledger

pytestmark = pytest.mark.unit

PROVEN = {"login": "accepted"}
SAFE = {"current": "accepted"}
S = VersionState


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def record_uid(database: Database, clock: VirtualClock) -> str:
    user, folder, record = new_uid(), new_uid(), new_uid()
    now = clock.now()
    with database.transaction() as session:
        session.add(
            User(
                uid=user, username="u", public_key=b"", kdf_salt=b"", kdf_iterations=600_000, proof_hash=b"",
                wrapped_private_key=b"", role="admin", created_at=now,
            )
        )  # fmt: skip
        session.add(Folder(uid=folder, root_uid=folder, data=b"", created_at=now))
        session.flush()
        session.add(
            StoredRecord(
                uid=record, folder_uid=folder, version=3, key_by_folder=b"", key_by_owner=b"", owner_uid=user, data=b"",
                revision=1, created_at=now, updated_at=now,
            )
        )  # fmt: skip
    return record


def stage(
    session: Session,
    clock: VirtualClock,
    record_uid: str,
    *,
    epoch: int = 1,
    kind: VersionKind = VersionKind.CREDENTIAL,
    value: bytes = b"new",
) -> CredentialVersion:
    return ledger.stage(
        session, clock, record_uid=record_uid, kind=kind, ciphertext=value, epoch=epoch, staged_by="gateway"
    )


def rotate(session: Session, clock: VirtualClock, record_uid: str, *, epoch: int) -> None:
    row = stage(session, clock, record_uid, epoch=epoch)
    ledger.begin_applying(session, clock, record_uid, row.seq, epoch)
    ledger.promote(session, clock, record_uid, row.seq, epoch=epoch, evidence=PROVEN)


def states(session: Session, record_uid: str) -> dict[int, str]:
    return {row.seq: row.state for row in ledger.versions(session, record_uid)}


def test_a_rotation_moves_current_to_previous(database: Database, clock: VirtualClock, record_uid: str) -> None:
    with database.transaction() as session:
        ledger.operator_current(session, clock, record_uid, b"old", "operator")
    with database.transaction() as session:
        row = stage(session, clock, record_uid)
    with database.transaction() as session:
        ledger.begin_applying(session, clock, record_uid, row.seq, 1)
    with database.transaction() as session:
        ledger.promote(session, clock, record_uid, row.seq, epoch=1, evidence=PROVEN)
    with database.transaction() as session:
        assert states(session, record_uid) == {2: "current", 1: "previous"}
        assert [row.ciphertext for row in ledger.versions(session, record_uid)] == [b"new", b"old"]
        assert ledger.unresolved(session, record_uid) is None


def test_three_previous_are_kept_and_older_ones_retired(
    database: Database, clock: VirtualClock, record_uid: str
) -> None:
    with database.transaction() as session:
        for epoch in range(1, 7):
            rotate(session, clock, record_uid, epoch=epoch)
        assert states(session, record_uid) == {
            6: "current", 5: "previous", 4: "previous", 3: "previous", 2: "retired", 1: "retired",
        }  # fmt: skip


def test_a_second_candidate_is_refused_while_one_is_unresolved(
    database: Database, clock: VirtualClock, record_uid: str
) -> None:
    with database.transaction() as session:
        stage(session, clock, record_uid)
    for kind in VersionKind:
        with pytest.raises(Conflict), database.transaction() as session:
            stage(session, clock, record_uid, epoch=9, kind=kind)
    with pytest.raises(StateError), database.transaction() as session:
        ledger.operator_current(session, clock, record_uid, b"x", "operator")
    with database.transaction() as session:
        assert states(session, record_uid) == {1: "staged"}


def test_an_older_attempt_is_fenced_at_every_step(database: Database, clock: VirtualClock, record_uid: str) -> None:
    with database.transaction() as session:
        row = stage(session, clock, record_uid, epoch=3)
        ledger.begin_applying(session, clock, record_uid, row.seq, 4)
    with database.transaction() as session:
        for epoch in (1, 3):
            with pytest.raises(EpochConflict):
                ledger.begin_applying(session, clock, record_uid, 1, epoch)
            with pytest.raises(EpochConflict):
                ledger.promote(session, clock, record_uid, 1, epoch=epoch, evidence=PROVEN)
            with pytest.raises(EpochConflict):
                ledger.abandon(session, clock, record_uid, 1, epoch=epoch, reason="policy", evidence=SAFE)
        ledger.promote(session, clock, record_uid, 1, epoch=5, evidence=PROVEN)
        with pytest.raises(EpochConflict):
            stage(session, clock, record_uid, epoch=4)


def test_nothing_becomes_current_that_was_not_seen_to_log_in(
    database: Database, clock: VirtualClock, record_uid: str
) -> None:
    with database.transaction() as session:
        row = stage(session, clock, record_uid)
        ledger.begin_applying(session, clock, record_uid, row.seq, 1)
        for evidence in ({}, {"login": "unknown"}, {"login": "refused"}):
            with pytest.raises(InvalidInput):
                ledger.promote(session, clock, record_uid, row.seq, epoch=1, evidence=evidence)
        assert states(session, record_uid) == {1: "applying"}


def test_a_candidate_is_abandoned_only_when_the_current_value_is_proven(
    database: Database, clock: VirtualClock, record_uid: str
) -> None:
    with database.transaction() as session:
        ledger.operator_current(session, clock, record_uid, b"old", "operator")
        row = stage(session, clock, record_uid)
        ledger.begin_applying(session, clock, record_uid, row.seq, 1)
        for evidence in ({}, {"current": "refused"}, {"effect": "not_applied"}):
            with pytest.raises(InvalidInput):
                ledger.abandon(session, clock, record_uid, row.seq, epoch=1, reason="policy", evidence=evidence)
        ledger.abandon(session, clock, record_uid, row.seq, epoch=1, reason="policy", evidence=SAFE)
        assert states(session, record_uid) == {2: "abandoned", 1: "current"}
        assert ledger.versions(session, record_uid)[0].evidence == {"current": "accepted", "reason": "policy"}


def test_without_a_current_value_a_candidate_is_abandoned_when_it_was_not_applied(
    database: Database, clock: VirtualClock, record_uid: str
) -> None:
    with database.transaction() as session:
        row = stage(session, clock, record_uid)
        with pytest.raises(InvalidInput):
            ledger.abandon(session, clock, record_uid, row.seq, epoch=1, reason="policy", evidence={})
        ledger.abandon(
            session, clock, record_uid, row.seq, epoch=1, reason="policy", evidence={"effect": "not_applied"}
        )


def _try(session: Session, clock: VirtualClock, record_uid: str, to: VersionState) -> None:
    match to:
        case S.APPLYING:
            ledger.begin_applying(session, clock, record_uid, 1, 1)
        case S.CURRENT:
            ledger.promote(session, clock, record_uid, 1, epoch=1, evidence=PROVEN)
        case S.ABANDONED:
            ledger.abandon(session, clock, record_uid, 1, epoch=1, reason="policy", evidence=SAFE)
        case _:
            raise AssertionError(to)


ALLOWED = {
    VersionKind.CREDENTIAL: {
        (S.STAGED, S.APPLYING), (S.STAGED, S.ABANDONED), (S.APPLYING, S.APPLYING), (S.APPLYING, S.CURRENT),
        (S.APPLYING, S.ABANDONED),
    },
    VersionKind.RECORD: {(S.STAGED, S.CURRENT), (S.STAGED, S.ABANDONED)},
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "start", "to"), list(itertools.product(VersionKind, S, (S.APPLYING, S.CURRENT, S.ABANDONED)))
)
def test_states_move_along_the_arrows_and_no_other_way(
    database: Database, clock: VirtualClock, record_uid: str, kind: VersionKind, start: VersionState, to: VersionState
) -> None:
    with database.transaction() as session:
        row = stage(session, clock, record_uid, kind=kind)
        session.execute(update(CredentialVersion).where(CredentialVersion.id == row.id).values(state=start))
    with database.transaction() as session:
        if (start, to) in ALLOWED[kind]:
            _try(session, clock, record_uid, to)
            assert states(session, record_uid) == {1: to}
        else:
            with pytest.raises(StateError):
                _try(session, clock, record_uid, to)
            assert states(session, record_uid) == {1: start}


def test_a_client_that_commits_at_once_keeps_the_value_before(
    database: Database, clock: VirtualClock, record_uid: str
) -> None:
    with database.transaction() as session:
        ledger.operator_current(session, clock, record_uid, b"old", "operator")
        row = ledger.client_current(session, clock, record_uid, b"whole record", "client")
        assert (row.kind, row.evidence) == ("record", {"source": "client"})
        assert states(session, record_uid) == {2: "current", 1: "previous"}


def test_unknown_records_and_versions_are_refused(database: Database, clock: VirtualClock, record_uid: str) -> None:
    with database.transaction() as session:
        with pytest.raises(NotFound):
            stage(session, clock, new_uid())
        with pytest.raises(NotFound):
            ledger.promote(session, clock, record_uid, 7, epoch=1, evidence=PROVEN)

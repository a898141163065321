from __future__ import annotations

import pytest

from pam_jobs.db.tables import Job, JobKind, JobState, StoredRecord, VersionState
from pam_jobs.errors import NotFound, StateError
from pam_jobs.ids import new_uid
from pam_jobs.jobs.cancel import cancel
from pam_jobs.jobs.reconciler import reconcile_once
from pam_jobs.jobs.wire import PostStatus, Status
from pam_jobs.vault import records
from tests.support.attempts import CONTROL_SETTINGS, MINUTE, POLICY, ask, begin, reload, version
from tests.support.fleet import OPERATOR, Fleet


def stop(fleet: Fleet, job_uid: str) -> Job:
    with fleet.database.transaction() as session:
        return cancel(session, fleet.clock, OPERATOR, job_uid)


def test_a_waiting_job_is_cancelled_at_once(fleet: Fleet, record: str):
    job = ask(fleet, record)
    assert stop(fleet, job.uid).state == JobState.CANCELLED
    with pytest.raises(StateError):
        begin(fleet, job.uid)
    [event] = fleet.events("pam_job_cancelled")
    assert (event.username, event.fields["job_uid"]) == ("ada", job.uid)
    with pytest.raises(StateError, match="has ended"):
        stop(fleet, job.uid)


def test_a_leased_job_is_asked_to_stop_and_cannot_begin(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    attempt.stage()
    assert stop(fleet, job.uid).state == JobState.LEASED
    assert stop(fleet, job.uid).cancel_requested_at is not None  # asking again does no harm
    with pytest.raises(StateError, match="cancelled"):
        attempt.intend()
    assert version(fleet, record).state == VersionState.STAGED
    assert attempt.report(Status.CANCELLED).state == JobState.CANCELLED
    assert len(fleet.events("pam_job_cancel_requested")) == 1


def test_a_leased_job_that_is_asked_to_stop_stages_nothing(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    stop(fleet, job.uid)
    with pytest.raises(StateError, match="cancelled"):
        attempt.stage()
    assert attempt.release() == (JobState.CANCELLED, False)


def test_a_reconciliation_that_is_asked_to_stop_does_not_begin(fleet: Fleet, record: str):
    job = ask(fleet, record, JobKind.RECONCILE)
    attempt = begin(fleet, job.uid)
    stop(fleet, job.uid)
    with pytest.raises(StateError, match="cancelled"):
        attempt.fence()


def test_a_reconciliation_that_has_begun_is_not_cancelled(fleet: Fleet, record: str):
    job = ask(fleet, record, JobKind.RECONCILE)
    begin(fleet, job.uid).fence()
    with pytest.raises(StateError, match="has begun"):
        stop(fleet, job.uid)


def test_a_job_that_has_begun_is_not_cancelled(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    attempt.stage()
    attempt.intend()
    with pytest.raises(StateError, match="has begun"):
        stop(fleet, job.uid)
    attempt.report(Status.UNKNOWN)
    with pytest.raises(StateError, match="has begun"):
        stop(fleet, job.uid)
    attempt_again = ask(fleet, record)  # ends the back-off: queued, with a value that may be live
    assert attempt_again.state == JobState.QUEUED
    with pytest.raises(StateError, match="has begun"):
        stop(fleet, job.uid)
    assert reload(fleet, job.uid).state == JobState.QUEUED


@pytest.mark.parametrize("begun", ["promoted", "reconciled", "script"])
def test_a_job_whose_gateway_died_after_it_began_is_not_cancelled(fleet: Fleet, record: str, begun: str):
    job = ask(fleet, record, JobKind.RECONCILE if begun == "reconciled" else JobKind.ROTATE)
    attempt = begin(fleet, job.uid)
    if begun == "reconciled":
        attempt.fence()
    else:
        attempt.declare("script:1")
    if begun == "promoted":
        attempt.intend(attempt.stage())
        attempt.promote()
    elif begun == "script":
        attempt.start_step("script:1")
    fleet.clock.advance(MINUTE)
    reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)
    assert reload(fleet, job.uid).state == JobState.QUEUED
    with pytest.raises(StateError, match="has begun"):
        stop(fleet, job.uid)
    fleet.put(record, disabled=True)
    assert reload(fleet, job.uid).state == JobState.QUEUED, "what follows is still to be done"


def test_a_job_whose_gateway_died_before_it_began_is_cancelled(fleet: Fleet, record: str):
    job = ask(fleet, record)
    begin(fleet, job.uid).stage()
    fleet.clock.advance(MINUTE)
    reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)
    assert stop(fleet, job.uid).state == JobState.CANCELLED


def test_an_unknown_job_is_not_found(fleet: Fleet):
    with pytest.raises(NotFound):
        stop(fleet, new_uid())


def test_a_record_stays_while_a_job_of_it_waits_for_its_next_attempt(fleet: Fleet, record: str):
    attempt = begin(fleet, ask(fleet, record).uid)
    attempt.stage()
    attempt.intend()
    attempt.promote()
    assert attempt.report(Status.UNKNOWN, PostStatus.UNKNOWN).state == JobState.UNKNOWN  # its scripts are left
    with pytest.raises(StateError, match="is open"), fleet.database.transaction() as session:
        records.discard(session, session.get_one(StoredRecord, record))

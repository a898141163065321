"""Jobs that were set aside because they lost their leases, and what an operator does about them."""

from __future__ import annotations

import pytest

from pam_jobs.db.tables import Job, JobKind, JobState
from pam_jobs.errors import NotFound, StateError
from pam_jobs.ids import new_uid
from pam_jobs.jobs import poisoned
from pam_jobs.jobs.explain import explain, explain_record
from pam_jobs.jobs.reconciler import reconcile_once
from pam_jobs.jobs.submission import SCHEDULED
from tests.support.attempts import CONTROL_SETTINGS, MINUTE, POLICY, ask, begin, reload
from tests.support.fleet import OPERATOR, Fleet

pytestmark = pytest.mark.unit


def lose(fleet: Fleet, job_uid: str) -> None:
    """Let the job lose its leases until it is set aside."""
    policy = POLICY.model_copy(update={"attempts_limit": 12, "crash_limit": 2, "offline_seconds": 3600})
    for _ in range(policy.crash_limit):
        begin(fleet, job_uid, policy=policy)
        fleet.clock.advance(MINUTE)
        reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=policy)


def test_a_job_that_was_set_aside_pauses_its_schedule_and_is_done_again_when_an_operator_says(fleet: Fleet):
    record = fleet.scheduled()
    job = ask(fleet, record, trigger=SCHEDULED, schedule_uid=new_uid(), due_at=fleet.clock.now())
    lose(fleet, job.uid)
    assert (reload(fleet, job.uid).state, reload(fleet, job.uid).cause) == (JobState.WAITING_HUMAN, poisoned.CAUSE)
    row = fleet.row(record)
    assert row is not None
    assert row.paused
    assert fleet.events("pam_schedule_paused")[0].username == "control"
    with fleet.database.transaction() as session:
        [first, *_] = explain(session, fleet.clock, POLICY, session.get_one(Job, job.uid))
        assert f"do it again with `pam job resume {job.uid}`" in first
        assert any("it is paused since" in reason for reason in explain_record(session, fleet.clock, POLICY, record))
        successor = poisoned.resume(session, fleet.clock, OPERATOR, job.uid)
    assert (successor.kind, successor.record_uid, successor.state) == (JobKind.ROTATE, record, JobState.CREATED)
    row = fleet.row(record)
    assert row is not None
    assert not row.paused
    assert fleet.events("pam_job_resumed")[0].fields["successor_uid"] == successor.uid
    begin(fleet, successor.uid).report()
    assert reload(fleet, successor.uid).state == JobState.SUCCEEDED


def test_only_what_was_set_aside_is_resumed(fleet: Fleet, record: str):
    job = ask(fleet, record)
    with fleet.database.transaction() as session:
        with pytest.raises(StateError, match="was not set aside: it is created"):
            poisoned.resume(session, fleet.clock, OPERATOR, job.uid)
        with pytest.raises(NotFound):
            poisoned.resume(session, fleet.clock, OPERATOR, new_uid())

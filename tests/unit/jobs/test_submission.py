from __future__ import annotations

from datetime import timedelta

import pytest

from pam_jobs.audit.log import Actor
from pam_jobs.db.tables import JobKind, JobState
from pam_jobs.errors import Conflict, InvalidInput
from pam_jobs.ids import new_uid
from pam_jobs.jobs.cancel import cancel
from pam_jobs.jobs.submission import ON_DEMAND, SCHEDULED, submit
from tests.support.attempts import ask, ask_all, begin, outbox, reload
from tests.support.fleet import OPERATOR, Fleet


def test_a_new_job_comes_with_its_message_and_its_event(fleet: Fleet, record: str):
    job, is_new = ask_all(fleet, record)
    assert is_new
    assert (job.state, job.trigger, job.attempts, job.epoch) == (JobState.CREATED, "on_demand", 0, 0)
    assert outbox(fleet, job.uid) == 1
    [event] = fleet.events("pam_job_created")
    assert event.username == "ada"
    assert event.fields["job_uid"] == job.uid
    assert event.fields["record_uid"] == record


def test_nothing_is_left_of_a_submission_that_was_rolled_back(fleet: Fleet, record: str):
    def submit_and_fail() -> None:
        with fleet.database.transaction() as session:
            submit(
                session, fleet.clock, kind=JobKind.ROTATE, record_uid=record, gateway_uid=fleet.gateway_uid,
                configuration_uid=fleet.configuration_uid, trigger=ON_DEMAND, requested_by=OPERATOR,
            )  # fmt: skip
            raise RuntimeError

    with pytest.raises(RuntimeError):
        submit_and_fail()
    assert fleet.jobs(record) == []
    assert fleet.events("pam_job_created") == []


def test_a_request_joins_the_open_job_of_the_same_record_and_kind(fleet: Fleet, record: str):
    first = ask(fleet, record)
    joined, is_new = ask_all(fleet, record)
    assert (joined.uid, is_new) == (first.uid, False)
    assert [event.fields["job_uid"] for event in fleet.events("pam_job_joined")] == [first.uid]  # who asked is known
    other_kind, is_new = ask_all(fleet, record, JobKind.VERIFY)
    assert is_new
    assert other_kind.uid != first.uid
    begin(fleet, first.uid).report()
    assert ask_all(fleet, record)[1]


def test_one_scheduled_job_waits_for_a_record(fleet: Fleet, record: str):
    first = ask(fleet, record, trigger=SCHEDULED, schedule_uid=new_uid(), due_at=fleet.clock.now())
    second, is_new = ask_all(
        fleet, record, trigger=SCHEDULED, schedule_uid=new_uid(), due_at=fleet.clock.now() + timedelta(hours=1)
    )
    assert (second.uid, is_new) == (first.uid, False)
    begin(fleet, first.uid)
    third, is_new = ask_all(fleet, record, trigger=SCHEDULED, schedule_uid=new_uid(), due_at=fleet.clock.now())
    assert is_new  # the one that runs began before this one was due
    assert third.uid != first.uid


def test_the_same_schedule_and_due_time_are_always_the_same_job(fleet: Fleet, record: str):
    members = {"trigger": SCHEDULED, "schedule_uid": new_uid(), "due_at": fleet.clock.now(), "job_uid": new_uid()}
    first = ask(fleet, record, **members)
    begin(fleet, first.uid).report()
    again, is_new = ask_all(fleet, record, **members)
    assert (again.uid, again.state, is_new) == (first.uid, JobState.SUCCEEDED, False)
    other_uid, is_new = ask_all(fleet, record, **{**members, "job_uid": new_uid()})
    assert (other_uid.uid, is_new) == (first.uid, False)


def test_a_request_overtakes_a_scheduled_job_that_waits(fleet: Fleet, record: str):
    scheduled = ask(fleet, record, trigger=SCHEDULED, schedule_uid=new_uid(), due_at=fleet.clock.now())
    joined, is_new = ask_all(fleet, record)
    assert (joined.uid, is_new) == (scheduled.uid, False)


def test_a_request_ends_the_back_off_of_a_job_of_unknown_outcome(fleet: Fleet, record: str):
    job = ask(fleet, record)
    begin(fleet, job.uid).report("unknown", cause="connection_lost")
    assert reload(fleet, job.uid).not_before > fleet.clock.now()
    joined, is_new = ask_all(fleet, record)
    assert (joined.uid, is_new) == (job.uid, False)
    now = reload(fleet, job.uid)
    assert (now.state, now.not_before) == (JobState.QUEUED, None)
    assert outbox(fleet, job.uid) == 2
    assert begin(fleet, job.uid).claim.attempts == 2


def test_a_job_that_is_being_cancelled_is_not_joined(fleet: Fleet, record: str):
    first = ask(fleet, record)
    begin(fleet, first.uid)
    with fleet.database.transaction() as session:
        cancel(session, fleet.clock, OPERATOR, first.uid)
    assert ask_all(fleet, record)[1]


def test_an_idempotency_key_finds_the_same_job_also_after_its_end(fleet: Fleet, record: str):
    job = ask(fleet, record, idempotency_key="k1")
    begin(fleet, job.uid).report()
    again, is_new = ask_all(fleet, record, idempotency_key="k1")
    assert (again.uid, is_new) == (job.uid, False)


def test_a_different_request_under_the_same_key_is_refused(fleet: Fleet, record: str):
    ask(fleet, record, idempotency_key="k1")
    with pytest.raises(Conflict):
        ask(fleet, record, JobKind.VERIFY, idempotency_key="k1")
    with pytest.raises(Conflict):
        ask(fleet, record, parameters={"other": True}, idempotency_key="k1")


def test_a_key_is_its_users_own(fleet: Fleet, record: str):
    job = ask(fleet, record, idempotency_key="k1")
    other, is_new = ask_all(
        fleet, record, JobKind.VERIFY, idempotency_key="k1", requested_by=Actor(username="somebody else")
    )
    assert is_new
    assert other.uid != job.uid


def test_a_key_sent_with_a_request_that_joined_finds_the_joined_job_later(fleet: Fleet, record: str):
    job = ask(fleet, record)
    ask(fleet, record, idempotency_key="k1")
    begin(fleet, job.uid).report()
    assert ask(fleet, record, idempotency_key="k1").uid == job.uid


@pytest.mark.parametrize("members", [{"trigger": "often"}, {"idempotency_key": ""}, {"idempotency_key": "x" * 201}])
def test_a_malformed_request_is_refused_before_anything_is_written(fleet: Fleet, record: str, members: dict):
    with pytest.raises(InvalidInput):
        ask(fleet, record, **members)
    assert fleet.jobs(record) == []

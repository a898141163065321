from __future__ import annotations

from datetime import timedelta

import pytest

from pam_jobs.db.tables import Gateway, GatewayInstance, Job, JobKind, JobState, ResourceLink
from pam_jobs.ids import new_uid
from pam_jobs.jobs.cancel import cancel
from pam_jobs.jobs.explain import explain, explain_record
from pam_jobs.jobs.submission import SCHEDULED
from pam_jobs.jobs.wire import PostStatus, Status
from pam_jobs.rotation import gateways
from tests.support.attempts import MINUTE, POLICY, ask, begin, refused
from tests.support.fleet import OPERATOR, Fleet


def why(fleet: Fleet, job_uid: str) -> str:
    with fleet.database.transaction(read_only=True) as session:
        return "\n".join(explain(session, fleet.clock, POLICY, session.get_one(Job, job_uid)))


def test_a_job_waits_for_a_gateway_that_is_online(fleet: Fleet, record: str):
    told = why(fleet, ask(fleet, record).uid)
    assert "waits for gateway 'office' since 2026-03-02T12:00:00+00:00" in told
    assert "its message is not sent yet" in told


def test_a_job_waits_for_a_gateway_that_is_offline_or_was_never_there(fleet: Fleet, record: str):
    job = ask(fleet, record)
    fleet.clock.advance(MINUTE)
    assert "is offline and was last heard of at 2026-03-02T12:00:00+00:00" in why(fleet, job.uid)
    with fleet.database.transaction() as session:
        session.delete(session.get_one(GatewayInstance, (fleet.gateway_uid, "i1")))
    assert "was never online: start it with `pam gateway start`" in why(fleet, job.uid)
    with fleet.database.transaction() as session:
        session.get_one(Gateway, fleet.gateway_uid).removed_at = fleet.clock.now()
    assert "was removed" in why(fleet, job.uid)


def test_a_job_waits_behind_another_of_the_same_credential(fleet: Fleet, record: str):
    first, second = ask(fleet, record), ask(fleet, record, JobKind.VERIFY)
    begin(fleet, first.uid)
    refused(begin, fleet, second.uid)
    told = why(fleet, second.uid)
    assert f"job {first.uid} works on the same credential" in told
    assert "is not to start before" in told
    assert "works on 1 other job" in told


def test_a_job_whose_record_is_not_ready_any_more_says_so(fleet: Fleet, record: str):
    job = ask(fleet, record)
    with fleet.database.transaction() as session:
        session.get_one(ResourceLink, fleet.resource_uid).admin_uid = None
    told = why(fleet, job.uid)
    assert "would not succeed now: " in told
    assert "admin" in told


def test_a_held_job_says_how_far_it_is(fleet: Fleet, record: str):
    job = ask(fleet, record)
    attempt = begin(fleet, job.uid)
    assert "instance i1 has it since" in why(fleet, job.uid)
    attempt.stage()
    attempt.intend()
    assert "has begun to change the target" in why(fleet, job.uid)
    fleet.clock.advance(MINUTE)
    assert "has not been heard of since its lease ended" in why(fleet, job.uid)


def test_a_job_that_is_being_cancelled_says_so(fleet: Fleet, record: str):
    job = ask(fleet, record)
    begin(fleet, job.uid)
    with fleet.database.transaction() as session:
        cancel(session, fleet.clock, OPERATOR, job.uid)
    assert "was asked at 2026-03-02T12:00:00+00:00 to stop" in why(fleet, job.uid)


def test_an_unknown_outcome_says_when_it_is_tried_again(fleet: Fleet, record: str):
    job = ask(fleet, record)
    begin(fleet, job.uid).report(Status.UNKNOWN, cause="connection_lost", retry_after_seconds=20)
    told = why(fleet, job.uid)
    assert "(connection_lost); both values are kept" in told
    assert "at 2026-03-02T12:00:20+00:00, 3 more times" in told
    fleet.clock.advance(timedelta(seconds=20))
    assert "at the next pass of the control process" in why(fleet, job.uid)


@pytest.mark.parametrize(
    ("status", "post", "words"),
    [
        (Status.OK, PostStatus.NONE, "with success"),
        (Status.FAILED, PostStatus.NOT_RUN, "nothing was changed on the target"),
        (Status.OK, PostStatus.FAILED, "scripts did not all succeed"),
        (Status.PARTIAL, PostStatus.OK, "one of password and key was changed"),
        (Status.ROLLED_BACK, PostStatus.FAILED, "was set back and logs in"),
        (Status.ROLLBACK_REFUSED, PostStatus.FAILED, "the target refused the former credential"),
        (Status.WAITING_HUMAN, PostStatus.NOT_RUN, "an operator must decide"),
        (Status.CANCELLED, PostStatus.NOT_RUN, "cancelled"),
    ],
)
def test_an_ended_job_says_how(fleet: Fleet, record: str, status: Status, post: PostStatus, words: str):
    job = ask(fleet, record)
    begin(fleet, job.uid).report(status, post)
    assert words in why(fleet, job.uid)


def test_every_state_has_an_explanation(fleet: Fleet, record: str):
    job = ask(fleet, record)
    for state in JobState:
        with fleet.database.transaction() as session:
            session.get_one(Job, job.uid).state = state
        assert why(fleet, job.uid)


def told_of(fleet: Fleet, record_uid: str) -> str:
    with fleet.database.transaction(read_only=True) as session:
        return "\n".join(explain_record(session, fleet.clock, POLICY, record_uid))


def test_a_waiting_job_says_its_place_in_the_line_and_where_it_comes_from(fleet: Fleet, record: str):
    others = [fleet.add_record() for _ in range(2)]
    for uid in others:
        fleet.put(uid)
    first = ask(fleet, others[0], trigger=SCHEDULED, schedule_uid=new_uid(), due_at=fleet.clock.now())
    fleet.clock.advance(timedelta(seconds=1))
    planned = ask(fleet, record, trigger=SCHEDULED, schedule_uid=new_uid(), due_at=fleet.clock.now())
    asked = ask(fleet, others[1])
    assert "it is the next job that its gateway begins" in why(fleet, asked.uid)
    assert "ada asked for it at 2026-03-02T12:00:01+00:00" in why(fleet, asked.uid)
    told = why(fleet, planned.uid)
    assert "2 jobs of its PAM configuration go before it (1 on demand, 1 scheduled)" in told
    assert "its schedule made it, due at 2026-03-02T12:00:01+00:00" in told
    assert "1 job of its PAM configuration" in why(fleet, first.uid)


def test_a_job_that_a_limit_keeps_waiting_names_it_and_the_command(fleet: Fleet, record: str):
    other = fleet.add_record()
    fleet.put(other)
    with fleet.database.transaction() as session:
        gateways.change(session, fleet.clock, OPERATOR, fleet.gateway_uid, job_limit=1)
    begin(fleet, ask(fleet, other).uid)
    told = why(fleet, ask(fleet, record).uid)
    assert "works on 1 job, and its limit is 1: raise it with `pam gateway edit --gateway office --job-limit N`" in told
    with fleet.database.transaction() as session:
        gateways.drain(session, fleet.clock, OPERATOR, fleet.gateway_uid)
    assert "is drained since 2026-03-02 12:00:00 UTC and begins nothing" in told_of(fleet, record)


def test_a_record_says_when_it_runs_next_and_what_stands_against_it(fleet: Fleet, record: str):
    assert "no schedule rotates it: it is rotated on demand alone" in told_of(fleet, record)
    planned = fleet.scheduled()
    assert "its schedule (rotate, " in told_of(fleet, planned)
    assert "runs next at 2026-03-02T13:00:00+00:00" in told_of(fleet, planned)
    job = ask(fleet, planned)
    assert f"job {job.uid} (rotate) is created: it is the next job that its gateway begins" in told_of(fleet, planned)
    begin(fleet, job.uid).report(Status.FAILED, cause="unreachable")
    assert f"the latest job that ended is {job.uid} (rotate): failed (unreachable)" in told_of(fleet, planned)
    with fleet.database.transaction() as session:
        session.get_one(ResourceLink, fleet.resource_uid).admin_uid = None
    assert "has no admin: name the user record" in told_of(fleet, planned)
    assert "rotation is not set up" in told_of(fleet, fleet.add_record())

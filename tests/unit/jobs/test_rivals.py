from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from pam_jobs.db.tables import Job, JobKind, JobState
from pam_jobs.errors import StateError
from pam_jobs.jobs import explain, rivals
from pam_jobs.rotation import resources
from tests.support.attempts import MINUTE, POLICY, ask, begin, refused, register, reload
from tests.support.fleet import OPERATOR, Fleet


@pytest.fixture
def pair(fleet: Fleet) -> tuple[str, str]:
    """Two administrators of one server, each changed by the other."""
    admins = fleet.add_record(), fleet.add_record()
    for admin, other in (admins, admins[::-1]):
        resource = fleet.add_record()
        with fleet.database.transaction() as session:
            members = {"configuration_uid": fleet.configuration_uid, "admin_uid": other}
            resources.put(session, fleet.clock, OPERATOR, resource, **members)
        fleet.put(admin, resource_uid=resource)
    return admins


def published(fleet: Fleet, record: str, kind: JobKind = JobKind.ROTATE) -> str:
    uid = ask(fleet, record, kind).uid
    with fleet.database.transaction() as session:
        session.get_one(Job, uid).state = JobState.QUEUED
    return uid


def waits(fleet: Fleet, uid: str, words: str) -> None:
    refusal = refused(begin, fleet, uid)
    assert refusal is not None
    assert words in refusal.message
    job = reload(fleet, uid)
    assert (job.state, job.cause) == (JobState.QUEUED, rivals.CAUSE)
    assert job.not_before == fleet.clock.now() + timedelta(seconds=POLICY.busy_seconds)
    with fleet.database.transaction(read_only=True) as session:
        assert words in explain.explain(session, fleet.clock, POLICY, job)[0]


def later(fleet: Fleet) -> None:
    fleet.clock.advance(timedelta(seconds=POLICY.busy_seconds))


def test_two_administrators_are_changed_one_after_the_other(fleet: Fleet, pair: tuple[str, str]):
    first, second = published(fleet, pair[0]), published(fleet, pair[1])
    attempt = begin(fleet, first)
    waits(fleet, second, f"job {first} changes the credential")
    attempt.report()
    later(fleet)
    assert begin(fleet, second).claim.record_uid == pair[1]


def test_claims_at_the_same_instant_take_one_of_them(fleet: Fleet, pair: tuple[str, str]):
    for _ in range(5):
        jobs = [published(fleet, admin) for admin in pair]
        together = threading.Barrier(2)

        def take(uid: str, together: threading.Barrier = together) -> bool:
            together.wait(10)
            return refused(begin, fleet, uid) is None

        with ThreadPoolExecutor(2) as pool:
            taken = list(pool.map(take, jobs))
        assert sorted(taken) == [False, True]
        fleet.clock.advance(MINUTE)  # both leases end
        register(fleet, f"i{fleet.clock.now().timestamp()}")
        for uid in jobs:
            _end(fleet, uid)


def _end(fleet: Fleet, uid: str) -> None:
    with fleet.database.transaction() as session:
        session.get_one(Job, uid).state = JobState.SUCCEEDED


def test_users_wait_while_their_administrator_is_changed(fleet: Fleet, record: str):
    fleet.put(fleet.admin_uid)
    change = begin(fleet, published(fleet, fleet.admin_uid))
    user = published(fleet, record)
    waits(fleet, user, "changes the credential of the target's administrator")
    change.report()
    later(fleet)
    begin(fleet, user)


def test_a_verification_of_the_administrator_keeps_nobody_away(fleet: Fleet, record: str):
    fleet.put(fleet.admin_uid)
    begin(fleet, published(fleet, fleet.admin_uid, JobKind.VERIFY))
    begin(fleet, published(fleet, record))


def test_a_verification_waits_for_nobody(fleet: Fleet, record: str):
    fleet.put(fleet.admin_uid)
    begin(fleet, published(fleet, fleet.admin_uid))
    begin(fleet, published(fleet, record, JobKind.VERIFY))


def test_the_change_of_an_administrator_waits_for_those_who_use_it_and_has_the_next_turn(fleet: Fleet, record: str):
    fleet.put(fleet.admin_uid)
    user = begin(fleet, published(fleet, record))
    change = published(fleet, fleet.admin_uid)
    waits(fleet, change, f"job {user.claim.job_uid} logs in as this administrator")
    another = fleet.add_record()
    fleet.put(another)
    behind = published(fleet, another)
    waits(fleet, behind, f"job {change} is about to change")
    user.report()
    later(fleet)
    begin(fleet, change).report()
    later(fleet)
    begin(fleet, behind)


def test_a_turn_that_nobody_takes_is_given_away(fleet: Fleet, record: str):
    fleet.put(fleet.admin_uid)
    user = begin(fleet, published(fleet, record))
    with pytest.raises(StateError):
        begin(fleet, published(fleet, fleet.admin_uid))
    user.report()
    fleet.clock.advance(MINUTE)
    begin(fleet, published(fleet, record))


def test_an_attempt_whose_lease_ended_keeps_nobody_away(fleet: Fleet, pair: tuple[str, str]):
    begin(fleet, published(fleet, pair[0]))
    fleet.clock.advance(MINUTE)
    begin(fleet, published(fleet, pair[1]))


def test_many_users_of_one_administrator_work_at_once(fleet: Fleet, record: str):
    for _ in range(3):
        uid = fleet.add_record()
        fleet.put(uid)
        begin(fleet, published(fleet, uid))
    begin(fleet, published(fleet, record))

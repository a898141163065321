from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text, update

from pam_jobs.clock import VirtualClock
from pam_jobs.db.tables import Job, JobKind, JobState
from pam_jobs.errors import EpochConflict, LeaseLost, StateError
from pam_jobs.jobs import explain, rivals, set_aside
from pam_jobs.jobs.cancel import cancel
from pam_jobs.jobs.reconciler import reconcile_once
from pam_jobs.jobs.states import FINAL
from pam_jobs.jobs.wire import TARGET_BUSY, Status
from pam_jobs.rotation import resources
from tests.support.attempts import (
    CONTROL_SETTINGS,
    MINUTE,
    POLICY,
    SECRET,
    Attempt,
    ask,
    begin,
    outbox,
    register,
    reload,
)
from tests.support.database import open_database
from tests.support.fleet import OPERATOR, Fleet

NAME, ADDRESS, ELSEWHERE = "server_by-its_name_tag", "server-by_its-addresst", "a_server_somewhere-els"
PACE = timedelta(seconds=POLICY.backoff_seconds)


def administrator(fleet: Fleet) -> str:
    """Add a record whose account changes itself, as the administrator of a resource of its own."""
    uid, resource = fleet.add_record(), fleet.add_record()
    with fleet.database.transaction() as session:
        members = {"configuration_uid": fleet.configuration_uid, "admin_uid": uid}
        resources.put(session, fleet.clock, OPERATOR, resource, **members)
    fleet.put(uid, resource_uid=resource)
    return uid


@pytest.fixture
def pair(fleet: Fleet) -> tuple[str, str]:
    """Two administrators on two resource records; the first one's jobs are the older ones."""
    return administrator(fleet), administrator(fleet)


def published(fleet: Fleet, record: str, kind: JobKind = JobKind.ROTATE) -> str:
    uid = ask(fleet, record, kind).uid
    with fleet.database.transaction() as session:
        session.get_one(Job, uid).state = JobState.QUEUED
    fleet.clock.advance(timedelta(seconds=1))
    return uid


def attempts(fleet: Fleet, records: tuple[str, str]) -> tuple[Attempt, Attempt]:
    """Claim a rotation of each."""
    first, second = (begin(fleet, published(fleet, record)) for record in records)
    return first, second


def again(fleet: Fleet, attempt: Attempt) -> Attempt:
    """Claim the job once more, when its time has come."""
    job = reload(fleet, attempt.claim.job_uid)
    if job.not_before is not None:
        fleet.clock.advance(max(job.not_before - fleet.clock.now(), timedelta()))
    return begin(fleet, job.uid)


def cut_off(attempt: Attempt) -> None:
    """Let the target have a value, and report that nothing more is known."""
    attempt.intend(attempt.stage(SECRET))
    attempt.report(Status.UNKNOWN, effect="unknown", cause="connection_lost", retry_after_seconds=1)


def reasons(fleet: Fleet, attempt: Attempt) -> str:
    with fleet.database.transaction(read_only=True) as session:
        return "\n".join(explain.explain(session, fleet.clock, POLICY, session.get_one(Job, attempt.claim.job_uid)))


def change(fleet: Fleet, job_uid: str, **columns: Any) -> None:
    with fleet.database.transaction() as session:
        session.execute(update(Job).where(Job.uid == job_uid).values(**columns))


def tags_left(fleet: Fleet) -> int:
    with fleet.database.transaction(read_only=True) as session:
        return session.scalar(text("SELECT count(*) FROM jobs WHERE target_tags IS NOT NULL")) or 0


def test_a_claim_tells_whether_the_account_administers_something(fleet: Fleet, pair: tuple[str, str], record: str):
    assert begin(fleet, published(fleet, pair[0])).claim.administers is True
    assert begin(fleet, published(fleet, record)).claim.administers is False


def test_two_administrators_of_one_server_are_changed_one_after_the_other(fleet: Fleet, pair: tuple[str, str]):
    first, second = attempts(fleet, pair)
    assert first.take(NAME, ADDRESS) is None
    assert second.take(ADDRESS) == first.claim.job_uid
    job = reload(fleet, second.claim.job_uid)
    assert (job.state, job.cause, job.attempts, job.lease_until) == (JobState.QUEUED, rivals.CAUSE, 0, None)
    assert job.not_before == fleet.clock.now() + PACE
    assert f"it waits its turn: job {first.claim.job_uid} changes another administrator" in reasons(fleet, second)
    assert [event.fields["result_code"] for event in fleet.events("pam_job_released")] == [rivals.CAUSE]
    ended = first.report()
    assert (ended.publish, outbox(fleet, job.uid)) == ((job.uid,), 2)
    assert first.claim.job_uid not in reasons(fleet, second)
    assert again(fleet, second).take(ADDRESS) is None


def test_administrators_of_different_servers_are_changed_at_once(fleet: Fleet, pair: tuple[str, str]):
    first, second = attempts(fleet, pair)
    assert [first.take(NAME, ADDRESS), second.take(ELSEWHERE)] == [None, None]


def test_attempts_that_ask_two_routers_at_the_same_instant_are_let_go_on_one_by_one(fleet: Fleet, database_url: str):
    records = [administrator(fleet) for _ in range(3)]
    routers = [fleet.database, open_database(database_url)]
    for _ in range(5):
        asking = [begin(fleet, published(fleet, record)) for record in records]
        together = threading.Barrier(len(asking))

        def take(number: int, asking: list[Attempt] = asking, together: threading.Barrier = together) -> bool:
            attempt = asking[number]
            by = replace(attempt, fleet=replace(attempt.fleet, database=routers[number % 2]))
            together.wait(10)
            return by.take(NAME, ADDRESS) is None

        with ThreadPoolExecutor(len(asking)) as pool:
            assert sorted(pool.map(take, range(len(asking)))) == [False, False, True]
        fleet.clock.advance(MINUTE)
        with fleet.database.transaction() as session:
            session.execute(update(Job).values(state=JobState.SUCCEEDED))
        register(fleet, f"i{fleet.clock.now().timestamp()}")
    routers[1].dispose()


def test_the_same_call_again_gets_the_same_answer(fleet: Fleet, pair: tuple[str, str]):
    first, second = attempts(fleet, pair)
    assert [first.take(NAME), first.take(NAME)] == [None, None]
    assert second.take(NAME) == first.claim.job_uid
    with pytest.raises(LeaseLost):
        second.take(NAME)


def test_a_late_attempt_is_refused_and_takes_no_tag(fleet: Fleet, pair: tuple[str, str]):
    late, second = attempts(fleet, pair)
    fleet.clock.advance(MINUTE)
    register(fleet, "i2")
    newer = begin(fleet, late.claim.job_uid, "i2")
    with pytest.raises(EpochConflict):
        late.take(NAME)
    assert tags_left(fleet) == 0
    second = begin(fleet, second.claim.job_uid, "i2")
    assert (newer.take(NAME), second.take(NAME)) == (None, newer.claim.job_uid)


def test_an_attempt_that_was_cut_off_keeps_the_others_away_until_its_end(fleet: Fleet, pair: tuple[str, str]):
    first, second = attempts(fleet, pair)
    assert first.take(NAME) is None
    cut_off(first)
    assert second.take(NAME) == first.claim.job_uid
    assert f"job {first.claim.job_uid} was cut off" in reasons(fleet, second)
    fleet.clock.advance(timedelta(seconds=1))
    # Its pause is over: it is queued, and unknown no more.
    reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)
    assert reload(fleet, first.claim.job_uid).state == JobState.QUEUED
    second = again(fleet, second)
    assert second.take(NAME) == first.claim.job_uid
    first = again(fleet, first)
    second = again(fleet, second)
    assert second.take(NAME) == first.claim.job_uid, "it is at work again, and has not asked yet"
    assert first.take(NAME) is None, "its own tags do not stand against it"
    first.promote(report=first.reported())
    assert again(fleet, second).take(NAME) is None


def test_an_attempt_whose_lease_ended_after_it_sent_a_value_keeps_the_others_away(fleet: Fleet, pair: tuple[str, str]):
    first, second = attempts(fleet, pair)
    first.take(NAME)
    first.intend(first.stage())
    fleet.clock.advance(MINUTE)
    register(fleet, "i2")
    second = begin(fleet, second.claim.job_uid, "i2")
    assert second.take(NAME) == first.claim.job_uid


def test_a_reconciliation_that_was_cut_off_keeps_the_others_away(fleet: Fleet, pair: tuple[str, str]):
    first, second = (
        begin(fleet, published(fleet, record, kind))
        for record, kind in zip(pair, (JobKind.RECONCILE, JobKind.ROTATE), strict=True)
    )
    first.take(NAME)
    first.fence()
    first.report(Status.UNKNOWN, effect="unknown", cause="connection_lost")
    assert second.take(NAME) == first.claim.job_uid


@pytest.mark.parametrize("end", ["taken_back", "claimed_anew"])
def test_a_reconciliation_whose_gateway_died_keeps_the_others_away(fleet: Fleet, pair: tuple[str, str], end: str):
    first, second = (
        begin(fleet, published(fleet, record, kind))
        for record, kind in zip(pair, (JobKind.RECONCILE, JobKind.ROTATE), strict=True)
    )
    first.take(NAME)
    first.fence()
    fleet.clock.advance(MINUTE)
    register(fleet, "i2")
    if end == "taken_back":
        reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)
    else:
        begin(fleet, first.claim.job_uid, "i2")
    second = begin(fleet, second.claim.job_uid, "i2")
    assert second.take(NAME) == first.claim.job_uid


def test_a_job_whose_target_is_set_aside_waits_for_an_operator_and_keeps_nobody_away(
    fleet: Fleet, pair: tuple[str, str]
):
    first, second = attempts(fleet, pair)
    first.take(NAME)
    cut_off(first)
    change(fleet, first.claim.job_uid, state=JobState.QUEUED, cause=set_aside.CAUSE)
    assert second.take(NAME) is None


@pytest.mark.parametrize("end", ["released", "lease"])
def test_an_attempt_that_sent_nothing_keeps_nobody_away_once_it_is_over(fleet: Fleet, pair: tuple[str, str], end: str):
    first, second = attempts(fleet, pair)
    first.take(NAME)
    first.stage()
    if end == "released":
        first.release(TARGET_BUSY)
    else:
        fleet.clock.advance(MINUTE)
        reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)
        register(fleet, "i2")
        second = begin(fleet, second.claim.job_uid, "i2")
    assert second.take(NAME) is None


def test_an_attempt_whose_lease_still_lasts_by_another_routers_clock_keeps_the_others_away(
    fleet: Fleet, pair: tuple[str, str]
):
    first, second = attempts(fleet, pair)
    first.take(NAME)
    seq, behind = first.stage(), VirtualClock(fleet.clock.now())
    fleet.clock.advance(MINUTE)
    register(fleet, "i2")
    second = begin(fleet, second.claim.job_uid, "i2")
    assert second.take(NAME) == first.claim.job_uid
    replace(first, fleet=replace(fleet, clock=behind)).intend(seq)
    fleet.clock.advance(PACE)
    second = begin(fleet, second.claim.job_uid, "i2")
    assert second.take(NAME) == first.claim.job_uid


def test_scripts_that_are_left_to_run_keep_nobody_away(fleet: Fleet, pair: tuple[str, str]):
    first, second = attempts(fleet, pair)
    first.take(NAME)
    first.intend(first.stage())
    first.promote()
    first.report(Status.UNKNOWN, effect="applied")
    assert second.take(NAME) is None


def test_a_job_that_waits_for_an_operator_keeps_nobody_away(fleet: Fleet, pair: tuple[str, str]):
    first, second = attempts(fleet, pair)
    first.take(NAME)
    first.intend(first.stage())
    first.report(Status.WAITING_HUMAN, effect="unknown", cause="out_of_sync")
    assert second.take(NAME) is None


@pytest.mark.parametrize("who", [0, 1])
def test_of_two_that_were_cut_off_the_older_one_goes_first_whoever_asks_first(
    fleet: Fleet, pair: tuple[str, str], who: int
):
    both = attempts(fleet, pair)
    for attempt, tag in zip(both, (NAME, ELSEWHERE), strict=True):
        assert attempt.take(tag) is None
        cut_off(attempt)
    fleet.clock.advance(timedelta(seconds=POLICY.backoff_cap_seconds))
    first, second = (begin(fleet, attempt.claim.job_uid) for attempt in both)
    told = {}  # by now both names lead to one server
    for attempt in (first, second)[:: 1 if who == 0 else -1]:
        told[attempt.claim.job_uid] = attempt.take(ADDRESS, NAME, ELSEWHERE)
    assert told == {first.claim.job_uid: None, second.claim.job_uid: first.claim.job_uid}
    first.promote(report=first.reported())
    assert again(fleet, second).take(ADDRESS) is None


def test_an_administrator_that_waits_keeps_its_users_from_nothing(fleet: Fleet, record: str, pair: tuple[str, str]):
    fleet.put(fleet.admin_uid)
    first, second = attempts(fleet, (pair[0], fleet.admin_uid))
    first.take(NAME)
    assert second.take(NAME) == first.claim.job_uid
    begin(fleet, published(fleet, record))


@pytest.mark.parametrize(
    "end", ["reported", "given_up", "cancelled", "cancelled_at_work", "lost", "lost_cancelled", "expired"]
)
def test_tags_are_gone_when_the_job_has_ended(fleet: Fleet, pair: tuple[str, str], end: str):
    first = begin(fleet, published(fleet, pair[0]))
    uid = first.claim.job_uid
    first.take(NAME)
    assert tags_left(fleet) == 1
    if "cancelled_" in end or "_cancelled" in end:
        change(fleet, uid, cancel_requested_at=fleet.clock.now())
    if end == "reported":
        first.report()
    elif end in {"given_up", "cancelled_at_work"}:
        change(fleet, uid, attempts=POLICY.attempts_limit)
        first.release("vault_unavailable")
    elif end == "cancelled":
        first.release()
        with fleet.database.transaction() as session:
            cancel(session, fleet.clock, OPERATOR, uid)
    elif end == "expired":
        first.release()
        change(fleet, uid, expires_at=fleet.clock.now())
        reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)
    else:
        change(fleet, uid, crashes=POLICY.crash_limit)
        fleet.clock.advance(MINUTE)
        reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)
    assert reload(fleet, uid).state in FINAL
    assert tags_left(fleet) == 0


def test_tags_of_an_earlier_attempt_stay_with_the_job_and_have_a_bound(fleet: Fleet, pair: tuple[str, str]):
    first, second = attempts(fleet, pair)
    first.take(NAME)
    cut_off(first)
    fleet.clock.advance(timedelta(seconds=POLICY.backoff_cap_seconds))
    first = begin(fleet, first.claim.job_uid)
    assert first.take(ADDRESS) is None
    second = begin(fleet, second.claim.job_uid)
    assert second.take(NAME) == first.claim.job_uid
    for turn in range(3):
        assert first.take(*(f"{turn:02}-{number:02}-{'x' * 16}" for number in range(32))) is None
    assert len((reload(fleet, first.claim.job_uid).target_tags or "").split()) == 32


def test_a_cancelled_job_is_not_queued_again(fleet: Fleet, pair: tuple[str, str]):
    first, second = attempts(fleet, pair)
    first.take(NAME)
    change(fleet, second.claim.job_uid, cancel_requested_at=fleet.clock.now())
    assert second.take(NAME) == first.claim.job_uid
    assert reload(fleet, second.claim.job_uid).state == JobState.CANCELLED


def test_a_job_that_changes_nothing_takes_no_tag(fleet: Fleet, pair: tuple[str, str]):
    attempt = begin(fleet, published(fleet, pair[0], JobKind.PLAN))
    with pytest.raises(StateError, match="changes no credential"):
        attempt.take(NAME)

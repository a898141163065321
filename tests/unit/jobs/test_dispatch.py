"""Which job a message becomes: priorities, turns, limits, calendars and drains, at the claim."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from pam_jobs.db.engine import Database
from pam_jobs.db.tables import (
    CalendarUse,
    Client,
    Gateway,
    JobKind,
    JobState,
    PamConfiguration,
    Priority,
    ResourceLink,
)
from pam_jobs.errors import AccessDenied, InvalidInput
from pam_jobs.ids import new_uid
from pam_jobs.jobs import dispatch, turns, wire
from pam_jobs.jobs.lease import Busy
from pam_jobs.jobs.submission import SCHEDULED
from pam_jobs.rotation import calendars, configurations, gateways
from tests.support.attempts import MINUTE, POLICY, ask, outbox, register, reload
from tests.support.claims import busy, limit, one, order, other_configuration, other_target, take, taken
from tests.support.fleet import OPERATOR, Fleet

pytestmark = pytest.mark.unit


def test_on_demand_goes_before_scheduled_and_that_before_background(fleet: Fleet):
    look = one(fleet, kind=JobKind.VERIFY, trigger=SCHEDULED)
    planned = [one(fleet, trigger=SCHEDULED) for _ in range(2)]
    asked = [one(fleet), one(fleet, kind=JobKind.VERIFY)]
    assert order(fleet, [look, *planned, *asked]) == [*asked, *planned, look]


def test_who_asks_for_what_waits_already_lifts_it_before_the_rest(fleet: Fleet, record: str):
    first = one(fleet, trigger=SCHEDULED)
    job = ask(fleet, record, trigger=SCHEDULED, schedule_uid=new_uid(), due_at=fleet.clock.now())
    assert job.priority == Priority.SCHEDULED
    assert ask(fleet, record).uid == job.uid
    assert reload(fleet, job.uid).priority == Priority.ON_DEMAND
    assert order(fleet, [first, job.uid]) == [job.uid, first]


def test_a_flood_of_one_configuration_leaves_the_others_their_turns(fleet: Fleet):
    quiet = other_configuration(fleet)
    flood = [one(fleet) for _ in range(6)]
    mine = [one(fleet, quiet) for _ in range(2)]
    begun = order(fleet, [*flood, *mine])
    assert [uid for uid in begun if uid in flood] == flood
    assert max(begun.index(uid) for uid in mine) <= 3  # every other turn, not behind the flood


def test_of_the_places_each_configuration_gets_as_many(fleet: Fleet):
    quiet = other_configuration(fleet)
    flood = [one(fleet) for _ in range(6)]
    held = [taken(fleet, hint) for hint in flood[:4]]  # long ones, which nobody shared the gateway with
    mine = [one(fleet, quiet) for _ in range(3)]
    begun = [taken(fleet, hint).claim.job_uid for hint in mine]
    assert begun == mine  # three beside four
    assert len(held) == 4


def test_a_flood_on_demand_does_not_starve_what_is_scheduled(fleet: Fleet):
    policy = POLICY.model_copy(update={"patience_seconds": 60})
    planned = one(fleet, trigger=SCHEDULED)
    asked = [one(fleet) for _ in range(3)]
    assert order(fleet, [planned, asked[0]], policy=policy) == asked[:2]  # nobody's patience is over
    fleet.clock.advance(timedelta(seconds=61))
    asked += [one(fleet) for _ in range(8)]
    begun = order(fleet, asked[2:9], policy=policy)
    assert begun.index(planned) == 3
    assert [uid for uid in begun if uid != planned] == asked[2:8]


def test_a_limit_of_the_gateway_holds_and_the_next_begins_when_a_place_is_free(fleet: Fleet):
    limit(fleet, Gateway, fleet.gateway_uid, job_limit=2)
    jobs = [one(fleet) for _ in range(4)]
    first, second = taken(fleet, jobs[0]), taken(fleet, jobs[1])
    assert "its limit is 2: raise it with `pam gateway edit --gateway office" in busy(fleet, jobs[2])
    assert reload(fleet, jobs[2]).cause == "job_limit"
    busy(fleet, jobs[3])
    assert first.report().publish == (jobs[2],)  # one place, one message
    assert outbox(fleet, jobs[2]) == 2
    third = taken(fleet, jobs[2])
    assert reload(fleet, jobs[2]).cause is None
    assert second.report().publish == (jobs[3],)
    fourth = taken(fleet, jobs[3])
    assert third.report().publish == ()
    assert "has ended" in busy(fleet, jobs[0])  # nothing waits any more, and that is noted
    assert fourth.report().publish == ()


def test_a_limit_of_a_configuration_leaves_the_gateway_to_the_others(fleet: Fleet):
    limited = other_configuration(fleet)
    limit(fleet, PamConfiguration, limited, job_limit=1)
    jobs = [one(fleet, limited) for _ in range(2)]
    mine = one(fleet)
    held = {attempt.claim.job_uid: attempt for attempt in (taken(fleet, jobs[0]), taken(fleet, jobs[1]))}
    assert set(held) == {jobs[0], mine}
    assert "its limit is 1: raise it with `pam config edit" in busy(fleet, jobs[1])
    assert held[jobs[0]].report().publish == (jobs[1],)


@pytest.mark.parametrize("own", [True, False])
def test_a_limit_of_a_target_leaves_the_other_targets_their_jobs(fleet: Fleet, own: bool):
    calm = other_target(fleet)
    limit(fleet, PamConfiguration, fleet.configuration_uid, target_limit=2 if own else 1)
    if own:
        limit(fleet, ResourceLink, fleet.resource_uid, job_limit=1)
    jobs = [one(fleet) for _ in range(3)]
    mine = one(fleet, resource_uid=calm)
    held = taken(fleet, jobs[0])
    assert taken(fleet, jobs[1]).claim.job_uid == mine
    assert f"pam config edit {fleet.configuration_uid} --resource-limit {fleet.resource_uid}=N" in busy(fleet, jobs[2])
    assert held.report().publish == (jobs[1],)


def test_a_limit_holds_against_claims_of_several_instances_at_once(fleet: Fleet):
    limit(fleet, Gateway, fleet.gateway_uid, job_limit=3)
    register(fleet, "i2")
    jobs = [one(fleet) for _ in range(10)]
    answers: list[wire.Claim | Busy] = []
    threads = [threading.Thread(target=lambda hint=hint: answers.append(take(fleet, hint))) for hint in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    claims = [answer for answer in answers if isinstance(answer, wire.Claim)]
    assert (len(answers), len(claims)) == (10, 3)
    assert {claim.job_uid for claim in claims} == set(jobs[:3])


def test_claims_at_once_begin_different_jobs(fleet: Fleet):
    jobs = [one(fleet) for _ in range(6)]
    answers: list[wire.Claim | Busy] = []
    threads = [threading.Thread(target=lambda: answers.append(take(fleet, jobs[0]))) for _ in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answer.job_uid for answer in answers if isinstance(answer, wire.Claim)) == sorted(jobs)


def test_a_place_whose_lease_ended_is_free(fleet: Fleet):
    limit(fleet, Gateway, fleet.gateway_uid, job_limit=1)
    jobs = [one(fleet) for _ in range(2)]
    taken(fleet, jobs[0])
    busy(fleet, jobs[1])
    fleet.clock.advance(MINUTE)
    with fleet.database.transaction() as session:
        assert dispatch.wake_all(session, fleet.clock, POLICY) == 1
    assert taken(fleet, jobs[1]).claim.job_uid == jobs[1]


def test_a_drained_gateway_begins_nothing_and_goes_on_when_resumed(fleet: Fleet):
    jobs = [one(fleet) for _ in range(2)]
    held = taken(fleet, jobs[0])
    with fleet.database.transaction() as session:
        gateways.drain(session, fleet.clock, OPERATOR, fleet.gateway_uid)
    assert "is drained since 2026-03-02" in busy(fleet, jobs[1])
    assert reload(fleet, jobs[1]).cause == "gateway_drained"
    held.report()  # what it works on, it ends
    with fleet.database.transaction() as session:
        assert gateways.resume(session, fleet.clock, OPERATOR, fleet.gateway_uid) == (jobs[1],)
    assert taken(fleet, jobs[1]).claim.job_uid == jobs[1]
    assert [len(fleet.events(name)) for name in ("pam_gateway_drained", "pam_gateway_resumed")] == [1, 1]


def night_shift(fleet: Fleet) -> datetime:
    """Let scheduled jobs begin from 22 o'clock only, and return that time of today."""
    with fleet.database.transaction() as session:
        periods = [{"type": "WEEKLY", "weekdays": ["MONDAY"], "from": "22:00", "to": "23:00"}]
        calendar = calendars.create(session, fleet.clock, OPERATOR, name="nights", tz="Etc/UTC", periods=periods)
        calendars.attach(session, fleet.configuration_uid, CalendarUse.WINDOW, [calendar.uid])
    return fleet.clock.now().replace(hour=22, minute=0, second=0, microsecond=0)


def test_a_scheduled_job_that_comes_too_late_for_its_window_waits_for_the_next(fleet: Fleet, record: str):
    begun = one(fleet, trigger=SCHEDULED)
    taken(fleet, begun).release("vault_unavailable")
    fleet.clock.advance(timedelta(minutes=1))
    planned, asked = [one(fleet, trigger=SCHEDULED) for _ in range(2)], one(fleet)
    opens = night_shift(fleet)
    assert order(fleet, planned) == [
        asked,
        begun,
    ]  # what was asked for is not held, what has begun is brought to its end
    assert "waits until" in busy(fleet, planned[0])
    for uid in planned:
        now = reload(fleet, uid)
        assert (now.not_before, now.cause, now.state) == (opens, "calendar_closed", JobState.CREATED)
    assert fleet.events("pam_jobs_held")[0].fields["count"] == 2
    fleet.clock.advance(opens - fleet.clock.now())
    assert order(fleet, planned) == planned


def test_a_held_job_begins_when_the_calendar_is_changed_and_does_not_expire_while_it_waits(fleet: Fleet):
    planned = one(fleet, trigger=SCHEDULED)
    opens = night_shift(fleet)
    assert "waits until" in busy(fleet, planned)
    assert reload(fleet, planned).expires_at == opens + timedelta(days=7)
    with fleet.database.transaction() as session:
        change = configurations.Changes(windows=[])
        configurations.change(session, fleet.clock, OPERATOR, fleet.configuration_uid, change, minimum_seconds=0)
    assert outbox(fleet, planned) == 2
    assert taken(fleet, planned).claim.job_uid == planned


def test_who_asks_for_a_held_job_has_it_begun_at_once(fleet: Fleet, record: str):
    job = ask(fleet, record, trigger=SCHEDULED, schedule_uid=new_uid(), due_at=fleet.clock.now())
    night_shift(fleet)
    assert "waits until" in busy(fleet, job.uid)
    assert ask(fleet, record).uid == job.uid
    assert taken(fleet, job.uid).claim.job_uid == job.uid


def test_waiting_jobs_move_with_their_configuration_and_leased_ones_end_where_they_are(fleet: Fleet):
    jobs = [one(fleet) for _ in range(2)]
    held = taken(fleet, jobs[0])
    with fleet.database.transaction() as session:
        branch = gateways.create(
            session, fleet.clock, OPERATOR, uid=new_uid(), name="branch", application_uid=fleet.application_uid
        ).uid
        change = configurations.Changes(gateway_uid=branch)
        configurations.change(session, fleet.clock, OPERATOR, fleet.configuration_uid, change, minimum_seconds=0)
    register(fleet, gateway_uid=branch)
    assert reload(fleet, jobs[1]).gateway_uid == branch
    with pytest.raises(AccessDenied):  # the old message is a no-op
        take(fleet, jobs[1])
    assert taken(fleet, jobs[1], gateway_uid=branch).claim.job_uid == jobs[1]
    assert held.report().state == JobState.SUCCEEDED
    assert fleet.events("pam_jobs_moved")[0].fields["count"] == 1


def test_a_job_that_is_given_back_after_its_configuration_moved_is_not_begun_at_the_old_gateway(fleet: Fleet):
    job = one(fleet)
    held = taken(fleet, job)
    with fleet.database.transaction() as session:
        branch = gateways.create(
            session, fleet.clock, OPERATOR, uid=new_uid(), name="branch", application_uid=fleet.application_uid
        ).uid
        change = configurations.Changes(gateway_uid=branch)
        configurations.change(session, fleet.clock, OPERATOR, fleet.configuration_uid, change, minimum_seconds=0)
    held.release()
    assert "waits for another gateway" in busy(fleet, job)


def test_a_configuration_is_not_given_to_a_gateway_that_lost_its_key(fleet: Fleet):
    with fleet.database.transaction() as session:
        branch = gateways.create(
            session, fleet.clock, OPERATOR, uid=new_uid(), name="branch", application_uid=fleet.application_uid
        ).uid
        session.add(
            Client(
                client_id="lost", application_uid=fleet.application_uid, gateway_uid=branch, name="branch",
                encrypted_app_key=b"", lock_ip=False, first_access_expires_at=fleet.clock.now(),
                created_at=fleet.clock.now(), removed_at=fleet.clock.now(),
            )
        )  # fmt: skip
    change = configurations.Changes(gateway_uid=branch)
    with (
        fleet.database.transaction() as session,
        pytest.raises(InvalidInput, match="'branch' has lost its key") as refusal,
    ):
        configurations.change(session, fleet.clock, OPERATOR, fleet.configuration_uid, change, minimum_seconds=0)
    assert "pam gateway new" in str(refusal.value.remedy)


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine, "before_cursor_execute", note)


def test_a_claim_costs_two_statements_more_than_the_lease(fleet: Fleet):
    job = one(fleet)
    with fleet.database.transaction() as session:
        place = turns.place_of(session, fleet.gateway_uid)
        assert place is not None
        with statements(fleet.database) as seen:
            dispatch.take(session, fleet.clock, POLICY, hint=job, place=place, instance="i1")
    # turn, lanes; the job with all it needs, epoch (its row stands since the submission), lease, kept versions
    assert len(seen) == 6, seen


def test_the_choice_among_thousands_is_made_by_an_index(fleet: Fleet):
    one(fleet)
    with fleet.database.transaction() as session:
        place = turns.place_of(session, fleet.gateway_uid)
        assert place is not None
        with statements(fleet.database) as seen:
            turns.look(session, turns.lock(session, place, fleet.clock.now()), fleet.clock.now(), POLICY.patience)
    queries = [statement for statement in seen if "head0" in statement]
    assert len(queries) == 1
    if fleet.database.is_sqlite:
        with fleet.database.engine.connect() as connection:
            names = queries[0].count("?")
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {queries[0]}", ("",) * names).all()
        lines = [str(row[-1]) for row in plan]
        assert not [line for line in lines if line.startswith("SCAN jobs")], lines
        assert sum("ix_jobs_line" in line for line in lines) == 9
        assert not [line for line in lines if "TEMP B-TREE" in line], lines

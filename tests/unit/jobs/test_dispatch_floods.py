"""More jobs for a target or configuration at its limit than a claim looks at: they stand apart, and cost the others nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text

from pam_jobs.db.base import table_of
from pam_jobs.db.tables import (
    Job,
    PamConfiguration,
    ResourceLink,
    RotationSettings,
    StoredRecord,
)
from pam_jobs.ids import new_uid
from pam_jobs.jobs import dispatch, turns, wire
from pam_jobs.jobs.explain import explain
from pam_jobs.jobs.submission import SCHEDULED
from pam_jobs.rotation import gateways
from tests.support.attempts import MINUTE, POLICY, Attempt, ask, reload
from tests.support.claims import busy, limit, one, other_configuration, other_target, take, taken
from tests.support.fleet import OPERATOR, Fleet

pytestmark = pytest.mark.unit


def explained(fleet: Fleet, job_uid: str) -> list[str]:
    with fleet.database.transaction(read_only=True) as session:
        return explain(session, fleet.clock, POLICY, session.get_one(Job, job_uid))


def flood(fleet: Fleet, job_uid: str, count: int) -> None:
    """Add jobs like one, each of a record of its own."""
    with fleet.database.transaction() as session:
        job = session.get_one(Job, job_uid)
        uids = [new_uid() for _ in range(count)]
        for model, key in ((StoredRecord, "uid"), (RotationSettings, "record_uid"), (Job, "record_uid")):
            row: Any = job if model is Job else session.get_one(model, job.record_uid)
            like = {column.name: getattr(row, column.name) for column in table_of(model).columns}
            own = [{"uid": new_uid()} if model is Job else {} for _ in uids]
            rows = [{**like, **other, key: uid} for uid, other in zip(uids, own, strict=True)]
            session.execute(insert(model), rows)


def read_rows(fleet: Fleet, hint: str) -> int:
    """Claim a job; return the rows of jobs that PostgreSQL read for it, or SQLite's steps in tens."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    with fleet.database.transaction() as session:
        if fleet.database.is_sqlite:
            raw: Any = session.connection().connection.driver_connection
            raw.set_progress_handler(step, 10)
        place = turns.place_of(session, fleet.gateway_uid)
        assert place is not None
        claim = dispatch.take(session, fleet.clock, POLICY, hint=hint, place=place, instance="i1")
        assert isinstance(claim, wire.Claim), claim
        if fleet.database.is_sqlite:
            raw.set_progress_handler(None, 0)
            return steps
        read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'jobs'"
        return int(session.scalar(text(read)) or 0)


def apart(fleet: Fleet) -> int:
    with fleet.database.transaction(read_only=True) as session:
        return session.scalar(select(func.count()).where(Job.held_for.is_not(None))) or 0


def crowd(fleet: Fleet, count: int, **changes: Any) -> tuple[str, Attempt, str]:
    """Have a target at its limit and more jobs waiting for it than a claim looks at; return it, that job and a waiting one."""
    limit(fleet, ResourceLink, fleet.resource_uid, job_limit=1)
    first, second = one(fleet, **changes), one(fleet, **changes)
    working = taken(fleet, first)
    if count:
        flood(fleet, second, count)
    return fleet.resource_uid, working, second


def test_a_flood_for_a_target_at_its_limit_hides_no_other_target_and_keeps_its_order(fleet: Fleet):
    # Given more jobs for one target than a claim looks at, one of them at work, and jobs for another target behind them
    calm = other_target(fleet)
    target, working, second = crowd(fleet, 60)
    mine, another = one(fleet, resource_uid=calm), one(fleet, resource_uid=calm)
    # When the next message comes, then the other target's job begins, and the flood is apart
    assert taken(fleet, second).claim.job_uid == mine
    assert (reload(fleet, second).held_for, apart(fleet)) == (target, 61)
    assert any("are at work, which is its limit" in each for each in explained(fleet, second))
    assert taken(fleet, second).claim.job_uid == another
    assert "which is its limit" in busy(fleet, second)
    # When the place on the target is free, then the next of it is sent for and begins, before what came later
    later = one(fleet, resource_uid=calm)
    assert working.report().publish == (second,)
    working = taken(fleet, second)
    assert (working.claim.job_uid, reload(fleet, second).held_for, apart(fleet)) == (second, None, 60)
    assert taken(fleet, later).claim.job_uid == later
    # When nobody hears that the gateway went away, then the reconciler sends for the next
    fleet.clock.advance(MINUTE * 2)
    with fleet.database.transaction() as session:
        assert dispatch.wake_all(session, fleet.clock, POLICY) == 1
    # When the limit goes, then all may begin at once
    limit(fleet, ResourceLink, fleet.resource_uid, job_limit=None)
    for _ in range(5):
        assert taken(fleet, second).claim.resource_uid == target


def test_on_demand_goes_before_a_scheduled_flood_that_is_apart(fleet: Fleet):
    calm = other_target(fleet)
    _, working, second = crowd(fleet, 0, trigger=SCHEDULED)
    planned = [one(fleet, trigger=SCHEDULED) for _ in range(55)]
    other = one(fleet, resource_uid=calm, trigger=SCHEDULED)
    assert taken(fleet, second).claim.job_uid == other
    assert apart(fleet) == 56
    asked = one(fleet)
    working.report()
    assert taken(fleet, planned[0]).claim.job_uid == asked
    # and a job apart that somebody asks for is lifted
    assert ask(fleet, reload(fleet, planned[7]).record_uid).uid == planned[7]
    fleet.clock.advance(timedelta(seconds=1))
    limit(fleet, ResourceLink, fleet.resource_uid, job_limit=2)
    assert taken(fleet, planned[0]).claim.job_uid == planned[7]


def test_a_flood_larger_than_a_claim_sets_apart_is_gone_through_by_the_next_ones(fleet: Fleet):
    calm = other_target(fleet)
    _, _, second = crowd(fleet, 1300)
    mine = one(fleet, resource_uid=calm)
    assert "were in the way" in busy(fleet, second)
    assert apart(fleet) == 1000
    # When no message is left, then the reconciler has the next claim look further
    with fleet.database.transaction() as session:
        assert dispatch.wake_all(session, fleet.clock, POLICY) == 1
    assert taken(fleet, second).claim.job_uid == mine


def test_what_is_apart_goes_along_to_another_gateway_or_target(fleet: Fleet):
    calm = other_target(fleet)
    _, _, second = crowd(fleet, 60)
    busy(fleet, second)
    assert apart(fleet) > 50
    # When its record has another target, then it waits for that
    record_uid = reload(fleet, second).record_uid
    assert record_uid is not None
    fleet.put(record_uid, resource_uid=calm)
    assert reload(fleet, second).held_for is None
    assert taken(fleet, second).claim.job_uid == second
    # When the configuration has another gateway, then it waits there
    with fleet.database.transaction() as session:
        to = gateways.create(
            session, fleet.clock, OPERATOR, uid=new_uid(), name="annex", application_uid=fleet.application_uid
        )
        dispatch.move(session, fleet.clock, fleet.configuration_uid, to.uid)
    assert apart(fleet) == 0


@pytest.mark.parametrize("own", [True, False])
def test_what_a_claim_reads_does_not_grow_with_what_a_limit_holds(fleet: Fleet, own: bool):
    # Given many jobs of a target or of a configuration that is at its limit
    calm = None if own else other_configuration(fleet)
    other = {"resource_uid": other_target(fleet)} if own else {"configuration_uid": calm}
    if own:
        _, _, second = crowd(fleet, 0)
    else:
        limit(fleet, PamConfiguration, fleet.configuration_uid, job_limit=1)
        second = [taken(fleet, one(fleet)), one(fleet)][1]
    read = []
    for added in (100, 2900):
        flood(fleet, second, added)
        for _ in range(4):
            one(fleet, **other)
            take(fleet, second)  # the first claims after a flood set it apart
        one(fleet, **other)
        if not fleet.database.is_sqlite:
            with fleet.database.transaction() as session:
                session.execute(text("ANALYZE"))  # PostgreSQL does so by itself within a minute
        read.append(read_rows(fleet, second))
    # Then a claim reads as much as before
    assert read[1] <= read[0] * 1.2, read

"""Rotations by a schedule while the beat dies: each due run is made once, neither lost nor doubled."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, update

from pam_jobs.client.pam import RotationChange
from pam_jobs.db.tables import Job, Schedule
from tests.crash import judge, table
from tests.crash.rounds import IS_FULL
from tests.crash.targets import Target
from tests.crash.waiting import eventually
from tests.crash.world import Account, World
from tests.support.fleet import cron

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

_YEARLY = cron("0 4 1 1 *")


def _schedule(world: World, accounts: Sequence[Account], schedule: list[dict[str, object]]) -> None:
    for account in accounts:
        change = RotationChange(
            configuration_uid=world.site.configuration_uid, resource_uid=account.target.resource, admin_uid=None,
            profile="general", schedule=schedule, inherits_schedule=False, complexity=None, disabled=False,
            revision=None,
        )  # fmt: skip
        world.vault.pam.set_rotation(world.vault.records.get(account.uid), change)


def _make_due(world: World, accounts: Sequence[Account]) -> datetime:
    """Let the next run of each account be now."""
    now = datetime.now(UTC).replace(microsecond=0)
    with world.database.transaction() as session:
        session.execute(
            update(Schedule)
            .where(Schedule.subject_uid.in_([account.uid for account in accounts]))
            .values(next_run_at=now)
        )
    return now


def _runs(world: World, accounts: Sequence[Account], due: datetime) -> list[Job]:
    """Return the jobs of that due time."""
    query = select(Job).where(Job.record_uid.in_([account.uid for account in accounts]), Job.due_at == due)
    with world.database.transaction(read_only=True) as session:
        return list(session.scalars(query))


@pytest.mark.parametrize("others", [0, 1] if IS_FULL else [1])
def test_each_due_run_is_made_once_whichever_beat_dies(
    world: World, crash_targets: Sequence[Target], others: int
) -> None:
    """The beat is dead when the runs fall due, dies again when it has made the jobs, and others work beside it."""
    accounts = world.accounts(next(target for target in crash_targets if not target.is_slow), 6)
    runs = {account.uid: account.runs() for account in accounts}
    _schedule(world, accounts, _YEARLY)
    try:
        world.kill("beat")
        due = _make_due(world, accounts)
        with world.more_beats(others):
            world.start_one("beat")
            eventually(lambda: _runs(world, accounts, due), "the missed runs are made up for")
            world.kill("beat")
            world.start_one("beat")
            eventually(lambda: len(_runs(world, accounts, due)) >= len(accounts), "every due run has its job")
        made = _runs(world, accounts, due)
        ends = judge.ended(world, [job.uid for job in made])
        assert {end.state for end in ends.values()} == {"succeeded"}, ends
        assert sorted(str(job.record_uid) for job in made) == sorted(runs), "one job for each due run"
        for account in accounts:
            assert judge.check_runs(account, runs[account.uid], "a run by schedule") == 1
    finally:
        _schedule(world, accounts, [])
    judge.check_current(world, accounts)
    judge.check_story(world, accounts)
    for account in accounts:
        table.add("beat killed while runs fall due", account.target.name, "rotated once", where="schedule")
    world.give_back(accounts)

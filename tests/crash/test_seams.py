"""The seven seams through which other systems lose credentials, one test each, on the real engine.

Each seam was seen in the source of a widely used product. What holds here holds by construction; these tests keep it so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from sqlalchemy import delete, text
from sqlalchemy.exc import IntegrityError

from connectors.faults import Action, When
from connectors.faults import Fault as LineFault
from pam_jobs.db.engine import Database
from pam_jobs.db.tables import StoredRecord
from pam_jobs.errors import PamJobsError, StateError
from pam_jobs.jobs.reconciler import reconcile_once
from tests.crash import judge
from tests.crash.rounds import Case, await_boundaries, submit
from tests.crash.targets import Target
from tests.crash.waiting import eventually
from tests.crash.world import World
from tests.support.attempts import CONTROL_SETTINGS, POLICY, ask, begin, refused, register, version
from tests.support.fleet import Fleet, new_fleet

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

_LONG = timedelta(days=3650)


@pytest.fixture
def stand(world: World, crash_targets: Sequence[Target]) -> Callable[[str], Case]:
    """Returns a rotation that stands at a boundary, on the target that is quick to log in to."""

    def standing(boundary: str) -> Case:
        case = Case(target=next(target for target in crash_targets if not target.is_slow), boundary=boundary)
        submit(world, [case])
        await_boundaries(world, [case])
        return case

    return standing


@pytest.fixture
def fleet(database: Database) -> Fleet:
    """A fleet with two instances and a clock of its own, on either database."""
    made = new_fleet(database)
    for instance in ("i1", "i2"):
        register(made, instance)
    return made


def _states(world: World, case: Case) -> list[str]:
    return [state for _, state, _ in judge.snapshot_of(world, case.account.uid)]


def _open_transactions(world: World) -> int:
    """Return how many transactions wait for their next statement; those of other calls end in a moment."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in trans%'"
    with world.database.transaction(read_only=True) as session:
        return int(session.scalar(text(query)) or 0)


def _finish(world: World, case: Case) -> None:
    """Follow the rotation to its good end."""
    end = judge.ended(world, [case.job_uid])[case.job_uid]
    assert (end.state, end.cause) == ("succeeded", None), end
    judge.check_current(world, [case.account])
    judge.check_story(world, [case.account])
    world.give_back([case.account])


def test_seam_1_a_new_value_is_in_memory_only_between_change_and_commit(
    world: World, stand: Callable[[str], Case]
) -> None:
    """Guards: the one process that knows the value dies after the target took it, and the value is in the ledger."""
    case = stand("after:change")
    before = judge.ledger(world, [case.account])[case.account.uid]
    world.kill("gateway")
    live = [row for row in before if case.target.logs_in(case.account.login, row.password)]
    assert [row.state for row in live] == ["applying"], "the target has the new value, and the ledger had it before"
    world.start_one("gateway")
    _finish(world, case)


def test_seam_2_the_journal_is_written_in_the_transaction_it_should_survive(
    world: World, stand: Callable[[str], Case]
) -> None:
    """Guards: the row that names the value is committed by itself, so nothing that fails later takes it back."""
    case = stand("after:intend")
    assert _states(world, case)[-1] == "applying"
    eventually(lambda: _open_transactions(world) == 0, "no transaction of ours stays open while a target is talked to")
    for name in ("database", "router", "gateway"):
        world.kill(name)
    for name in ("database", "router"):
        world.start_one(name)
    assert _states(world, case)[-1] == "applying", "no crash takes the row back"
    world.start_one("gateway")
    _finish(world, case)


def test_seam_3_the_journal_is_dropped_after_an_ambiguous_failure(world: World, stand: Callable[[str], Case]) -> None:
    """Guards: neither a change whose answer was lost nor a login without an answer gives the value up."""
    case = stand("after:intend")
    proxy = case.target.proxies[0]
    before = judge.snapshot_of(world, case.account.uid)
    proxy.arm(LineFault(action=Action.CUT, when=When.ANSWER_RECEIVED, times=None))
    try:
        world.orders.release()
        eventually(lambda: judge.jobs(world, [case.job_uid])[case.job_uid].state == "unknown", "the outcome is unknown")
        assert judge.snapshot_of(world, case.account.uid)[:-1] == before[:-1]
        assert _states(world, case)[-1] == "applying", "an ambiguous failure keeps the row"
        judge.check_nothing_lost(world, [case.account])
    finally:
        proxy.disarm()
    _finish(world, case)
    assert len(_states(world, case)) == len(before), "the same value, not a further one"


@pytest.mark.parametrize("state", ["staged", "applying"])
def test_seam_4_a_retention_job_purges_unresolved_candidates(fleet: Fleet, state: str) -> None:
    """Guards: whatever looks after old rows leaves an unresolved one alone, be it ten years old."""
    uid = fleet.add_record()
    fleet.put(uid)
    job = ask(fleet, uid)
    attempt = begin(fleet, job.uid)
    attempt.stage()
    if state == "applying":
        attempt.intend()
    for _ in range(POLICY.attempts_limit + 2):
        fleet.clock.advance(_LONG)
        reconcile_once(fleet.database, fleet.clock, CONTROL_SETTINGS, policy=POLICY)
    assert version(fleet, uid).state == state
    register(fleet, "years later")
    later = begin(fleet, ask(fleet, uid).uid, "years later")
    assert [(row.seq, row.state) for row in later.claim.versions] == [(1, state)], "the next attempt is told of it"


def test_seam_5_the_owner_is_deleted_and_the_candidate_cascades_away(
    world: World, stand: Callable[[str], Case]
) -> None:
    """Guards: nothing that holds an unresolved value can be deleted, by an operator or by a statement of SQL."""
    case = stand("after:intend")
    world.kill("gateway")
    vault, site = world.vault, world.site
    application = vault.applications.find(site.application_uid)
    attempts: dict[str, Callable[[], object]] = {
        "record": lambda: vault.records.delete(case.account.uid),
        "folder": lambda: vault.folders.remove(site.folder),
        "application": lambda: vault.applications.remove(application),
        "configuration": lambda: vault.pam.remove_configuration(site.configuration_uid),
    }
    for what, attempt in attempts.items():
        with pytest.raises(PamJobsError) as told:
            attempt()
        assert isinstance(told.value, StateError), f"{what}: {told.value}"
    with pytest.raises(IntegrityError), world.database.transaction() as session:
        session.execute(delete(StoredRecord).where(StoredRecord.uid == case.account.uid))
    assert _states(world, case)[-1] == "applying"
    judge.check_nothing_lost(world, [case.account])
    world.start_one("gateway")
    _finish(world, case)


def test_seam_6_two_runners_work_when_the_lock_expired(fleet: Fleet) -> None:
    """Guards: the first runner's lease ended and a second one works; whatever the first still writes is refused."""
    uid = fleet.add_record()
    fleet.put(uid)
    job = ask(fleet, uid)
    first = begin(fleet, job.uid)
    first.stage(b"the-value-of-the-first-runner----")
    fleet.clock.advance(timedelta(seconds=POLICY.lease_seconds + 1))
    second = begin(fleet, job.uid, "i2")
    assert second.claim.epoch > first.claim.epoch
    second.intend()
    late: list[Callable[[], object]] = [
        lambda: first.stage(b"another-value-of-the-first-runner"), first.intend, first.fence, first.promote,
        lambda: first.abandon(current="accepted"), first.report, first.renew,
    ]  # fmt: skip
    for write in late:
        assert refused(write) is not None, "a runner that was overtaken wrote"
    row = version(fleet, uid)
    assert (row.state, row.epoch, row.ciphertext) == (
        "applying",
        second.claim.epoch,
        second.claim.versions[0].ciphertext,
    )
    second.promote()
    assert version(fleet, uid).state == "current"


def test_seam_7_failed_is_recorded_when_the_truth_is_unknown(world: World, stand: Callable[[str], Case]) -> None:
    """Guards: after a crash behind the change an attempt that reaches nothing says "unknown", and so does everybody."""
    case = stand("after:change")
    proxy = case.target.proxies[0]
    world.kill("gateway")
    proxy.arm(LineFault(action=Action.RESET, when=When.CONNECTED, times=None))
    try:
        world.start_one("gateway")
        eventually(lambda: judge.jobs(world, [case.job_uid])[case.job_uid].state == "unknown", "nobody can know")
        job = world.vault.jobs.get(case.job_uid)
        assert (job["status"], job["effect"]) == ("unknown", "unknown"), job
        proof = world.vault.jobs.proof(case.account.uid)
        assert not proof["proven"]
        assert [row["state"] for row in proof["unresolved"]] == ["applying"]
        judge.check_nothing_lost(world, [case.account])
    finally:
        proxy.disarm()
    _finish(world, case)

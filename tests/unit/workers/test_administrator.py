from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from connectors.fake import FakeAccount, FakeConnector, FakeSession
from pam_jobs.secret import SecretValue
from tests.support.gateway import GatewayWorld
from tests.support.memory_router import MemoryJob
from workers.values import Value

pytestmark = pytest.mark.unit


@pytest.fixture
def world() -> GatewayWorld:
    return GatewayWorld()


def told(job: MemoryJob) -> tuple[object, ...]:
    """What the report says of the job and of the administrator."""
    assert job.report is not None
    finding = job.report["administrator"]
    return job.report["status"], job.report["cause"], finding and (finding["verdict"], finding["version_seq"])


def value(password: str) -> Value:
    return Value(password=SecretValue(password))


def test_a_refused_admin_sets_the_target_aside_and_changes_nothing(world: GatewayWorld) -> None:
    world.target.accounts["root"].password = "changed-by-hand"
    job = world.run()
    assert (job.state, *told(job)) == ("waiting_human", "waiting_human", "admin_refused", ("refused", None))
    assert (world.states(), world.target.changes, world.target.logins) == (["current"], 0, 1)
    assert "set aside" in world.detail(job)["message"]


def test_a_refusal_of_the_admin_counts_against_the_admin_alone(world: GatewayWorld) -> None:
    world.target.accounts["root"].password = "changed-by-hand"
    world.run()
    assert (world.router.admin_refusals_left, world.router.refusals_left) == (2, 3)


def test_an_older_kept_value_of_the_admin_goes_on_and_the_report_says_so(world: GatewayWorld) -> None:
    world.add_row(world.admin, value("Admin-Secret-0"), "previous")
    world.add_row(world.admin, value("Admin-Secret-1"), "current")
    world.target.accounts["root"].password = "Admin-Secret-0"
    job = world.run()
    assert (job.state, *told(job)) == ("succeeded", "ok", None, ("outdated", 1))
    assert world.router.admin_refusals_left == 2


def test_a_value_that_an_unfinished_rotation_of_the_admin_left_is_tried_before_older_ones(world: GatewayWorld) -> None:
    for password, state in (("Older", "previous"), ("Admin-Secret-1", "current"), ("Unfinished", "applying")):
        world.add_row(world.admin, value(password), state)
    world.target.accounts["root"].password = "Unfinished"
    job = world.run()
    assert (job.state, told(job)[2]) == ("succeeded", ("outdated", 3))
    assert world.target.logins == 3  # the record's value, the unfinished one, and the proof of the user's new one


def test_older_values_are_tried_newest_first_and_only_within_the_admins_budget(world: GatewayWorld) -> None:
    for number in range(4):
        world.add_row(world.admin, value(f"Older-{number}"), "previous")
    world.target.accounts["root"].password = "Older-1"
    job = world.run()
    assert told(job) == ("waiting_human", "admin_refused", ("refused", None))
    assert (world.target.logins, world.router.admin_refusals_left) == (3, 0)


def test_a_used_up_budget_of_the_admin_makes_no_login(world: GatewayWorld) -> None:
    world.router.admin_refusals_left = 0
    job = world.run()
    assert told(job) == ("failed", "lockout_budget", None)
    assert world.target.logins == 0


def test_a_locked_admin_is_not_tried_again(world: GatewayWorld) -> None:
    world.add_row(world.admin, value("Older"), "previous")
    world.target.accounts["root"].is_locked = True
    job = world.run()
    assert job.report is not None
    assert (job.report["administrator"]["cause"], world.target.logins) == ("admin_locked", 1)


def test_the_next_job_goes_straight_to_the_value_that_logged_in(world: GatewayWorld) -> None:
    world.add_row(world.admin, value("Admin-Secret-0"), "previous")
    world.target.accounts["root"].password = "Admin-Secret-0"
    world.run()
    assert told(world.run())[2] == ("outdated", 1)
    assert world.router.admin_refusals_left == 2


class _Crowd(GatewayWorld):
    """Lets five jobs go on when all of them are claimed."""

    claimed = threading.Barrier(5)

    def _reach(self, name: str) -> None:
        if name == "after:claim":
            self.claimed.wait(20)


@pytest.mark.parametrize("slept", [0.0, 7200.0])
def test_jobs_that_wait_for_a_refused_admin_do_not_knock_as_well(slept: float) -> None:
    """Given five jobs at once and a password changed by hand, when the first is refused, then no other one tries.

    A machine that was suspended since it started has clocks that differ: all times have to be of one of them.
    """
    world = _Crowd()
    world.clock.slept = slept
    world.target.accounts["root"].password = "changed-by-hand"
    jobs = [world.job(record_uid=_user(world, number)) for number in range(5)]
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda job: world.engine.run(job.uid), jobs))
    assert {told(job)[:2] for job in jobs} == {("waiting_human", "admin_refused")}
    assert world.target.logins == 1


def _user(world: GatewayWorld, number: int) -> str:
    world.target.accounts[f"app{number}"] = FakeAccount(password="Old-Secret-1")
    uid = world.add_user(f"app{number}", "Old-Secret-1")
    world.give_current(uid, value("Old-Secret-1"))
    return uid


def test_a_job_claimed_after_the_refusal_tries_again(world: GatewayWorld) -> None:
    world.target.accounts["root"].password = "changed-by-hand"
    world.run()
    world.target.accounts["root"].password = "Admin-Secret-1"
    assert world.run().state == "succeeded"


def test_a_set_aside_admin_that_logs_in_again_is_told(world: GatewayWorld) -> None:
    world.router.is_set_aside_admin = True
    world.give_current(world.admin, value("Admin-Secret-1"))
    for kind in ("verify", "rotate", "reconcile"):
        assert told(world.run(record_uid=world.admin, kind=kind))[2] == ("accepted", None)


def test_an_admin_that_rotates_itself_tries_its_older_values(world: GatewayWorld) -> None:
    world.add_row(world.admin, value("Admin-Secret-0"), "previous")
    world.add_row(world.admin, value("Admin-Secret-1"), "current")
    world.target.accounts["root"].password = "Admin-Secret-0"
    job = world.run(record_uid=world.admin)
    assert job.state == "succeeded"
    own = world.record(world.admin).password
    assert own is not None
    assert own.reveal() == world.password("root")
    assert world.router.refusals_left == 2


def test_an_admin_whose_own_credential_is_refused_sets_its_target_aside(world: GatewayWorld) -> None:
    world.give_current(world.admin, value("Admin-Secret-1"))
    world.target.accounts["root"].password = "changed-by-hand"
    assert told(world.run(record_uid=world.admin)) == ("waiting_human", "admin_refused", ("refused", None))


class _Watched(FakeConnector):
    """Notes when a session that may change something is closed."""

    def __init__(self, reached: list[str]) -> None:
        super().__init__()
        self.reached = reached

    def open(self, *arguments, **members):  # type: ignore[no-untyped-def]
        session = super().open(*arguments, **members)
        if session._rotator is not None:
            session.close = lambda: self.reached.append("closed")  # type: ignore[method-assign]
        assert isinstance(session, FakeSession)
        return session


@pytest.mark.parametrize("cut", [0, 1])
def test_the_session_that_changed_an_admin_is_open_until_the_promotion_is_durable(cut: int) -> None:
    reached: list[str] = []
    world = GatewayWorld(connector=_Watched(reached), reached=reached)
    world.give_current(world.admin, value("Admin-Secret-1"))
    world.target.cut_after_send = cut
    assert world.run(record_uid=world.admin).state == "succeeded"
    after_change = reached[reached.index("after:intend") :]
    assert after_change.index("closed") > after_change.index("after:promote")


@pytest.mark.parametrize(
    ("custom", "left"),
    [
        ({"Lockout Limit": "1"}, 1),
        ({"Lockout Limit": "2", "Lockout Window Minutes": "60"}, 2),
        ({"Lockout Window Minutes": "60"}, 3),
    ],
)
def test_a_target_may_have_its_own_lockout_rule(world: GatewayWorld, custom: dict[str, str], left: int) -> None:
    _customise(world, custom)
    for number in range(5):
        world.add_row(world.admin, value(f"Older-{number}"), "previous")
    world.target.accounts["root"].password = "changed-by-hand"
    world.run()
    assert world.target.logins == left
    window = 3600 if "Lockout Window Minutes" in custom else None
    assert set(world.router.windows) == {window}


def test_a_lockout_rule_that_is_no_number_is_told(world: GatewayWorld) -> None:
    _customise(world, {"Lockout Limit": "three"})
    job = world.run()
    assert told(job)[:2] == ("failed", "invalid_input")
    assert "Lockout Limit" in world.detail(job)["message"]
    assert world.target.logins == 0


def _customise(world: GatewayWorld, custom: dict[str, str]) -> None:
    def change(record):  # type: ignore[no-untyped-def]
        for label, text in custom.items():
            record = record.set_field("text", text, label, custom=True)
        return record

    world.edit(world.resource, change)


def test_an_admin_that_was_rotated_meanwhile_is_read_again(world: GatewayWorld) -> None:
    def rotate_admin() -> None:
        world.target.accounts["root"].password = "Admin-Secret-2"
        world.edit(world.admin, lambda record: record.set_field("password", "Admin-Secret-2"))

    fetch = world.vault.fetch

    def fetch_then_rotate(uids: object) -> object:
        found = fetch(uids)  # type: ignore[arg-type]
        if len(world.vault.fetches) == 1:
            rotate_admin()
        return found

    world.vault.fetch = fetch_then_rotate  # type: ignore[method-assign, assignment]
    assert world.run().state == "succeeded"

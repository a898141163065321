"""Places in the lockout budget: what a gateway does while others log in as the same account."""

from __future__ import annotations

import pytest

from connectors.fake import FakeConnector, FakeSession
from connectors.kept import KeepingConnector
from pam_jobs.secret import SecretValue
from tests.support.gateway import GatewayWorld
from tests.support.kept_fake import KeptFakeConnector
from tests.support.memory_router import MemoryJob
from workers.values import Value

pytestmark = pytest.mark.unit
OTHERS = ("a" * 22, "b" * 22, "c" * 22)


@pytest.fixture
def world() -> GatewayWorld:
    world = GatewayWorld()
    world.engine.ports.administrators.wait_seconds = 0.3
    world.give_current(world.admin, Value(password=SecretValue("Admin-Secret-1")))
    return world


def under_way(world: GatewayWorld, of: str, count: int = 3) -> None:
    """Let so many logins of others be under way."""
    world.router.places = dict.fromkeys(OTHERS[:count], of)


def told(job: MemoryJob) -> tuple[object, ...]:
    assert job.report is not None
    return job.report["status"], job.report["cause"]


def test_a_login_waits_for_those_that_may_use_up_the_budget(world: GatewayWorld) -> None:
    world.engine.ports.administrators.wait_seconds = 20
    under_way(world, "admin")
    asked: list[int] = []

    def one_ends(_job: MemoryJob) -> None:
        asked.append(world.target.logins)
        if len(asked) < 2:
            world.router.before["login"] = one_ends
        else:
            world.router.places.popitem()

    world.router.before["login"] = one_ends
    assert world.run().state == "succeeded"
    assert asked == [0, 0], "nobody logged in before"
    assert world.router.places == dict.fromkeys(OTHERS[:2], "admin")


def test_a_job_that_waited_long_enough_is_given_back_and_nothing_was_begun(world: GatewayWorld) -> None:
    under_way(world, "admin")
    job = world.run()
    assert (job.state, job.released, world.target.logins) == ("queued", ["target_busy"], 0)
    assert world.states() == ["current"]


def test_a_job_that_is_cancelled_while_it_waits_does_not_go_on_waiting(world: GatewayWorld) -> None:
    world.engine.ports.administrators.wait_seconds = 600
    under_way(world, "admin")
    world.router.before["login"] = lambda job: world.engine.running.cancel(job.uid)
    assert told(world.run()) == ("cancelled", "cancelled")
    assert world.target.logins == 0


def test_a_lost_answer_takes_no_second_place_and_counts_no_second_refusal(world: GatewayWorld) -> None:
    world.router.cut_after["login"] = 1
    assert world.run().state == "succeeded"
    assert world.router.places == {}
    world.target.accounts["root"].password = "changed-by-hand"
    world.router.before["login"] = lambda _job: world.router.cut_after.update(login=2)
    world.run()
    assert (world.router.admin_refusals_left, world.router.places) == (2, {})


def test_an_administrator_that_is_unreachable_or_locked_gives_its_place_back(world: GatewayWorld) -> None:
    world.target.is_down = True
    world.run()
    world.target.is_down, world.target.accounts["root"].is_locked = False, True
    world.run()
    assert world.router.calls.count("login") == 4
    assert (world.router.places, world.router.admin_refusals_left) == ({}, 3)


class _Killed(BaseException):
    """What a test throws in place of SIGKILL."""


def test_a_gateway_that_is_killed_while_it_logs_in_leaves_its_place(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise _Killed

    monkeypatch.setattr(FakeSession, "log_in", killed)
    with pytest.raises(_Killed):
        world.run()
    assert (list(world.router.places.values()), world.router.admin_refusals_left) == (["admin"], 3)


def test_the_services_of_a_machine_are_listed_by_a_login_that_has_a_place(world: GatewayWorld) -> None:
    members = {"kind": "discover", "record_uid": None, "parameters": {"services": True}}
    world.run(**members)
    assert (world.router.asked, world.router.places) == ([("admin", None)], {})
    under_way(world, "admin")
    assert world.run(**members).released == ["target_busy"]


def test_a_used_up_budget_does_not_keep_anybody_from_a_connection_that_is_logged_in() -> None:
    world = GatewayWorld(connector=KeptFakeConnector())
    world.run()
    world.router.admin_refusals_left = 0
    assert world.run().state == "succeeded"


class _Silent(FakeConnector, KeepingConnector[FakeSession]):
    """Says that it keeps connections, and asks for no place: somebody's own, of before there were any."""

    def open(self, *arguments, **members):  # type: ignore[no-untyped-def]
        return FakeConnector.open(self, *arguments, **members)


def test_a_refusal_by_a_connector_that_asks_for_no_place_is_counted_afterwards() -> None:
    world = GatewayWorld(connector=_Silent())
    world.target.accounts["root"].password = "changed-by-hand"
    world.run()
    assert (world.router.calls.count("login"), world.router.admin_refusals_left) == (0, 2)


@pytest.mark.parametrize("kind", ["verify", "rotate", "reconcile"])
def test_a_job_of_an_administrators_own_record_has_a_place_for_each_login(world: GatewayWorld, kind: str) -> None:
    world.run(record_uid=world.admin, kind=kind)
    assert set(world.router.asked) == {("account", None)}
    assert len(world.router.asked) == world.target.logins
    assert (world.router.places, world.router.refusals_left) == ({}, 3)


@pytest.mark.parametrize("kind", ["verify", "rotate", "reconcile"])
def test_a_job_of_an_administrators_own_record_is_given_back_while_others_log_in(
    world: GatewayWorld, kind: str
) -> None:
    under_way(world, "account")
    job = world.run(record_uid=world.admin, kind=kind)
    assert (job.state, job.released, world.target.logins) == ("queued", ["target_busy"], 0)


def test_a_refused_verification_of_an_administrator_counts_once(world: GatewayWorld) -> None:
    world.target.accounts["root"].password = "changed-by-hand"
    world.run(record_uid=world.admin, kind="verify")
    assert (world.router.refusals_left, world.target.logins) == (2, 1)


def test_an_administrator_whose_change_is_sent_and_cannot_be_proven_yet_keeps_its_value(world: GatewayWorld) -> None:
    """Others have the last places after the change: the next attempt proves the same value."""
    world.at["after:change"] = lambda: under_way(world, "account")
    job = world.run(record_uid=world.admin)
    assert told(job) == ("unknown", "target_busy")
    assert world.states(world.admin) == ["current", "applying"]
    world.router.places.clear()
    assert world.run(job).state == "succeeded"
    assert world.states(world.admin) == ["previous", "current"]


def test_an_ordinary_account_is_tried_without_asking(world: GatewayWorld) -> None:
    world.run(kind="verify")
    assert "login" not in world.router.calls

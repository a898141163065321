"""What runs as the rotated account gets the new password, once, and the former one when it is rolled back."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.fake import FakeAccount, FakeService, FakeTarget
from pam_jobs.crypto import aes
from pam_jobs.jobs import wire
from pam_jobs.records.services import ServiceKind, ServiceNames
from tests.support.gateway import GatewayWorld
from tests.support.memory_router import MemoryJob

pytestmark = pytest.mark.unit
OLD = "Old-Secret-1"


class Killed(BaseException):
    """What a test throws in place of SIGKILL."""


def killed() -> None:
    raise Killed


def custom(world: GatewayWorld, uid: str, label: str, text: str = "TRUE") -> None:
    world.edit(uid, lambda record: record.set_field("text", text, label, custom=True))


def names(*found: tuple[str, str], discovered: tuple[str, ...] = ()) -> ServiceNames:
    made = ServiceNames()
    for kind, name in found:
        made = made.with_manual(ServiceKind(kind), name)
    return made.with_discovered([(ServiceKind.SERVICE, name) for name in discovered])


def link(world: GatewayWorld, machine_uid: str, admin_uid: str | None, wanted: ServiceNames, **more: Any) -> None:
    world.router.services.append(
        wire.ServiceLink(
            machine_uid=machine_uid, admin_uid=admin_uid, names=wanted.seal(world.key(world.user)),
            **more,
        )
    )  # fmt: skip


def service(name: str, *, running: bool = True, kind: str = "service", **more: Any) -> FakeService:
    return FakeService(
        **{"kind": kind, "name": name, "account": ".\\app", "password": OLD, "is_running": running, **more}
    )


@pytest.fixture
def world() -> GatewayWorld:
    """The user's own machine runs three things as it; another machine of the domain runs one more."""
    world = GatewayWorld()
    world.target.services = [
        service("Sql", running=True),
        service("Agent", depends_on=("Sql",), account="LocalSystem", password=""),
        service("Nightly", kind="task", running=False),
        service("Pool", kind="iis_pool"),
    ]
    custom(world, world.user, "Alternative Login", "CORP\\app")
    link(world, world.resource, world.admin, names(("service", "sql"), ("task", "Nightly"), ("iis_pool", "Pool")))
    return world


@pytest.fixture
def other(world: GatewayWorld) -> FakeTarget:
    target = FakeTarget(
        accounts={"boss": FakeAccount(password="Boss-Secret-1", is_admin=True)}, domain=world.target,
        services=[service("Web", account="CORP\\app")],
    )  # fmt: skip
    world.connector.add("web.test", 9999, target)
    machine = world.add_record(
        {"type": "pamMachine", "title": "Web",
         "fields": [{"type": "pamHostname", "label": "", "value": [{"hostName": "web.test", "port": "9999"}]}]}
    )  # fmt: skip
    boss = world.add_user("boss", "Boss-Secret-1")
    link(world, machine, boss, names(("service", "Web")))
    return target


def steps(job: MemoryJob, kind: str = "dependant") -> list[tuple[str, str | None]]:
    return [(step["state"], step["cause"]) for step in job.steps.values() if step["kind"] == kind]


def codes(job: MemoryJob) -> tuple[str, str, str, str | None]:
    assert job.report is not None
    report = job.report
    return str(report["status"]), str(report["services_status"]), str(report["post_rotation_status"]), report["cause"]


def found(target: FakeTarget, name: str) -> FakeService:
    return next(each for each in target.services if each.name == name)


def test_everything_that_runs_as_the_user_gets_the_new_password(world: GatewayWorld, other: FakeTarget) -> None:
    job = world.run()
    assert codes(job) == ("ok", "ok", "none", None)
    assert steps(job) == [("succeeded", None)] * 4
    for target, name in ((world.target, "Sql"), (world.target, "Nightly"), (world.target, "Pool"), (other, "Web")):
        assert (found(target, name).password, found(target, name).updates) == (world.password(), 1)
    assert found(world.target, "Agent").starts == 1, "what depends on it is started again"
    assert not found(world.target, "Nightly").is_running
    told = world.detail(job)["services"]
    assert [(each["name"], each["outcome"]) for each in told] == [
        ("sql", "updated_and_restarted"), ("Nightly", "updated"), ("Pool", "updated_and_restarted"),
        ("Web", "updated_and_restarted"),
    ]  # fmt: skip
    assert told[0]["restarted"] == ["Sql", "Agent"]


def test_the_steps_say_nothing_of_the_names(world: GatewayWorld) -> None:
    job = world.run()
    keys = [key.replace(world.resource, "") for key in job.steps]  # random letters, which may spell a name
    assert all("sql" not in key.lower() and "pool" not in key.lower() for key in keys)
    assert all(key.split(":")[1] == world.resource for key in job.steps)


def test_what_runs_as_somebody_else_is_left_alone_and_told(world: GatewayWorld) -> None:
    found(world.target, "Sql").account = ".\\other"
    world.target.services.remove(found(world.target, "Pool"))
    job = world.run()
    assert codes(job) == ("ok", "failed", "none", "services_failed")
    assert steps(job) == [("failed", "not_running_as_user"), ("succeeded", None), ("failed", "not_found")]
    assert found(world.target, "Sql").password == OLD


def test_what_only_discovery_saw_may_be_gone(world: GatewayWorld) -> None:
    world.router.services.clear()
    link(world, world.resource, world.admin, names(("task", "Nightly"), discovered=("Old", "Sql")))
    job = world.run()
    assert codes(job)[1] == "ok"
    assert steps(job) == [("succeeded", None), ("succeeded", "not_found"), ("succeeded", None)]


def test_a_local_account_of_another_machine_is_never_meant(world: GatewayWorld, other: FakeTarget) -> None:
    custom(world, world.user, "Alternative Login", "")
    found(other, "Web").account = ".\\app"  # that machine's own account of the same name
    job = world.run()
    assert steps(job)[-1] == ("failed", "unsupported")
    assert found(other, "Web").password == OLD


def test_one_that_does_not_come_up_is_told_and_the_credential_stays(world: GatewayWorld) -> None:
    found(world.target, "Sql").is_broken = True
    job = world.run()
    assert codes(job) == ("ok", "failed", "none", "services_failed")
    assert steps(job)[0] == ("failed", "not_started")
    assert world.password() != OLD
    assert world.in_vault()


def test_a_machine_that_is_away_is_tried_again_and_scripts_do_not_wait(world: GatewayWorld, other: FakeTarget) -> None:
    world.attach(world.user, b"#!/bin/sh\nexit 0\n")
    other.is_down = True
    job = world.run()
    assert codes(job) == ("unknown", "unknown", "ok", "services_waiting")
    assert job.state == "unknown"
    assert steps(job)[-1] == ("unknown", "unreachable")
    other.is_down = False
    world.breakers.worked("web.test:9999")
    world.run(job)
    assert codes(job) == ("ok", "ok", "ok", None)
    assert found(other, "Web").password == world.password()
    assert found(world.target, "Sql").updates == 1, "what was done is not done again"


def test_the_last_attempt_gives_up_and_says_so(world: GatewayWorld, other: FakeTarget) -> None:
    other.is_down = True
    job = world.run()
    world.router.is_last_attempt = True
    world.run(job)
    assert codes(job) == ("ok", "failed", "none", "services_failed")
    assert steps(job)[-1] == ("failed", "unreachable")


@pytest.mark.parametrize("boundary", ["before", "running", "after", "stored"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_crash_resumes_at_the_first_unfinished_one(world: GatewayWorld, boundary: str, number: int) -> None:
    job = world.job()
    world.at[f"{boundary}:dependant:{number}"] = killed
    with pytest.raises(Killed):
        world.run(job)
    new = world.password()
    job.state = "queued"
    world.run(job)
    assert codes(job) == ("ok", "ok", "none", None)
    assert world.password() == new
    assert [found(world.target, name).updates for name in ("Sql", "Pool")] == [1, 1]
    assert found(world.target, "Sql").starts == 1, "a second time it runs with the password already"
    assert found(world.target, "Nightly").password == new


def test_one_that_hears_of_its_fence_too_late_updates_nothing(world: GatewayWorld) -> None:
    world.at["fenced:dependant"] = world.oversleep
    assert world.run().report is None
    assert [found(world.target, name).updates for name in ("Sql", "Pool")] == [0, 0]


def test_a_lost_answer_is_no_harm(world: GatewayWorld) -> None:
    world.target.cut_updates = 1
    job = world.run()
    assert codes(job)[:2] == ("unknown", "unknown")
    world.run(job)
    assert codes(job)[:2] == ("ok", "ok")
    assert found(world.target, "Sql").updates == 1


def test_a_rollback_updates_back_what_was_updated(world: GatewayWorld, other: FakeTarget) -> None:
    custom(world, world.configuration, "Rollback On Post Rotation Fail")
    found(world.target, "Pool").refuses = True
    job = world.run()
    assert codes(job) == ("rolled_back", "failed", "none", "services_failed")
    assert world.password() == OLD
    assert [found(world.target, name).password for name in ("Sql", "Nightly", "Pool")] == [OLD] * 3
    assert found(other, "Web").password == OLD
    assert found(world.target, "Pool").updates == 0
    assert steps(job, "restore") == [("succeeded", None)] * 3


@pytest.mark.parametrize("boundary", ["rollback:after:finish", "running:restore:6", "after:restore:7"])
def test_a_crash_while_it_is_updated_back_is_resumed(world: GatewayWorld, other: FakeTarget, boundary: str) -> None:
    custom(world, world.configuration, "Rollback On Post Rotation Fail")
    found(world.target, "Pool").refuses = True
    job = world.job()
    world.at[boundary] = killed
    with pytest.raises(Killed):
        world.run(job)
    job.state = "queued"
    world.run(job)
    assert codes(job)[0] == "rolled_back"
    assert [found(world.target, name).password for name in ("Sql", "Nightly")] == [OLD] * 2
    assert found(other, "Web").password == OLD


def test_a_machine_whose_administrator_is_refused_is_set_aside(world: GatewayWorld, other: FakeTarget) -> None:
    other.accounts["boss"].password = "Changed-By-Hand"
    job = world.run()
    assert codes(job)[:2] == ("unknown", "unknown")
    assert steps(job)[-1] == ("unknown", "admin_refused")
    assert job.report is not None
    [finding] = job.report["machines"]
    assert (finding["verdict"], finding["machine_uid"]) == ("refused", world.router.services[1].machine_uid)
    assert job.report["administrator"] is None


def test_a_machine_that_is_set_aside_is_not_asked(world: GatewayWorld, other: FakeTarget) -> None:
    world.router.services[1] = world.router.services[1].model_copy(update={"is_set_aside": True})
    job = world.run()
    assert steps(job)[-1] == ("unknown", "target_set_aside")
    assert other.logins == 0


def test_names_that_cannot_be_read_stop_before_the_change(world: GatewayWorld) -> None:
    sealed = aes.encrypt(b"[]", aes.new_key())
    world.router.services[0] = world.router.services[0].model_copy(update={"names": sealed})
    job = world.run()
    assert codes(job)[0] == "failed"
    assert world.target.changes == 0


def test_a_plan_names_what_would_be_updated(world: GatewayWorld) -> None:
    job = world.run(kind="plan")
    assert world.detail(job)["message"].endswith("would update 3 services on 1 machine")
    assert [each["name"] for each in world.detail(job)["plan"]["services"]] == ["sql", "Nightly", "Pool"]
    assert world.target.changes == 0


def test_a_reconciliation_updates_them_only_when_asked(world: GatewayWorld) -> None:
    found(world.target, "Sql").password = "wrong"
    assert codes(world.run(kind="reconcile"))[1] == "none"
    job = world.run(kind="reconcile", parameters={"update_services": True})
    assert codes(job)[:2] == ("ok", "ok")
    assert found(world.target, "Sql").password == OLD


def test_a_machines_administrator_has_its_own_places_in_its_lockout_budget(
    world: GatewayWorld, other: FakeTarget
) -> None:
    assert world.run().state == "succeeded"
    machine = world.router.services[1].machine_uid
    assert [asked for asked in world.router.asked if asked[1]] == [("admin", machine)]
    assert world.router.places == {}


def test_a_user_that_administers_a_machine_itself_logs_in_there_by_a_place_of_its_own(
    world: GatewayWorld, other: FakeTarget
) -> None:
    other.accounts["app"] = FakeAccount(password="Changed-By-Hand", is_admin=True)
    world.router.services[1] = world.router.services[1].model_copy(update={"admin_uid": world.user})
    world.run()
    assert ("account", None) in world.router.asked
    assert world.router.refusals_left == 2

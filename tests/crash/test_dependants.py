"""The gateway is killed while what runs as the rotated account gets the new password, and while it gets the former one back.

The machine is emulated (``deploy/lab/windows``): its services start only while the password they keep is the account's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab import windows
from deploy.lab.windows import Service, WindowsServer
from pam_jobs.records.services import ServiceKind, ServiceNames
from tests.crash import judge, table
from tests.crash.rounds import IS_FULL, Case, await_boundaries
from tests.crash.targets import Target
from tests.crash.world import Account, World

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]
_COUNT = 3  # services that run as one account
_SOME = ("before:dependant:2", "running:dependant:1", "after:dependant:2")
_ALL = (
    "before:declare", "after:declare", "after:promote",
    *(f"{when}:dependant:{number}" for when in ("before", "running", "after", "stored") for number in range(1, 4)),
)  # fmt: skip
_BACK_SOME = ("running:restore:6", "after:restore:7")
_BACK_ALL = (
    "stored:dependant:3", "rollback:begun", "rollback:after:change", "rollback:after:promote", "rollback:before:finish",
    "rollback:after:finish", *(f"{when}:restore:{number}" for when in ("before", "running", "after") for number in (6, 7)),
)  # fmt: skip


class Machine(Target):
    name = "windows (emulated)"
    protocol = "winrm"
    record_type = "pamMachine"
    locks_accounts = False

    def __init__(self, server: WindowsServer) -> None:
        self.server = server
        self.admin_login, self.admin_password = server.admin_login, server.admin_password
        self.proxies = []

    def enter(self, world: World) -> None:
        """Make the records of the machine, and let the configuration know its port."""
        mapping = "\n".join([*(target.port_mapping for target in world.targets), f"{self.server.port}=winrm"])
        world.vault.records.update(
            world.site.configuration_uid, lambda record: record.set_field("multiline", mapping, "portMapping")
        )
        world.secrets.add(self.admin_password)
        self.admin = world.site.add_user(self.admin_login, self.admin_password)
        self.resource = world.site.add_resource("pamMachine", self.server.host, self.server.port, self.admin)

    def add(self, login: str, password: str) -> None:
        with self.server.machine.changing() as machine:
            machine.add_user(login, password)
            for number in range(1, _COUNT + 1):
                machine.services[f"{login}.{number}"] = Service(
                    name=f"{login}.{number}", account=f".\\{login}", stored=password, state="Running",
                    started_at=time.time() - 60,
                )  # fmt: skip

    def account(self, world: World) -> Account:
        """Make an account as which services run, with its record."""
        login = self.new_login()
        self.add(login, self.first)
        uid = self.record(world.site, login)
        world.site.rotate_by(uid, self.resource)
        names = ServiceNames()
        for number in range(1, _COUNT + 1):
            names = names.with_manual(ServiceKind.SERVICE, f"{login}.{number}")
        stored = world.vault.records.get(uid)
        world.vault.services.change(stored, self.resource, lambda _now: names)
        runs = world.folder / "runs" / uid
        world.site.attach(uid, "count.sh", f"#!/bin/sh\necho run >> {runs}\n".encode())
        return Account(target=self, login=login, uid=uid, key=stored.key, runs_path=runs)

    def services(self, login: str) -> list[Service]:
        return [self.server.machine.services[f"{login}.{number}"] for number in range(1, _COUNT + 1)]

    def logs_in(self, login: str, password: str) -> bool:
        return self.server.machine.users[login].password == password

    def set_password(self, login: str, password: str) -> None:
        self.server.machine.users[login].password = password

    def lock(self, login: str, *, is_locked: bool) -> None:
        raise NotImplementedError("no test here needs it")

    def demote_admin(self, *, is_demoted: bool) -> None:
        raise NotImplementedError("no test here needs it")

    def make_admin(self, login: str) -> None:
        raise NotImplementedError("no test here needs it")

    def fingerprint(self, login: str) -> str:
        return f"{self.server.machine.users[login].last_set}"


@pytest.fixture(scope="module")
def machine(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder: Path = tmp_path_factory.mktemp("windows")
    policy = windows.Policy(complexity=False, lockout_threshold=0)
    server = windows.start(folder, windows.Machine(policy=policy))
    made = Machine(server)
    made.enter(world)
    yield made
    server.stop()


def begin(world: World, cases: list[Case]) -> None:
    for case in cases:
        assert isinstance(case.target, Machine)
        case.account = case.target.account(world)
        world.orders.stop_at(case.account.uid, case.boundary)


def strike(world: World, cases: list[Case]) -> dict[str, judge.JobRow]:
    """Rotate, kill the gateway when each job stands at its boundary, and return how all of them ended."""
    for case in cases:
        case.job_uid = world.submit(case.account)
    await_boundaries(world, cases)
    accounts = [case.account for case in cases]
    world.kill("gateway")
    judge.check_nothing_lost(world, accounts)
    world.start_one("gateway")
    ends = judge.ended(world, [case.job_uid for case in cases])
    judge.check_current(world, accounts)
    return ends


def live(machine: Machine, account: Account) -> str:
    return machine.server.machine.users[account.login].password


def test_every_service_has_the_new_password_and_runs(world: World, machine: Machine) -> None:
    cases = [Case(target=machine, boundary=place) for place in (_ALL if IS_FULL else _SOME)]
    begin(world, cases)
    ends = strike(world, cases)
    for case in cases:
        end, what = ends[case.job_uid], f"at {case.boundary}: {ends[case.job_uid]}"
        assert (end.state, end.cause) == ("succeeded", None), what
        for number, service in enumerate(machine.services(case.account.login), start=1):
            assert service.stored == live(machine, case.account) != machine.first, f"{what}: service {number}"
            assert service.state == "Running", f"{what}: service {number}"
            was_cut_off = case.boundary in {f"running:dependant:{number}", f"after:dependant:{number}"}
            assert 1 <= service.starts <= 1 + was_cut_off, (
                f"{what}: service {number} was restarted {service.starts} times"
            )
        assert case.account.runs() == 1, what
        table.add(
            "gateway killed between services", machine.name, "rotated", where=case.boundary, attempts=end.attempts
        )
    judge.check_story(world, [case.account for case in cases])
    judge.check_no_secret(world)


def test_every_service_has_the_former_password_when_it_was_rolled_back(world: World, machine: Machine) -> None:
    cases = [Case(target=machine, boundary=place) for place in (_BACK_ALL if IS_FULL else _BACK_SOME)]
    begin(world, cases)
    for case in cases:
        world.vault.records.update(
            case.account.uid,
            lambda record: record.set_field("text", "TRUE", "Rollback On Post Rotation Fail", custom=True),
        )
        last = machine.services(case.account.login)[-1]
        last.account = ".\\somebody"  # named by the operator, and runs as another: it fails and was never touched
    ends = strike(world, cases)
    for case in cases:
        end, what = ends[case.job_uid], f"at {case.boundary}: {ends[case.job_uid]}"
        assert (end.state, end.status) == ("failed", "rolled_back"), what
        assert live(machine, case.account) == machine.first, what
        for service in machine.services(case.account.login):
            assert (service.stored, service.state) == (machine.first, "Running"), what
        assert machine.services(case.account.login)[-1].starts == 0, what
        table.add(
            "gateway killed while services are updated back", machine.name, "rolled back", where=case.boundary,
            attempts=end.attempts,
        )  # fmt: skip
    judge.check_no_secret(world)

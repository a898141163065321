"""What runs as an account on Windows: restarted in order, left as it was, never under another account. Emulated."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from connectors.base import Deadline, Dependant, DependantOutcome, DependantState, RunAs, Unseen
from connectors.windows.connector import WinrmConnector
from deploy.lab import windows
from deploy.lab.windows import Component, Pool, Service, Task, WindowsServer
from pam_jobs.errors import Forbidden, PolicyRefused, Unsupported
from pam_jobs.secret import SecretValue
from tests.support.benches.windows import WindowsBench

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]
OLD = "Old-Secret-1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WindowsServer]:
    made = windows.start(
        tmp_path_factory.mktemp("windows"), windows.Machine(policy=windows.Policy(lockout_threshold=0))
    )
    yield made
    made.stop()


@dataclass
class Site:
    """An account whose password has just changed, and what ran as it before."""

    bench: WindowsBench
    login: str
    new: str
    fences: int = 0

    @property
    def machine(self) -> windows.Machine:
        return self.bench.server.machine

    def service(
        self, name: str, *, running: bool = True, needs: tuple[str, ...] = (), account: str | None = None
    ) -> Service:
        made = Service(
            name=name, account=account or f".\\{self.login}", stored=OLD, state="Running" if running else "Stopped",
            needs=needs, started_at=time.time() - 3600,
        )  # fmt: skip
        self.machine.services[name.lower()] = made
        return made

    def update(self, kind: str, name: str, password: str | None = None) -> DependantOutcome:
        def fence() -> None:
            self.fences += 1

        run_as = RunAs(
            names=(f".\\{self.login}", self.login, f"127\\{self.login}"), password=SecretValue(password or self.new)
        )
        with self.bench.connector.open(self.bench.target, self.bench.admin, Deadline(30)) as session:
            return session.update_dependant(Dependant(kind=kind, name=name), run_as, fence)

    def found(self) -> list[Dependant | Unseen]:
        with self.bench.connector.open(self.bench.target, self.bench.admin, Deadline(30)) as session:
            return list(session.dependants())


@pytest.fixture
def site(server: WindowsServer) -> Iterator[Site]:
    for kept in (server.machine.services, server.machine.tasks, server.machine.pools, server.machine.components):
        kept.clear()
    server.machine.restarts.clear()
    bench = WindowsBench(server)
    login, new = f"svc{secrets.token_hex(4)}", f"N€w \"';$`%{secrets.token_hex(4)}\\"
    server.machine.add_user(login, new)
    yield Site(bench, login, new)
    assert isinstance(bench.connector, WinrmConnector)
    bench.connector.close_idle()
    assert new not in bench.log_text()


def test_a_running_service_is_restarted_with_what_runs_on_top_of_it(site: Site) -> None:
    main = site.service("Sql")
    above = site.service("Agent", needs=("Sql",), account="LocalSystem")
    idle = site.service("Report", needs=("Sql",), account="LocalSystem", running=False)
    top = site.service("Portal", needs=("Agent",), account="LocalSystem")
    outcome = site.update("service", "sql")
    assert (outcome.state, outcome.restarted) == (DependantState.RESTARTED, ("Sql", "Agent", "Portal"))
    assert (main.stored, main.state, above.state, top.state) == (site.new, "Running", "Running", "Running")
    assert [each.starts for each in (main, above, top, idle)] == [1, 1, 1, 0]
    assert idle.state == "Stopped"
    assert site.fences == 1


def test_a_stopped_service_is_left_stopped_and_would_start(site: Site) -> None:
    service = site.service("Sql", running=False)
    assert site.update("service", "Sql").state is DependantState.UPDATED
    assert (service.state, service.stored, service.starts) == ("Stopped", site.new, 0)
    site.machine.start_service("Sql")


def test_what_runs_with_the_password_already_is_left_running(site: Site) -> None:
    site.machine.users[site.login].last_set -= 60
    service = site.service("Sql")
    assert site.update("service", "Sql").state is DependantState.RESTARTED
    assert site.update("service", "Sql").state is DependantState.ALREADY
    assert service.starts == 1


def test_a_service_that_does_not_come_up_says_why(site: Site) -> None:
    service = site.service("Sql")
    service.hangs = True
    outcome = site.update("service", "Sql")
    assert (outcome.state, outcome.cause) == (DependantState.NOT_STARTED, "not_started")
    assert "1053" in outcome.detail
    assert service.stored == site.new


def test_a_service_whose_account_cannot_log_on_says_so(site: Site) -> None:
    site.machine.users[site.login].enabled = False
    site.service("Sql")
    outcome = site.update("service", "Sql")
    assert outcome.state is DependantState.NOT_STARTED
    assert "1069" in outcome.detail


def test_a_restart_that_was_cut_off_is_finished(site: Site) -> None:
    main = site.service("Sql", running=False)
    above = site.service("Agent", needs=("Sql",), account="LocalSystem", running=False)
    site.machine.restarts["sql"] = ["Sql", "Agent"]  # stopped, and then the gateway was killed
    assert site.update("service", "Sql").restarted == ("Sql", "Agent")
    assert (main.state, above.state, site.machine.restarts) == ("Running", "Running", {})


def test_another_account_is_never_touched(site: Site) -> None:
    service = site.service("Sql", account="CORP\\" + site.login)
    outcome = site.update("service", "Sql")
    assert (outcome.state, outcome.cause) == (DependantState.OTHER_ACCOUNT, "not_running_as_user")
    assert (service.stored, service.starts, site.fences) == (OLD, 0, 0)
    for kind in ("service", "task", "iis_pool", "com_plus", "dcom"):
        assert site.update(kind, "Nothing").state is DependantState.NOT_FOUND


def test_the_machines_own_name_before_the_account_means_it_too(site: Site) -> None:
    service = site.service("Sql", account=f"win-lab\\{site.login.upper()}")
    assert site.update("service", "Sql").state is DependantState.RESTARTED
    assert service.account == f"win-lab\\{site.login.upper()}", "the spelling stays"


@pytest.mark.parametrize("name", ["O'Brien", 'a"b', "back\\slash", "100%", "$(calc)", "-x", "日本", "a b;c|d"])
def test_names_are_taken_as_they_are(site: Site, name: str) -> None:
    service = site.service(name)
    assert site.update("service", name).state is DependantState.RESTARTED
    assert service.stored == site.new


def test_a_task_gets_the_password_that_windows_tries(site: Site) -> None:
    task = Task(path="\\Jobs\\Nightly", account=f"WIN-LAB\\{site.login}", stored=OLD, definition="<Task/>")
    other = Task(path="\\Interactive", account=site.login, logon="InteractiveToken")
    site.machine.tasks |= {task.path.lower(): task, other.path.lower(): other}
    refused = site.update("task", "\\jobs\\nightly", "Wrong-Secret-1")
    assert (refused.state, refused.cause, task.stored) == (DependantState.REFUSED, "logon_failed", OLD)
    assert site.update("task", "\\Jobs\\Nightly").state is DependantState.UPDATED
    assert site.update("task", "Jobs\\Nightly").state is DependantState.UPDATED, "again does no harm"
    assert (task.stored, task.definition, task.account) == (site.new, "<Task/>", f"WIN-LAB\\{site.login}")
    assert site.update("task", "Interactive").cause == "no_password"


def test_a_pool_is_recycled_once(site: Site) -> None:
    pool = Pool(name="Web", account=f".\\{site.login}", stored=OLD)
    idle = Pool(name="Idle", account=site.login, stored=OLD, state="Stopped")
    own = Pool(name="Own", identity="ApplicationPoolIdentity")
    site.machine.pools |= {each.name.lower(): each for each in (pool, idle, own)}
    assert site.update("iis_pool", "web").state is DependantState.RESTARTED
    assert site.update("iis_pool", "Web").state is DependantState.ALREADY
    assert site.update("iis_pool", "Idle").state is DependantState.UPDATED
    assert site.update("iis_pool", "Own").state is DependantState.OTHER_ACCOUNT
    assert (pool.stored, pool.recycles, idle.recycles, idle.state) == (site.new, 1, 0, "Stopped")


def test_components_get_it_where_windows_keeps_it(site: Site) -> None:
    plus = Component(kind="com_plus", key="{1}", name="Orders", account=f".\\{site.login}", is_running=True)
    dcom = Component(kind="dcom", key="{2}", name="Printer", account=f"WIN-LAB\\{site.login}")
    site.machine.components |= {"plus": plus, "dcom": dcom}
    assert site.update("com_plus", "Orders").state is DependantState.RESTARTED
    assert site.update("dcom", "{2}").state is DependantState.UPDATED
    assert (plus.stored, dcom.stored, plus.starts) == (site.new, site.new, 1)
    with pytest.raises(Unsupported):
        site.update("scom", "Run As")


def test_passwords_windows_does_not_take_and_rotators_without_rights_are_refused(site: Site) -> None:
    site.service("Sql")
    with pytest.raises(PolicyRefused):
        site.update("service", "Sql", "a\nb")
    admin = site.machine.users["administrator"]
    admin.admin, admin.remote = False, True
    try:
        with pytest.raises(Forbidden):
            site.update("service", "Sql")
    finally:
        admin.admin = True
    assert site.fences == 0


def test_what_runs_as_whom_is_listed_without_the_systems_own(site: Site) -> None:
    site.service("Sql", account=f"WIN-LAB\\{site.login}")
    for number, account in enumerate(("LocalSystem", "NT AUTHORITY\\LocalService", "NT SERVICE\\x", "CORP\\gmsa$")):
        site.service(f"own{number}", account=account)
    site.machine.tasks["\\n"] = Task(path="\\N", account=site.login)
    site.machine.pools["web"] = Pool(name="Web", account="CORP\\web")
    site.machine.components["d"] = Component(kind="dcom", key="{2}", name="P", account="Interactive User")
    assert site.found() == [
        Dependant(kind="service", name="Sql", account=f".\\{site.login}"),
        Dependant(kind="task", name="\\N", account=site.login),
        Dependant(kind="iis_pool", name="Web", account="CORP\\web"),
    ]

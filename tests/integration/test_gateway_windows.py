"""The engine against an emulated Windows machine, over WinRM, with a real router and the vendor's SDK between them."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

import pytest

from deploy.lab import windows
from deploy.lab.windows import Component, Machine, Pool, Service, Task, WindowsServer
from pam_jobs.records.services import ServiceKind, ServiceNames
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration


def test_an_account_is_rotated_verified_and_followed_by_its_script(
    sqlite_router: RunningRouter, windows_server: WindowsServer, tmp_path: Path
) -> None:
    server = windows_server
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{server.port}=winrm")
    admin = site.add_user(server.admin_login, server.admin_password)
    resource = site.add_resource("pamMachine", server.host, server.port, admin)
    login = "svc_" + secrets.token_hex(4)
    server.machine.add_user(login, "First-Secret-1")
    uid = site.add_user(login, "First-Secret-1")
    site.rotate_by(uid, resource)
    site.attach(resource, "after.ps1", b"exit 0\r\n")
    engine = site.engine()

    plan = site.run("plan", uid, engine)
    assert plan["detail"]["plan"]["connector"] == "winrm"
    job = site.run("rotate", uid, engine)

    assert job["state"] == "succeeded", job
    new = site.password(uid)
    assert server.machine.users[login].password == new != "First-Secret-1"
    assert site.vault.jobs.proof(uid)["proven"] is True
    assert [(step["place"], step["state"]) for step in job["steps"]] == [("machine", "succeeded")]
    told = json.loads(base64.b64decode(server.machine.runs[-1]["stdin"]))
    assert (told["user"], told["newPassword"]) == (login, new)
    logged = "\n".join(server.machine.events + server.listeners[0].requests)
    assert new not in logged
    assert new.encode() not in site.router.dump()
    assert not server.machine.files

    server.machine.users[login].password = "By-Hand-1"
    seen = site.run("verify", uid, engine)
    assert (seen["state"], seen["cause"]) == ("failed", "drift")
    assert site.run("reconcile", uid, engine)["state"] == "succeeded"
    assert server.machine.users[login].password == new
    seen = site.run("verify", uid, engine)  # it may not log in from afar: the machine itself tries it
    assert (seen["state"], seen["status"]) == ("succeeded", "ok"), seen


@pytest.fixture
def login(windows_server: WindowsServer) -> str:
    """An account that two services, a task and a pool of the machine run as."""
    machine, name = windows_server.machine, "svc_" + secrets.token_hex(4)
    machine.add_user(name, "First-Secret-1")
    own = {"account": f".\\{name}", "stored": "First-Secret-1"}
    with machine.changing():
        for kept in (machine.services, machine.tasks, machine.pools, machine.components):
            kept.clear()
        machine.services |= {
            "sql": Service(name="Sql", state="Running", **own),
            "agent": Service(name="Agent", account="LocalSystem", state="Running", needs=("Sql",)),
            "idle": Service(name="Idle", **own),
        }
        machine.tasks["\\nightly"] = Task(path="\\Nightly", **own)
        machine.pools["web"] = Pool(name="Web", **own)
        machine.components["x"] = Component(kind="com_plus", key="{1}", name="Else", account="CORP\\else")
    return name


def stored(machine: Machine) -> set[str | None]:
    return {
        *(each.stored for each in machine.services.values() if each.account != "LocalSystem"),
        *(each.stored for each in machine.tasks.values()),
        *(each.stored for each in machine.pools.values()),
    }


def test_what_runs_as_the_account_is_mapped_by_the_gateway_and_follows_its_rotation(
    sqlite_router: RunningRouter, windows_server: WindowsServer, login: str, tmp_path: Path
) -> None:
    server, machine = windows_server, windows_server.machine
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{server.port}=winrm")
    resource = site.add_resource(
        "pamMachine", server.host, server.port, site.add_user(server.admin_login, server.admin_password)
    )
    uid = site.add_user(login, "First-Secret-1")
    site.rotate_by(uid, resource)
    site.attach(uid, "after.sh", b"#!/bin/sh\nexit 0\n")
    engine, services = site.engine(), site.vault.services
    place = site.vault.records.get(resource)

    services.change(site.vault.records.get(uid), resource, lambda now: now.with_manual(ServiceKind.SERVICE, "idle"))
    job_uid = services.look(place, site.configuration_uid)["uid"]
    engine.run(job_uid)
    told = services.take(job_uid, place, site.vault.records.get(site.configuration_uid))
    assert [(each["type"], each["name"]) for each in told["mapped"]] == [
        ("service", "Sql"), ("service", "Idle"), ("task", "\\Nightly"), ("iis_pool", "Web"),
    ]  # fmt: skip
    assert told["unknown"] == [{"type": "com_plus", "name": "Else", "user": "CORP\\else"}]
    [mapping] = [each for each in services.list() if each.user_uid == uid]
    assert mapping.names is not None
    assert {entry.name: entry.via_discovery for entry in mapping.names.entries} == {
        "idle": False, "Sql": True, "\\Nightly": True, "Web": True,
    }  # fmt: skip

    assert [each["name"] for each in site.run("plan", uid, engine)["detail"]["plan"]["services"]] == [
        "idle", "Sql", "\\Nightly", "Web",
    ]  # fmt: skip
    job = site.run("rotate", uid, engine)
    assert (job["state"], job["status"], job["services_status"]) == ("succeeded", "ok", "ok"), job
    new = site.password(uid)
    assert stored(machine) == {new}
    assert [(each.state, each.starts) for each in machine.services.values()] == [
        ("Running", 1), ("Running", 1), ("Stopped", 0),
    ]  # fmt: skip
    assert [(step["kind"], step["output"]["outcome"]) for step in job["steps"][:4]] == [
        ("dependant", "updated"), ("dependant", "updated_and_restarted"), ("dependant", "updated"),
        ("dependant", "updated_and_restarted"),
    ]  # fmt: skip
    assert job["steps"][4]["kind"] == "script"
    assert site.vault.jobs.proof(uid)["proven"] is True
    dump = site.router.dump()
    for secret in (new, "Nightly"):
        assert secret.encode() not in dump
    assert new not in "\n".join(server.machine.events + server.listeners[0].requests)


def test_a_service_that_stays_down_fails_the_job_and_the_former_password_comes_back_when_that_is_wished(
    sqlite_router: RunningRouter, windows_server: WindowsServer, login: str, tmp_path: Path
) -> None:
    server, machine = windows_server, windows_server.machine
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{server.port}=winrm")
    resource = site.add_resource(
        "pamMachine", server.host, server.port, site.add_user(server.admin_login, server.admin_password)
    )
    uid = site.add_user(login, "First-Secret-1")
    site.rotate_by(uid, resource)
    wanted = ServiceNames().with_manual(ServiceKind.SERVICE, "Sql").with_manual(ServiceKind.IIS_POOL, "Web")
    site.vault.services.change(site.vault.records.get(uid), resource, lambda _now: wanted)
    machine.services["sql"].hangs = True
    engine = site.engine()

    job = site.run("rotate", uid, engine)
    assert (job["state"], job["status"], job["services_status"], job["cause"]) == (
        "failed", "ok", "failed", "services_failed",
    )  # fmt: skip
    assert job["steps"][0]["cause"] == "not_started"
    assert machine.users[login].password == site.password(uid) != "First-Secret-1"
    machine.services["sql"].hangs = False

    job = site.run("reconcile", uid, engine, update_services=True)
    assert (job["state"], job["services_status"]) == ("succeeded", "ok"), job
    before = site.password(uid)
    machine.services["sql"].state, machine.services["sql"].hangs = "Running", True
    site.vault.records.update(
        uid, lambda record: record.set_field("text", "TRUE", "Rollback On Post Rotation Fail", custom=True)
    )
    job = site.run("rotate", uid, engine)
    assert (job["status"], job["state"]) == ("rolled_back", "failed"), job
    assert machine.users[login].password == site.password(uid) == before
    assert stored(machine) - {"First-Secret-1"} == {before}, "what was not mapped keeps what it had"


def test_a_machine_that_is_away_is_tried_again_and_the_credential_is_proven_meanwhile(
    sqlite_router: RunningRouter, windows_server: WindowsServer, login: str, tmp_path: Path
) -> None:
    user = windows_server.machine.users[login]
    service = Service(name="Web", account=f"CORP\\{login}", stored="First-Secret-1", state="Running")
    member = Machine(name="WEB", domain="CORP", services={"web": service}, users={login: user})  # one account of both
    other = windows.start(tmp_path / "other", member)
    site = GatewaySite(
        sqlite_router, tmp_path, port_mapping=f"{windows_server.port}=winrm\n{other.port}=winrm\n1=winrm"
    )
    admin = site.add_user(windows_server.admin_login, windows_server.admin_password)
    resource = site.add_resource("pamMachine", windows_server.host, windows_server.port, admin)
    away = site.add_resource("pamMachine", other.host, 1, site.add_user(other.admin_login, other.admin_password))
    custom = [{"type": "text", "label": "Alternative Login", "value": [f"CORP\\{login}"]}]
    uid = site.add_user(login, "First-Secret-1", custom=custom)
    site.rotate_by(uid, resource)
    names = ServiceNames().with_manual(ServiceKind.SERVICE, "Web")
    site.vault.services.change(site.vault.records.get(uid), away, lambda _now: names)
    engine = site.engine()

    job = site.run("rotate", uid, engine)
    assert (job["state"], job["services_status"], job["cause"]) == ("unknown", "unknown", "services_waiting"), job
    assert user.password == site.password(uid) != "First-Secret-1"
    assert site.vault.jobs.proof(uid)["proven"] is True
    assert service.stored == "First-Secret-1"
    assert any("machine" in reason for reason in site.vault.jobs.explain(job["uid"])["reasons"])

    value = {"hostName": other.host, "port": str(other.port)}
    site.vault.records.update(away, lambda record: record.set_field("pamHostname", value))
    again = site.run("rotate", uid, engine)  # asking again ends the wait
    other.stop()
    assert (again["uid"], again["state"], again["services_status"]) == (job["uid"], "succeeded", "ok"), again
    assert (service.stored, service.state, service.starts) == (user.password, "Running", 1)
    assert user.password == site.password(uid)

"""The engine against an emulated Windows machine, over WinRM, with a real router and the vendor's SDK between them."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

import pytest

from deploy.lab.windows import WindowsServer
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

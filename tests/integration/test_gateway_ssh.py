"""The engine and discovery against a real SSH server."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from deploy.lab import PostgresServer, SshServer
from pam_jobs.crypto import aes
from pam_jobs.crypto.blob import from_base64
from pam_jobs.records.keys import generate_key
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration


class Machine:
    """A site with the lab's SSH server as a resource."""

    def __init__(self, site: GatewaySite, server: SshServer) -> None:
        self.site = site
        self.server = server
        self.admin = site.add_user(server.admin_login, server.admin_password, server.admin_private_key)
        self.resource = site.add_resource("pamMachine", server.host, server.port, self.admin)

    def add_account(self, *, key: str | None = None) -> tuple[str, str]:
        login = "u" + secrets.token_hex(4)
        self.server.add_user(login, "First-Secret-1")
        uid = self.site.add_user(login, "First-Secret-1", key)
        self.site.rotate_by(uid, self.resource)
        return login, uid

    def logs_in(self, login: str, password: str) -> bool:
        client = paramiko.SSHClient()
        kind, text = self.server.host_key.split()
        name = f"[{self.server.host}]:{self.server.port}"
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(text))
        client.get_host_keys().add(name, kind, key)
        try:
            client.connect(
                self.server.host, self.server.port, login, password, look_for_keys=False, allow_agent=False, timeout=10
            )
        except paramiko.AuthenticationException:
            return False
        finally:
            client.close()
        return True


@pytest.fixture
def machine(sqlite_router: RunningRouter, sshd_server: SshServer, tmp_path: Path) -> Machine:
    return Machine(GatewaySite(sqlite_router, tmp_path, port_mapping=f"{sshd_server.port}=ssh"), sshd_server)


def test_a_password_is_rotated_on_a_machine(machine: Machine) -> None:
    login, uid = machine.add_account()
    job = machine.site.run("rotate", uid)
    assert job["state"] == "succeeded", job
    assert machine.logs_in(login, machine.site.password(uid))
    assert not machine.logs_in(login, "First-Secret-1")


def test_a_mac_is_rotated_by_its_own_tools(sqlite_router: RunningRouter, mac_server: SshServer, tmp_path: Path) -> None:
    mac = Machine(GatewaySite(sqlite_router, tmp_path, port_mapping=f"{mac_server.port}=ssh"), mac_server)
    mac.site.vault.records.update(mac.resource, lambda record: record.set_field("text", "macos", "operatingSystem"))
    login, uid = mac.add_account()
    engine = mac.site.engine()
    assert mac.site.run("plan", uid, engine)["detail"]["plan"]["connector"] == "macos"
    job = mac.site.run("rotate", uid, engine)
    assert job["state"] == "succeeded", job
    assert mac.logs_in(login, mac.site.password(uid))
    assert not mac.logs_in(login, "First-Secret-1")


def test_password_and_key_rotate_together(machine: Machine) -> None:
    pair = generate_key("ssh-ed25519")
    login, uid = machine.add_account(key=pair.private_pem.reveal())
    home = f"/home/{login}/.ssh"
    machine.server.run(["install", "-d", "-m", "700", "-o", login, "-g", login, home])
    machine.server.run(["tee", f"{home}/authorized_keys"], f"{pair.public} first\n".encode())
    machine.server.run(["chown", f"{login}:", f"{home}/authorized_keys"])
    engine = machine.site.engine()
    for _ in range(2):
        assert machine.site.run("rotate", uid, engine)["state"] == "succeeded"
    lines = machine.server.run(["cat", f"{home}/authorized_keys"]).stdout.decode().splitlines()
    assert [line.split()[2] for line in lines] == ["first", f"keeper-security-{uid}"]
    assert machine.site.record(uid).private_key != pair.private_pem


@contextmanager
def remembering_passwords(server: SshServer) -> Iterator[None]:
    """Let PAM refuse, to root too, a password that the account had before."""
    service = "/etc/pam.d/chpasswd"
    before = server.run(["cat", service]).stdout
    server.run(["touch", "/etc/security/opasswd"])
    rule = b"password requisite pam_pwhistory.so remember=5 enforce_for_root\n"
    server.run(["tee", service], rule + before)
    try:
        yield
    finally:
        server.run(["tee", service], before)


def test_a_roll_back_that_the_machine_refuses_is_told_and_the_new_password_stays(machine: Machine) -> None:
    login, uid = machine.add_account()
    machine.site.attach(uid, "fails.sh", b"#!/bin/sh\nexit 7\n")
    flag = "Rollback On Post Rotation Fail"
    machine.site.vault.records.update(uid, lambda record: record.set_field("text", "TRUE", flag, custom=True))
    engine = machine.site.engine()
    with remembering_passwords(machine.server):
        job = machine.site.run("rotate", uid, engine)
    assert (job["state"], job["status"], job["cause"]) == ("failed", "rollback_refused", "policy_refused"), job
    assert (job["steps"][-1]["kind"], job["steps"][-1]["state"]) == ("rollback", "failed")
    new = machine.site.password(uid)
    assert new != "First-Secret-1"
    assert machine.logs_in(login, new)
    proof = machine.site.vault.jobs.proof(uid)
    assert (proof["proven"], proof["unresolved"]) == (True, [])
    job = machine.site.run("rotate", uid, engine)
    assert job["status"] == "rolled_back", "a machine without such a rule takes the former password back"
    assert machine.logs_in(login, new)
    assert machine.site.password(uid) == new


def test_a_key_that_the_machine_does_not_take_undoes_the_password_or_leaves_it(machine: Machine) -> None:
    pair = generate_key("ssh-ed25519")
    login, uid = machine.add_account(key=pair.private_pem.reveal())
    folder = f"/home/{login}/.ssh"
    machine.server.run(["install", "-d", "-m", "755", folder])  # root's: the account may read it and nothing else
    machine.server.run(["tee", f"{folder}/authorized_keys"], f"{pair.public} first\n".encode())
    engine = machine.site.engine()
    job = machine.site.run("rotate", uid, engine)
    assert (job["state"], job["status"], job["cause"]) == ("failed", "rolled_back", "private_key_failed"), job
    assert machine.logs_in(login, "First-Secret-1")
    assert machine.site.password(uid) == "First-Secret-1"
    assert machine.site.run("verify", uid, engine)["state"] == "succeeded"

    label = "Rollback On Private Key Fail"
    machine.site.vault.records.update(
        machine.resource, lambda record: record.set_field("text", "FALSE", label, custom=True)
    )
    job = machine.site.run("rotate", uid, engine)
    assert (job["state"], job["status"], job["effect"]) == ("failed", "partial", "applied"), job
    new = machine.site.password(uid)
    assert new != "First-Secret-1"
    assert machine.logs_in(login, new)
    assert machine.site.record(uid).private_key == pair.private_pem
    proof = machine.site.vault.jobs.proof(uid)
    assert (proof["proven"], proof["current"]["seq"], proof["unresolved"]) == (True, 4, [])
    assert machine.site.run("verify", uid, engine)["state"] == "succeeded"

    machine.server.run(["chown", "-R", f"{login}:", folder])
    assert machine.site.run("rotate", uid, engine)["state"] == "succeeded"
    assert machine.site.record(uid).private_key != pair.private_pem


def test_scripts_run_in_their_place_and_order(machine: Machine, tmp_path: Path) -> None:
    login, uid = machine.add_account()
    log = tmp_path / "order"
    machine.site.attach(uid, "user.sh", f"#!/bin/sh\necho user >> {log}\n".encode())
    on_machine = b'#!/bin/sh\nread line; echo "on the machine"; echo "$line" | base64 -d; id -un; ls -ld "$0"\n'
    machine.site.attach(machine.resource, "machine.sh", on_machine)
    machine.site.attach(
        machine.site.configuration_uid, "last", f"open('{log}', 'a').write('configuration\\n')".encode(),
        command="python3 -I",
    )  # fmt: skip
    job = machine.site.run("rotate", uid)
    assert job["state"] == "succeeded", job
    assert [step["place"] for step in job["steps"]] == ["gateway", "machine", "gateway"]
    assert log.read_text() == "user\nconfiguration\n"
    shown = job["steps"][1]["output"]
    assert "on the machine" in shown["stdout"]
    assert login in shown["stdout"]
    assert "-rwx------" in shown["stdout"]
    assert machine.site.password(uid) not in str(job)
    assert "First-Secret-1" not in str(job)


def test_only_scripts_run_where_the_record_says_noop(machine: Machine, tmp_path: Path) -> None:
    noop = [{"type": "text", "label": "NOOP", "value": ["True"]}]
    uid = machine.site.add_user("elsewhere", "Kept-Secret-1", custom=noop)
    machine.site.rotate_by(uid, machine.resource)
    machine.site.attach(uid, "all.sh", f"#!/bin/sh\ncat > {tmp_path}/stdin\n".encode())
    job = machine.site.run("rotate", uid)
    assert (job["state"], job["status"], job["post_rotation_status"]) == ("succeeded", "skipped", "ok")
    assert (tmp_path / "stdin").exists()
    assert machine.site.password(uid) == "Kept-Secret-1"


def test_discovery_finds_machine_database_and_accounts(
    sqlite_router: RunningRouter, sshd_server: SshServer, target_postgres: PostgresServer, tmp_path: Path
) -> None:
    mapping = f"{sshd_server.port}=ssh\n{target_postgres.port}=postgresql\n27018=kubernetes"
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=mapping, cidr="127.0.0.0/31")
    ssh_admin = site.add_user(sshd_server.admin_login, sshd_server.admin_password, sshd_server.admin_private_key)
    sshd_server.run(["sh", "-c", "id -u finn >/dev/null 2>&1 || useradd -m -s /bin/bash finn"])
    started = site.vault.discovery.start(site.configuration_uid, None, {"credential_uids": [ssh_admin, "A" * 22]})
    site.engine().run(started["uid"])
    job = site.opened(started["uid"])
    assert job["state"] == "succeeded", job
    answer = site.vault.router.get(f"/api/v1/discovery/{started['uid']}/result")
    content = json.loads(
        aes.decrypt(from_base64(answer["content"]), site.vault.records.get(site.configuration_uid).key)
    )
    objects = {(found["object_type_value"], found["name"]): found for found in content["objects"]}
    machine = objects["machines", "127.0.0.1"]
    assert machine["access_user"] == {"record_uid": ssh_admin}
    assert machine["item"]["port"] == sshd_server.port
    assert objects["users", "finn"]["parent_uid"] == machine["uid"]
    assert ("databases", f"127.0.0.1:{target_postgres.port}") in objects
    causes = {entry["what"]: entry["cause"] for entry in content["coverage"]}
    assert causes["port 27018=kubernetes"] == "not_supported"
    assert causes[f"127.0.0.1:{target_postgres.port}"] == "refused"
    assert causes["credential " + "A" * 22] == "not_permitted"
    assert content["scope"]["cidr"] == "127.0.0.0/31"
    assert answer["counts"]["machines"] == 1

"""The engine against a real domain whose LDAPS is away: the emulated Windows in front of it rotates over WinRM."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from connectors.base import Account, Credential, Deadline, VerdictState
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from tests.support.gateway_site import GatewaySite
from tests.support.joined import JoinedMachine
from tests.support.router import RunningRouter

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FIRST = "First-Secret-1"


def logs_in(joined: JoinedMachine, login: str, password: str) -> VerdictState:
    credential = Credential(login=login, password=SecretValue(password))
    with joined.bench.connector.open(joined.bench.target, None, Deadline(20)) as session:
        return session.probe(Account(login=login, record_uid="x"), credential).state


def test_an_account_of_a_domain_without_ldaps_is_rotated_and_verified_over_winrm(
    sqlite_router: RunningRouter, joined_controller: JoinedMachine, tmp_path: Path
) -> None:
    joined, server = joined_controller, joined_controller.server
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{port}=ldaps")
        manager = joined.add_account(FIRST, admin=True)
        admin = site.add_user(f"{joined.domain.netbios}\\{manager}", FIRST)
        resource = site.add_resource("pamDirectory", server.host, port, admin)
        fields = {
            "WinRM Port": f"http:{server.port}",
            "Kerberos Host": joined.host,
            "Kerberos KDC": joined.domain.host,
            "ssl_ca": str(server.ca),
        }

        def complete(record: Record) -> Record:
            record = record.set_field("directoryType", "active_directory", "directoryType")
            record = record.set_field("text", joined.domain.domain, "domainName")
            for label, text in fields.items():
                record = record.set_field("text", text, label, custom=True)
            return record

        site.vault.records.update(resource, complete)
        login = joined.add_account(FIRST)
        uid = site.add_user(login, FIRST)
        site.rotate_by(uid, resource)
        engine = site.engine()
        joined.logins()

        plan = site.run("plan", uid, engine)
        job = site.run("rotate", uid, engine)
        verified = site.run("verify", uid, engine)

    assert plan["detail"]["plan"]["connector"] == "activedirectory-winrm", plan
    assert job["state"] == "succeeded", job
    assert verified["state"] == "succeeded", verified
    new = site.password(uid)
    assert site.vault.jobs.proof(uid)["proven"] is True
    assert logs_in(joined, login, new) is VerdictState.ACCEPTED
    assert logs_in(joined, login, FIRST) is VerdictState.REFUSED
    assert {how for how, _ in joined.logins()} == {"kerberos"}
    assert not server.listeners[0].requests, "over HTTP nothing came in the clear"
    logged = "\n".join(joined.machine.events) + joined.domain.log_path.read_text(errors="replace")
    assert new not in logged
    assert new.encode() not in site.router.dump()

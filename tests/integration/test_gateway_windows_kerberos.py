"""The engine against an emulated domain controller over WinRM by Kerberos: domain and tickets are real, the machine is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.base import Deadline
from connectors.kerberos.errors import KdcCode, KdcRefusedError
from connectors.kerberos.tickets import Principal, Realm, Ticket, get_ticket
from deploy.lab import SambaServer
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from tests.support.gateway_site import GatewaySite
from tests.support.joined import JoinedMachine
from tests.support.router import RunningRouter

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FIRST = "First-Secret-1"


def logs_in(joined: JoinedMachine, login: str, password: str) -> Ticket:
    realm = Realm(name=joined.realm, controllers=(joined.domain.host,))
    service = ("HTTP", joined.host)
    return get_ticket(realm, Principal(name=login), SecretValue(password), service, Deadline(10))


def test_an_account_of_the_domain_is_rotated_by_its_administrator(
    sqlite_router: RunningRouter, samba_server: SambaServer, tmp_path: Path
) -> None:
    joined = JoinedMachine(samba_server, tmp_path / "machine", is_controller=True)
    server = joined.server
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{server.port}=winrm")
    manager = joined.add_account(FIRST, admin=True)
    admin = site.add_user(f"{manager}@{samba_server.domain}", FIRST)
    resource = site.add_resource("pamMachine", server.host, server.port, admin)
    fields = {
        "Kerberos": "True",
        "Kerberos Host": joined.host,
        "Kerberos KDC": samba_server.host,
        "ssl_ca": str(server.ca),
    }

    def complete(record: Record) -> Record:
        for label, text in fields.items():
            record = record.set_field("text", text, label, custom=True)
        return record

    site.vault.records.update(resource, complete)
    login = joined.add_account(FIRST)
    uid = site.add_user(f"{samba_server.netbios}\\{login}", FIRST)
    site.rotate_by(uid, resource)
    engine = site.engine()
    joined.logins()

    plan = site.run("plan", uid, engine)
    assert plan["detail"]["plan"]["connector"] == "winrm"
    job = site.run("rotate", uid, engine)
    server.stop()

    assert job["state"] == "succeeded", job
    new = site.password(uid)
    assert new != FIRST
    assert site.vault.jobs.proof(uid)["proven"] is True
    assert logs_in(joined, login, new)
    with pytest.raises(KdcRefusedError) as caught:
        logs_in(joined, login, FIRST)
    assert caught.value.code == KdcCode.PREAUTH_FAILED
    assert set(joined.logins()) == {("kerberos", f"{manager}@{joined.realm}")}
    assert not server.listeners[0].requests, "over HTTP nothing came in the clear"
    logged = "\n".join(joined.machine.events) + samba_server.log_path.read_text(errors="replace")
    for secret in (new, FIRST):
        assert secret not in logged
    assert new.encode() not in site.router.dump()

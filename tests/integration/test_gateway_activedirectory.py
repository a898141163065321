"""The engine against a real domain, with a real router and the vendor's SDK between them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.base import Account, Credential, Deadline, VerdictState
from deploy.lab import SambaServer, samba
from pam_jobs.jobs.wire import OLD_IN_GRACE
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from tests.support.benches.activedirectory import ActiveDirectoryBench
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FIRST = "First-Secret-1"


@pytest.fixture(scope="module")
def usual_domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SambaServer]:
    """A domain with the rules that every new one has: complex passwords, and an hour's grace for the old one."""
    server = samba.start(tmp_path_factory.mktemp("domain"), old_password_minutes=60)
    yield server
    server.stop()


class Domain:
    """A site with the lab's domain as a resource."""

    def __init__(self, site: GatewaySite, server: SambaServer, **fields: str) -> None:
        self.site = site
        self.server = server
        self.bench = ActiveDirectoryBench(server)
        self.admin = site.add_user(server.admin_login, server.admin_password)
        self.resource = site.add_resource("pamDirectory", server.host, server.port, self.admin)

        def complete(record: Record) -> Record:
            for label, text in fields.items():
                record = record.set_field("directoryType" if label == "directoryType" else "text", text, label)
            return record.set_field("text", str(server.ca), "ssl_ca", custom=True)

        site.vault.records.update(self.resource, complete)

    def add_account(self, **values: str) -> tuple[Account, str]:
        account = Account(login="app" + secrets.token_hex(4), record_uid="x")
        self.bench.make_account(account.login, Credential(login=account.login, password=SecretValue(FIRST)), **values)
        uid = self.site.add_user(account.login, FIRST)
        self.site.rotate_by(uid, self.resource)
        return account, uid

    def logs_in(self, account: Account, password: str) -> bool:
        credential = Credential(login=account.login, password=SecretValue(password))
        with self.bench.connector.open(self.bench.target, None, Deadline(20)) as session:
            return session.probe(account, credential).state is VerdictState.ACCEPTED


@pytest.mark.parametrize("fields", [{}, {"directoryType": "active_directory", "domainName": "ad.lab.test"}])
def test_an_account_is_rotated_verified_and_its_old_password_is_in_grace(
    sqlite_router: RunningRouter, usual_domain: SambaServer, tmp_path: Path, fields: dict[str, str]
) -> None:
    site = GatewaySite(sqlite_router, tmp_path)
    domain = Domain(site, usual_domain, **fields)
    account, uid = domain.add_account(displayName="An Application")
    engine = site.engine()
    job = site.run("rotate", uid, engine, check_old=True)
    assert (job["state"], job["cause"]) == ("succeeded", OLD_IN_GRACE), job
    new = site.password(uid)
    assert domain.logs_in(account, new)
    assert site.vault.jobs.proof(uid)["proven"] is True
    for wherever in (site.router.dump(), usual_domain.log_path.read_bytes()):
        assert new.encode() not in wherever
    assert site.run("verify", uid, engine)["state"] == "succeeded"


def test_a_domain_is_discovered_with_its_users_and_computers(
    sqlite_router: RunningRouter, usual_domain: SambaServer, tmp_path: Path
) -> None:
    site = GatewaySite(sqlite_router, tmp_path)
    domain = Domain(site, usual_domain)
    account, _ = domain.add_account()
    started = site.vault.discovery.start(site.configuration_uid, domain.resource, {})
    site.engine().run(str(started["uid"]))
    _, content, _ = site.vault.discovery.result(str(started["uid"]))
    found = {each["name"]: each for each in content["objects"]}
    place = found[f"{usual_domain.host}:{usual_domain.port}"]
    assert (place["record_type"], place["item"]["type"], place["item"]["domain"]) == (
        "pamDirectory", "active_directory", usual_domain.domain,
    )  # fmt: skip
    assert found[account.login]["item"]["dn"] == domain.bench.dn(account.login)
    assert found["dc1.ad.lab.test"]["record_type"] == "pamMachine"
    assert found["krbtgt"]["item"]["managed"] is True
    assert any(name.startswith("OU=Domain Controllers,") for name in place["item"]["organizational_units"])

"""The engine against a real directory, with a real router and the vendor's SDK between them."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from connectors.base import Account, Credential
from deploy.lab import LdapServer
from pam_jobs.secret import SecretValue
from tests.support.benches.openldap import OpenldapBench
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration


class Directory:
    """A site with the lab's directory as a resource."""

    def __init__(self, site: GatewaySite, server: LdapServer) -> None:
        self.site = site
        self.server = server
        self.bench = OpenldapBench(server)
        self.admin = site.add_user(server.admin_login, server.admin_password)
        self.resource = site.add_resource("pamDirectory", server.host, server.secure_port, self.admin)
        site.vault.records.update(
            self.resource, lambda record: record.set_field("text", str(server.ca), "ssl_ca", custom=True)
        )

    def add_account(self) -> tuple[Account, str]:
        """Create an account and its record, and return it with the record's uid."""
        account = Account(login="app_" + secrets.token_hex(4), record_uid="x")
        first = Credential(login=account.login, password=SecretValue("First-Secret-1"))
        self.bench.make_account(account.login, first)
        uid = self.site.add_user(account.login, "First-Secret-1")
        self.site.rotate_by(uid, self.resource)
        return account, uid


@pytest.fixture
def directory(sqlite_router: RunningRouter, openldap_server: LdapServer, tmp_path: Path) -> Directory:
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{openldap_server.secure_port}=ldaps")
    return Directory(site, openldap_server)


def test_a_directory_is_discovered_with_its_accounts(directory: Directory) -> None:
    site = directory.site
    account, _ = directory.add_account()
    started = site.vault.discovery.start(site.configuration_uid, directory.resource, {})
    site.engine().run(str(started["uid"]))
    _, content, _ = site.vault.discovery.result(str(started["uid"]))
    found = {each["name"]: each for each in content["objects"]}
    place = found[f"{directory.server.host}:{directory.server.secure_port}"]
    assert (place["record_type"], place["item"]["type"]) == ("pamDirectory", "openldap")
    dn = directory.bench.dn(account.login)
    assert {"type": "text", "label": "distinguishedName", "value": [dn]}.items() <= next(
        each for each in found[account.login]["fields"] if each["label"] == "distinguishedName"
    ).items()

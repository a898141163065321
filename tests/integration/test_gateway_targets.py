"""Every target of the lab, rotated by a gateway process that takes its jobs from a real queue."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from connectors.base import Account, Credential, VerdictState
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue
from tests.support.benches import linux as ssh
from tests.support.benches.activedirectory import ActiveDirectoryBench
from tests.support.benches.base import Bench
from tests.support.benches.lab import Lab
from tests.support.benches.linux import LinuxBench
from tests.support.benches.macos import MacosBench
from tests.support.benches.mariadb import MariadbBench, Mysql8Bench
from tests.support.benches.mongodb import MongodbBench
from tests.support.benches.network import IosXeBench
from tests.support.benches.openldap import OpenldapBench
from tests.support.benches.oracle import OracleBench
from tests.support.benches.postgresql import PostgresBench
from tests.support.benches.rabbitmq import RabbitmqBench
from tests.support.benches.redis import RedisBench
from tests.support.benches.sqlserver import SqlserverBench
from tests.support.benches.windows import ControllerBench, KerberosBench, WindowsBench
from tests.support.broker import RedisBroker
from tests.support.database import new_database_url
from tests.support.gateway_site import GatewayProcess, GatewaySite
from tests.support.router import run_router

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class Row:
    """A target, and what an operator writes into its record."""

    kind: str  # the record's type
    make: Callable[[Lab], Bench]
    customs: dict[str, str] = field(default_factory=dict)


ROWS = {
    "postgresql": Row("pamDatabase", lambda lab: PostgresBench(lab.postgres)),
    "postgresql-18": Row("pamDatabase", lambda lab: PostgresBench(lab.postgres_18)),
    "mariadb": Row("pamDatabase", lambda lab: MariadbBench(lab.mariadb)),
    "mysql8": Row("pamDatabase", lambda lab: Mysql8Bench(lab.mysql8)),
    "sqlserver": Row("pamDatabase", lambda lab: SqlserverBench(lab.mssql)),
    "oracle": Row("pamDatabase", lambda lab: OracleBench(lab.oracle)),
    "mongodb": Row("pamDatabase", lambda lab: MongodbBench(lab.mongodb)),
    "redis": Row("pamDatabase", lambda lab: RedisBench(lab.redis)),
    "valkey": Row("pamDatabase", lambda lab: RedisBench(lab.valkey)),
    "rabbitmq": Row("pamDatabase", lambda lab: RabbitmqBench(lab.rabbitmq)),
    "openldap": Row("pamDirectory", lambda lab: OpenldapBench(lab.openldap)),
    "activedirectory": Row("pamDirectory", lambda lab: ActiveDirectoryBench(lab.samba)),
    "activedirectory-winrm": Row("pamDirectory", lambda lab: ControllerBench(lab.controller)),
    "linux": Row("pamMachine", lambda lab: LinuxBench(lab.ssh, "admin", admin=ssh.key_admin(lab.ssh))),
    "linux-key": Row(
        "pamMachine", lambda lab: LinuxBench(lab.ssh, "admin", admin=ssh.key_admin(lab.ssh), algorithm="ssh-ed25519")
    ),
    "macos": Row(
        "pamMachine",
        lambda lab: MacosBench(lab.mac, "admin", admin=ssh.key_admin(lab.mac)),
        {"operatingSystem": "macos"},
    ),
    "winrm-ntlm": Row("pamMachine", lambda lab: WindowsBench(lab.windows)),
    "winrm-basic": Row("pamMachine", lambda lab: WindowsBench(lab.windows, "winrm-https", login="basic")),
    "winrm-kerberos": Row("pamMachine", lambda lab: KerberosBench(lab.joined)),
    "windows-ssh": Row("pamMachine", lambda lab: WindowsBench(lab.windows, "ssh"), {"operatingSystem": "windows"}),
    "ios-xe": Row("pamMachine", lambda lab: IosXeBench(lab.ios_xe)),
}


class Office:
    """A router, a broker, and a gateway that waits for jobs."""

    def __init__(self, site: GatewaySite, process: GatewayProcess) -> None:
        self.site = site
        self.process = process

    def add(self, row: Row, bench: Bench, account: Account, current: Credential) -> str:
        """Write the records that an operator writes, and return the user's uid."""
        target, site = bench.target, self.site
        admin = self._add_user(bench.admin)
        resource = site.add_resource(row.kind, target.host, target.port, admin)
        customs = {**target.options, **row.customs, **({"Host Key": target.host_keys[0]} if target.host_keys else {})}

        def complete(record: Record) -> Record:
            for label, text in customs.items():
                record = record.set_field("text", text, label, custom=True)
            if target.database:
                record = record.set_field("text", target.database, "connectDatabase")
            return record.set_field("checkbox", target.use_ssl, "useSSL")

        site.vault.records.update(resource, complete)
        mapping = f"{target.port}={target.protocol}"
        site.vault.records.update(
            site.configuration_uid, lambda record: record.set_field("multiline", mapping, "portMapping")
        )
        uid = self._add_user(current)
        site.rotate_by(uid, resource)
        return uid

    def _add_user(self, credential: Credential) -> str:
        password, key = credential.password, credential.private_key
        return self.site.add_user(
            credential.login, password.reveal() if password else None, key.reveal() if key else None
        )

    def run(self, kind: str, uid: str) -> dict[str, Any]:
        """Ask for a job, and wait until the gateway has done it."""
        self.site.vault.jobs.wait(job := self.site.submit(kind, uid), seconds=60)
        return self.site.opened(job)

    def credential(self, uid: str) -> Credential:
        record = self.site.record(uid)
        return Credential(login=record.login or "", password=record.password, private_key=record.private_key)


@pytest.fixture(scope="module")
def office(request: pytest.FixtureRequest) -> Iterator[Office]:
    with (
        tempfile.TemporaryDirectory(prefix="pamo-", ignore_cleanup_errors=True) as name,
        new_database_url(request, folder := Path(name), "sqlite") as url,
        run_router(folder, url) as router,
    ):
        broker = RedisBroker(folder)
        broker.start()
        site = GatewaySite(router, folder)
        publisher = site.publish(broker.url)
        with site.process(broker.url) as process:
            process.wait_for("gateway_ready")
            yield Office(site, process)
        publisher.close()
        broker.stop(kill=True)


@pytest.mark.parametrize("name", list(ROWS))
def test_an_account_is_rotated_verified_and_reconciled_by_way_of_the_queue(
    name: str, office: Office, request: pytest.FixtureRequest
) -> None:
    bench = ROWS[name].make(Lab(request))
    account, first = bench.new_account()
    uid = office.add(ROWS[name], bench, account, first)
    account = replace(account, record_uid=uid)

    job = office.run("rotate", uid)
    assert job["state"] == "succeeded", office.process.log()
    new = office.credential(uid)
    assert verdict(bench, account, new) is VerdictState.ACCEPTED
    if bench.algorithm is None:  # a key that was there before the first rotation stays (the vendor's rule)
        assert verdict(bench, account, first) is VerdictState.REFUSED
    assert office.site.vault.jobs.proof(uid)["proven"] is True

    by_hand = bench.candidate(account)
    with bench.open(new) as target:
        target.preflight(account)
        target.change(account, by_hand, lambda: None)
    seen = office.run("verify", uid)
    assert (seen["state"], seen["cause"]) == ("failed", "drift")
    assert office.run("reconcile", uid)["state"] == "succeeded"
    assert office.run("verify", uid)["state"] == "succeeded"
    assert verdict(bench, account, new) is VerdictState.ACCEPTED
    assert verdict(bench, account, by_hand.credential(account)) is VerdictState.REFUSED

    wherever = (office.site.router.dump().decode(errors="replace"), office.process.log(), bench.log_text())
    for secret in (_text_of(new.password), _text_of(new.private_key)):
        assert not secret or not any(secret in text for text in wherever)
    bench.connector.close_idle()


def verdict(bench: Bench, account: Account, credential: Credential) -> VerdictState:
    """Return what the target says of a credential, asked from here and not by the gateway."""
    with bench.look() as target:
        return target.probe(account, credential).state


def _text_of(secret: SecretValue | None) -> str:
    return secret.reveal() if secret else ""

"""Records that come with the claim: read by the vendor's SDK, in the claim's own call and transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from pam_jobs.crypto import aes, p256
from pam_jobs.db.tables import AuditEvent
from pam_jobs.ids import unb64url
from tests.support.gateway_site import GatewaySite
from tests.support.ksm import RawDevice
from tests.support.router import RunningRouter
from workers.engine import Engine
from workers.ports import VaultPort

pytestmark = pytest.mark.integration


@dataclass
class Watched:
    """The engine's vault; tells what is read by calls of its own, and may change the read that a claim carries."""

    vault: VaultPort
    fetched: list[list[str]]
    change: dict[str, Any]

    def fetch(self, uids: Any) -> Any:
        self.fetched.append(list(uids))
        return self.vault.fetch(self.fetched[-1])

    def fetch_along(self, carry: Any) -> Any:
        return self.vault.fetch_along(lambda read: carry(read.model_copy(update=self.change)))

    def download(self, file: Any) -> bytes:
        return self.vault.download(file)


@pytest.fixture
def site(router: RunningRouter, tmp_path: Path) -> GatewaySite:
    return GatewaySite(router, tmp_path)


def watched(site: GatewaySite, **change: Any) -> tuple[Engine, list[list[str]]]:
    ports = site.engine().ports
    vault = Watched(ports.vault, [], change)
    return Engine(replace(ports, vault=vault)), vault.fetched


def scripts_only(site: GatewaySite) -> str:
    user = site.add_user("app", "the present one")
    site.rotate_by(user, None, profile="scripts_only")
    return user


def test_a_job_reads_its_records_with_its_claim_and_by_no_other_call(site: GatewaySite) -> None:
    engine, fetched = watched(site)
    user = scripts_only(site)
    before = reads(site)
    assert site.run("rotate", user, engine)["status"] == "skipped"
    assert fetched == []
    assert reads(site)[len(before) :] == [site.gateway_uid]  # the audit log tells of it as of any read


def reads(site: GatewaySite) -> list[str]:
    with site.router.database.transaction(read_only=True) as session:
        found = session.scalars(
            select(AuditEvent).where(AuditEvent.event == "app_client_access").order_by(AuditEvent.id)
        )
        return [event.fields["gateway_uid"] for event in found]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"signature": b"somebody else's"}, id="not signed by the device"),
        pytest.param({"key_id": "7"}, id="for another server key"),
        pytest.param({"payload": b"cut off"}, id="not to be opened"),
        pytest.param({"transmission_key": b"\4" * 125}, id="a key that is none"),
    ],
)
def test_a_read_that_the_router_does_not_take_costs_no_claim(site: GatewaySite, change: dict[str, Any]) -> None:
    engine, fetched = watched(site, **change)
    user = scripts_only(site)
    assert site.run("rotate", user, engine)["status"] == "skipped"
    assert fetched == [[user, site.configuration_uid]]


def test_a_read_of_another_device_is_not_answered(site: GatewaySite) -> None:
    operator = site.router.operator
    other = RawDevice(site.router, operator.device(operator.application(operator.folder("others"))))
    assert other.ask().status_code == 200  # it is bound, and its reads are answered
    engine, fetched = watched(site, **signed_read(other))
    user = scripts_only(site)
    assert site.run("rotate", user, engine)["status"] == "skipped"
    assert fetched == [[user, site.configuration_uid]]


def signed_read(device: RawDevice) -> dict[str, Any]:
    transmission = aes.new_key()
    wrapped = p256.ecies_encrypt(transmission, unb64url(device.config["serverPublicKey"]))
    body = json.dumps({"clientVersion": device.version, "clientId": device.client_id}).encode()
    payload = aes.encrypt(body, transmission)
    return {
        "key_id": device.config["serverPublicKeyId"],
        "transmission_key": wrapped,
        "signature": p256.sign(device.key, wrapped + payload),
        "payload": payload,
    }


def test_a_refused_claim_is_told_as_it_is_and_reads_nothing(site: GatewaySite) -> None:
    engine, fetched = watched(site)
    user = scripts_only(site)
    job = site.submit("rotate", user)
    site.vault.jobs.cancel(job)
    assert engine.run(job) is None
    assert fetched == []


def test_a_record_that_is_not_shared_is_missed_by_its_name(site: GatewaySite) -> None:
    engine, fetched = watched(site)
    user = scripts_only(site)
    job = site.submit("rotate", user)
    site.vault.applications.unshare(site.vault.applications.find(site.application_uid), site.folder.uid)
    engine.run(job)
    ended = site.vault.jobs.get(job)
    assert (ended["status"], ended["cause"]) == ("failed", "not_found")
    assert len(fetched) == 1

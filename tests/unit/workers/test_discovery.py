from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.base import Finding, Service, Unseen
from connectors.fake import FakeAccount
from pam_jobs.crypto import aes
from pam_jobs.errors import InvalidInput
from pam_jobs.records.record import Record
from tests.support.gateway import GatewayWorld
from tests.support.memory_router import MemoryJob
from workers import discovery
from workers.findings import Findings, object_uid
from workers.scan import ScanResult, addresses_of

pytestmark = pytest.mark.unit


def test_blocks_become_addresses_without_network_and_broadcast() -> None:
    assert addresses_of("192.0.2.0/30") == ["192.0.2.1", "192.0.2.2"]
    assert addresses_of("192.0.2.1/32, 192.0.2.1/32\n2001:db8::/127") == ["192.0.2.1", "2001:db8::", "2001:db8::1"]


@pytest.mark.parametrize("text", ["", "10.0.0.0/15", "nonsense", "10.0.0.0/16 10.1.0.0/32"])
def test_what_is_no_network_or_too_large_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        addresses_of(text)


def test_the_same_thing_found_twice_is_the_same_object() -> None:
    assert object_uid("C", "machines", "Host") == object_uid("c", "machines", "host")
    assert object_uid("C", "machines", "a") != object_uid("C", "users", "a")


def test_accounts_of_the_system_are_left_out_and_unseen_things_are_told() -> None:
    findings = Findings(configuration_uid="C")
    machine = findings.machine("192.0.2.1", 22, Service(protocol="ssh", banner="OpenSSH"))
    daemon = Finding(kind="users", name="daemon", facts={"system": True, "shell": "/usr/sbin/nologin"})
    assert not findings.take(machine, daemon, {})
    assert findings.take(machine, Finding(kind="users", name="ann", facts={"locked": True}), {"ann": "R"})
    assert findings.take(machine, Unseen(what="groups", cause="not_permitted"), {})
    user = next(found for found in findings.objects.values() if found["name"] == "ann")
    assert (user["item"]["active"], user["item"]["could_login"]) == (False, True)
    assert user["parent_uid"] == machine
    Record.parse({"type": user["record_type"], "title": user["title"], "fields": user["fields"]})
    assert findings.counts() == {"directories": 0, "machines": 1, "databases": 0, "users": 1, "unseen": 1}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> GatewayWorld:
    found = GatewayWorld()
    # The network is the one thing that has no place here; the scanner itself is tested on real sockets.
    monkeypatch.setattr(discovery, "scan", lambda *_args, **_options: ScanResult(open=[("192.0.2.1", 9999)], silent=5))
    monkeypatch.setattr(type(found.connector), "protocols", frozenset({"ssh"}))
    found.connector.add("192.0.2.1", 9999, found.target)
    found.edit(found.configuration, lambda record: record.set_field("text", "192.0.2.0/30", "networkCIDR"))
    found.target.accounts["locked"] = FakeAccount(is_locked=True)
    return found


def discover(world: GatewayWorld, **parameters: Any) -> MemoryJob:
    job = world.job(
        kind="discover", record_uid=None, resource_uid=None, admin_uid=None, profile=None, parameters=parameters
    )
    return world.run(job)


def content(world: GatewayWorld, job: MemoryJob) -> dict[str, Any]:
    assert job.result is not None
    return json.loads(aes.decrypt(job.result, world.key(world.configuration)))  # type: ignore[no-any-return]


def test_the_result_is_sealed_and_tells_what_was_not_seen(world: GatewayWorld) -> None:
    job = discover(world, credential_uids=[world.user, world.admin, "A" * 22])
    assert job.state == "succeeded", world.detail(job, world.configuration)
    found = content(world, job)
    assert [entry["name"] for entry in found["objects"] if entry["object_type_value"] == "users"] == [
        "app", "locked", "root",
    ]  # fmt: skip
    causes = {entry["what"]: entry["cause"] for entry in found["coverage"]}
    assert causes == {"5 ports": "timed_out", f"credential {'A' * 22}": "not_permitted"}
    assert "Old-Secret-1" not in json.dumps(found)
    assert "Admin-Secret-1" not in json.dumps(found)
    assert job.counts == {"directories": 0, "machines": 0, "databases": 1, "users": 3, "unseen": 2}


def test_a_credential_is_tried_once_and_an_account_never_refused_too_often(world: GatewayWorld) -> None:
    wrong = [world.add_user("root", f"Wrong-{number}") for number in range(6)]
    job = discover(world, credential_uids=wrong)
    assert world.target.logins == 3
    assert {"what": "192.0.2.1:9999", "cause": "refused"}.items() <= content(world, job)["coverage"][-1].items()


def test_without_a_network_nothing_is_scanned(world: GatewayWorld) -> None:
    world.edit(world.configuration, lambda record: record.set_field("text", None, "networkCIDR"))
    job = discover(world)
    assert job.report is not None
    assert (job.state, job.report["cause"]) == ("failed", "invalid_input")


def test_a_cancelled_discovery_uploads_nothing(world: GatewayWorld) -> None:
    job = world.job(kind="discover", record_uid=None, resource_uid=None, admin_uid=None, profile=None)
    world.at["after:claim"] = lambda: world.engine.running.cancel(job.uid)
    world.run(job)
    assert job.report is not None
    assert (job.report["status"], job.result) == ("cancelled", None)


def test_a_vault_that_is_away_gives_the_discovery_back(world: GatewayWorld) -> None:
    world.vault.is_away = True
    assert discover(world).released == ["vault_unavailable"]

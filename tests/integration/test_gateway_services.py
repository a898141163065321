"""The engine against servers of messages and keys, with a real router and the vendor's SDK between them."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from connectors.base import Credential
from deploy.lab.emulated import EmulatedServer
from deploy.lab.mongodb import MongoServer
from deploy.lab.rabbitmq import RabbitmqServer
from deploy.lab.redis import RedisServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench
from tests.support.benches.mongodb import MongodbBench
from tests.support.benches.network import IosXeBench
from tests.support.benches.rabbitmq import RabbitmqBench
from tests.support.benches.redis import RedisBench
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration
FIRST = "First-Secret-1"


def rotate_and_reconcile(
    router: RunningRouter, folder: Path, bench: Bench, kind: str = "pamDatabase", **customs: str
) -> None:
    """Rotate an account by the product, change it by hand, and let the product notice and repair it."""
    target = bench.target
    site = GatewaySite(router, folder, port_mapping=f"{target.port}={target.protocol}")
    assert bench.admin.password
    admin = site.add_user(bench.admin.login, bench.admin.password.reveal())
    resource = site.add_resource(kind, target.host, target.port, admin)
    for label, text in {**target.options, **customs}.items():
        site.vault.records.update(
            resource, lambda record, label=label, text=text: record.set_field("text", text, label, custom=True)
        )
    login = "app" + secrets.token_hex(4)
    bench.make_account(login, Credential(login=login, password=SecretValue(FIRST)))
    uid = site.add_user(login, FIRST)
    site.rotate_by(uid, resource)
    engine = site.engine()
    plan = site.run("plan", uid, engine)
    assert plan["detail"]["plan"]["connector"] == bench.connector.name
    job = site.run("rotate", uid, engine)
    assert job["state"] == "succeeded", job
    new = site.password(uid)
    assert site.vault.jobs.proof(uid)["proven"] is True
    assert new.encode() not in site.router.dump()
    assert new not in bench.log_text()
    bench.set_by_hand(login, "By-Hand-1")
    seen = site.run("verify", uid, engine)
    assert (seen["state"], seen["cause"]) == ("failed", "drift")
    job = site.run("reconcile", uid, engine)
    assert job["state"] == "succeeded", job
    assert site.run("verify", uid, engine)["state"] == "succeeded"


def test_a_user_of_redis_is_rotated_and_reconciled(
    sqlite_router: RunningRouter, target_redis: RedisServer, tmp_path: Path
) -> None:
    rotate_and_reconcile(sqlite_router, tmp_path, RedisBench(target_redis))


def test_a_user_of_rabbitmq_is_rotated_and_reconciled(
    sqlite_router: RunningRouter, target_rabbitmq: RabbitmqServer, tmp_path: Path
) -> None:
    rotate_and_reconcile(sqlite_router, tmp_path, RabbitmqBench(target_rabbitmq))


def test_a_user_of_mongodb_is_rotated_and_reconciled(
    sqlite_router: RunningRouter, target_mongodb: MongoServer, tmp_path: Path
) -> None:
    rotate_and_reconcile(sqlite_router, tmp_path, MongodbBench(target_mongodb))


def test_a_user_of_ios_xe_is_rotated_and_reconciled(
    sqlite_router: RunningRouter, ios_xe_device: EmulatedServer, tmp_path: Path
) -> None:
    rotate_and_reconcile(sqlite_router, tmp_path, IosXeBench(ios_xe_device), "pamMachine")

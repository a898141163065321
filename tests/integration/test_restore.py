"""The control plane's database set back to an older backup, with a real gateway and a real target beside it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from deploy.lab import PostgresServer
from pam_jobs.audit.log import Actor
from pam_jobs.clock import SystemClock
from pam_jobs.db import migrate
from pam_jobs.jobs import history
from tests.integration.test_gateway_postgres import Targets
from tests.support.broker import RedisBroker
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter
from workers.journal import Journal

pytestmark = pytest.mark.integration


class Site(Targets):
    """A site whose control plane can be set back."""

    def __init__(self, router: RunningRouter, server: PostgresServer, folder: Path) -> None:
        super().__init__(GatewaySite(router, folder, port_mapping=f"{server.port}=postgresql"), server)
        self.router = router
        self._backup = folder / "backup.db"
        with router.database.engine.begin() as connection:  # the tests' databases are made without migrations
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
            connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": migrate.head()})
        self._database = router.database_url.removeprefix("sqlite:///")

    def back_up(self) -> None:
        _copy(self._database, self._backup)

    def restore(self) -> None:
        _copy(self._backup, self._database)

    def tell_of_it(self) -> dict[str, int]:
        """Run `pam restored` as an operator does."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        told = subprocess.run(
            [sys.executable, "-m", "pam_jobs.cli.main", "restored", "--format", "json"], check=True,
            env={**environment, "PAM_DATABASE_URL": self.router.database_url}, capture_output=True,
        )  # fmt: skip
        return dict(json.loads(told.stdout))

    def mark(self) -> None:
        """Do what `pam restored` does."""
        with self.router.database.transaction() as session:
            history.begin_anew(session, SystemClock(), Actor(username="operator"), cause="command")

    def proof(self, uid: str) -> tuple[bool, str]:
        proof = self.site.vault.jobs.proof(uid)
        return proof["proven"], proof["reason"]

    def told(self, name: str, uid: str) -> list[str]:
        return [
            str(event.fields.get("source")) for event in self.router.events(name) if event.fields["record_uid"] == uid
        ]


def _copy(source: str | Path, destination: str | Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(destination)) as new:
        old.backup(new)


@pytest.fixture
def site(sqlite_router: RunningRouter, target_postgres: PostgresServer, tmp_path: Path) -> Site:
    return Site(sqlite_router, target_postgres, tmp_path)


def test_a_gateway_with_its_journal_gives_back_what_the_backup_lacks(site: Site, tmp_path: Path) -> None:
    login, uid = site.add_role()
    engine = site.site.engine(journal=Journal(tmp_path / "state"))
    site.back_up()
    for _ in range(2):
        assert site.site.run("rotate", uid, engine)["state"] == "succeeded"
    live = site.site.password(uid)
    site.restore()
    assert site.site.password(uid) == "First-Secret-1"
    assert not site.logs_in(login, "First-Secret-1"), "the restored vault holds nothing that logs in"

    seen: list[str] = []

    def boundary(name: str) -> None:
        if name == "before:stage":
            seen.append(site.site.password(uid))

    again = site.site.engine(boundary, journal=Journal(tmp_path / "state"))  # another process of the gateway
    job = site.site.run("rotate", uid, again)
    assert (job["state"], job["cause"]) == ("succeeded", None), job
    assert seen == [live], "the vault held the live value again before it was changed"
    assert site.logs_in(login, site.site.password(uid))
    assert site.site.password(uid) != live
    assert site.proof(uid)[0]
    assert site.told("credential_recovered", uid) == ["journal"]
    assert len(site.told("credential_epoch_lifted", uid)) == 1
    assert site.site.run("rotate", uid, again)["state"] == "succeeded"
    assert len(site.told("credential_recovered", uid)) == 1
    assert live.encode() not in site.router.dump()


def test_without_a_journal_nothing_is_overwritten_until_somebody_decides(site: Site) -> None:
    login, uid = site.add_role()
    for _ in range(2):
        site.site.run("rotate", uid)  # by gateways that are gone
        if not site.told("credential_promoted", uid)[1:]:
            site.back_up()
    live = site.site.password(uid)
    site.restore()
    assert site.proof(uid)[0], "the old evidence is in the backup, too"
    assert site.tell_of_it() == {"marked": 2}
    assert "restored from an older backup" in site.proof(uid)[1]

    job = site.site.run("rotate", uid)
    assert (job["state"], job["cause"]) == ("waiting_human", "restored_backup")
    assert "restored from an older backup" in job["detail"]["message"]
    assert site.logs_in(login, live), "nothing was overwritten"
    assert not site.proof(uid)[0]

    job = site.site.run("reconcile", uid)
    assert job["state"] == "succeeded", job
    assert site.logs_in(login, site.site.password(uid))
    assert site.proof(uid)[0]
    assert site.site.run("rotate", uid)["state"] == "succeeded"


def test_a_policy_that_lets_the_admin_settle_it_is_told_as_such(site: Site) -> None:
    login, uid = site.add_role()
    engine = site.site.engine()
    site.back_up()
    site.site.run("rotate", uid)
    site.restore()
    site.mark()
    job = site.site.run("rotate", uid, engine, reconcile=True)
    assert (job["state"], job["cause"]) == ("succeeded", "restored_backup")
    assert site.logs_in(login, site.site.password(uid))
    assert site.proof(uid)[0]


def test_a_credential_that_did_not_change_since_the_backup_just_rotates(site: Site) -> None:
    login, uid = site.add_role()
    site.site.run("rotate", uid)
    site.back_up()
    site.restore()
    site.mark()
    assert site.site.run("verify", uid)["state"] == "succeeded"
    assert site.proof(uid)[0]
    assert site.site.run("rotate", uid)["state"] == "succeeded"
    assert site.logs_in(login, site.site.password(uid))


def test_a_running_gateway_notices_a_restore_that_nobody_told_of(site: Site, broker: RedisBroker) -> None:
    site.site.publish(broker.url)
    (login, uid), (other_login, other) = site.add_role(), site.add_role()
    with site.site.process(broker.url) as process:
        process.wait_for("gateway_ready")
        site.back_up()
        for each in (uid, uid, other):
            job = site.site.vault.jobs.wait(site.site.submit("rotate", each), seconds=30)
            assert job["state"] == "succeeded", process.log()
        live = site.site.password(other)
        known = site.site.folder_path / "gateway-config.instances" / "position"
        newest = site.router.events()[-1].id
        _eventually(lambda: json.loads(known.read_text())["position"]["event_id"] >= newest)  # with a heartbeat
        site.restore()
        _eventually(lambda: bool(site.router.events("pam_database_restored")))
        (event,) = site.router.events("pam_database_restored")
        assert (event.fields["cause"], event.fields["count"]) == ("gateway", 3)
        job = site.site.vault.jobs.wait(site.site.submit("rotate", uid), seconds=30)
        assert job["state"] == "succeeded", process.log()
        assert site.told("credential_recovered", uid) == ["journal"]
        assert site.logs_in(login, site.site.password(uid))
    folder = site.site.folder_path / "gateway-config.instances"
    assert live.encode() not in (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").unlink()  # as on a new machine
    with site.site.process(broker.url) as process:
        process.wait_for("gateway_ready")
        job = site.site.vault.jobs.wait(site.site.submit("rotate", other), seconds=30)
        assert (job["state"], job["cause"]) == ("waiting_human", "restored_backup"), process.log()
        assert site.logs_in(other_login, live)
    assert len(site.router.events("pam_database_restored")) == 1


def _eventually(is_so: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)

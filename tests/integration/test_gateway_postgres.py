"""The engine against a real PostgreSQL, with a real router and the vendor's SDK between them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from deploy.lab import PostgresServer, pgbouncer
from deploy.lab.pgbouncer import PgbouncerServer
from tests.support.gateway_site import GatewaySite
from tests.support.lab import target_folder
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration


class Targets:
    """A site with the lab's PostgreSQL as a resource, or what stands before it on another port."""

    def __init__(self, site: GatewaySite, server: PostgresServer, *, port: int = 0, database: str = "") -> None:
        self.site = site
        self.server = server
        self.admin = site.add_user(server.admin_login, server.admin_password)
        named = {"type": "text", "label": "connectDatabase", "value": [database] if database else []}
        self.resource = site.add_resource("pamDatabase", server.host, port or server.port, self.admin, named)
        site.rotate_by(self.admin, self.resource)

    def add_role(self) -> tuple[str, str]:
        """Create a role and its record, and return login and uid."""
        login, password = "app_" + secrets.token_hex(4), "First-Secret-1"
        with self.connect(self.server.admin_login, self.server.admin_password) as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(login), sql.Literal(password))
            )
        uid = self.site.add_user(login, password)
        self.site.rotate_by(uid, self.resource)
        return login, uid

    def connect(self, login: str, password: str, **place: int | str) -> psycopg.Connection:
        """Log in to the server, or at another place."""
        usual = {"host": self.server.host, "port": self.server.port, "dbname": self.server.database}
        return psycopg.connect(user=login, password=password, autocommit=True, **{**usual, **place})

    def logs_in(self, login: str, password: str, **place: int | str) -> bool:
        try:
            self.connect(login, password, **place).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture
def targets(sqlite_router: RunningRouter, target_postgres: PostgresServer, tmp_path: Path) -> Targets:
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{target_postgres.port}=postgresql")
    return Targets(site, target_postgres)


def test_a_role_is_rotated_through_vault_router_and_target(targets: Targets) -> None:
    login, uid = targets.add_role()
    job = targets.site.run("rotate", uid)
    assert job["state"] == "succeeded", job
    new = targets.site.password(uid)
    assert targets.logs_in(login, new)
    assert not targets.logs_in(login, "First-Secret-1")
    assert targets.site.vault.jobs.proof(uid)["proven"] is True
    for wherever in (targets.site.router.dump(), targets.server.log_path.read_bytes()):
        assert new.encode() not in wherever


def test_two_rotations_in_a_row_and_a_verification(targets: Targets) -> None:
    login, uid = targets.add_role()
    engine = targets.site.engine()
    for _ in range(2):
        assert targets.site.run("rotate", uid, engine)["state"] == "succeeded"
    assert targets.logs_in(login, targets.site.password(uid))
    assert targets.site.run("verify", uid, engine)["state"] == "succeeded"


def test_drift_is_seen_and_reconciled(targets: Targets) -> None:
    login, uid = targets.add_role()
    with targets.connect(targets.server.admin_login, targets.server.admin_password) as connection:
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal("By-Hand-1")))
    engine = targets.site.engine()
    seen = targets.site.run("verify", uid, engine)
    assert (seen["state"], seen["cause"]) == ("failed", "drift")
    assert targets.site.run("reconcile", uid, engine)["state"] == "succeeded"
    assert targets.logs_in(login, "First-Secret-1")


def test_a_plan_tells_and_changes_nothing(targets: Targets) -> None:
    login, uid = targets.add_role()
    job = targets.site.run("plan", uid)
    assert job["state"] == "succeeded"
    assert job["detail"]["plan"]["connector"] == "postgresql"
    assert targets.logs_in(login, "First-Secret-1")


def test_an_attempt_cut_off_after_the_change_is_finished_by_the_next(targets: Targets) -> None:
    login, uid = targets.add_role()
    job_uid = targets.site.submit("rotate", uid)

    class Cut(BaseException):
        pass

    def cut(name: str) -> None:
        if name == "after:change":
            raise Cut

    with pytest.raises(Cut):
        targets.site.engine(cut).run(job_uid)
    assert targets.site.vault.jobs.get(job_uid)["state"] == "running"
    assert not targets.logs_in(login, "First-Secret-1")
    from pam_jobs.db.tables import CredentialEpoch, Job

    with targets.site.router.database.transaction() as session:  # as time does
        for row in (session.get(Job, job_uid), session.get(CredentialEpoch, uid)):
            assert row is not None
            row.lease_until = targets.site.router.context.clock.now()
    targets.site.engine().run(job_uid)
    assert targets.site.vault.jobs.get(job_uid)["state"] == "succeeded"
    assert targets.logs_in(login, targets.site.password(uid))


def test_scripts_run_after_the_rotation_and_are_scrubbed(targets: Targets, tmp_path: Path) -> None:
    _, uid = targets.add_role()
    script = b'#!/bin/sh\nread line; echo "$line" | base64 -d > %s; cat %s\n' % (
        str(tmp_path / "seen").encode(), str(tmp_path / "seen").encode(),
    )  # fmt: skip
    targets.site.attach(uid, "after.sh", script)
    targets.site.attach(targets.site.configuration_uid, "fails.sh", b"#!/bin/sh\nexit 7\n")
    job = targets.site.run("rotate", uid)
    assert (job["status"], job["post_rotation_status"], job["state"]) == ("ok", "failed", "failed")
    assert [(step["state"], step["exit_code"]) for step in job["steps"]] == [("succeeded", 0), ("failed", 7)]
    new = targets.site.password(uid)
    assert new in (tmp_path / "seen").read_text() or new.replace('"', '\\"') in (tmp_path / "seen").read_text()
    shown = str(job)
    assert new not in shown
    assert "First-Secret-1" not in shown


def test_the_admin_rotates_itself_and_goes_on_working(targets: Targets) -> None:
    with targets.connect(targets.server.admin_login, targets.server.admin_password) as connection:
        connection.execute("CREATE ROLE second_admin LOGIN SUPERUSER PASSWORD 'Second-Admin-1'")
    try:
        admin = targets.site.add_user("second_admin", "Second-Admin-1")
        resource = targets.site.add_resource("pamDatabase", targets.server.host, targets.server.port, admin)
        targets.site.rotate_by(admin, resource)
        engine = targets.site.engine()
        assert targets.site.run("rotate", admin, engine)["state"] == "succeeded"
        assert targets.logs_in("second_admin", targets.site.password(admin))
        assert targets.site.run("rotate", admin, engine)["state"] == "succeeded"
    finally:
        with targets.connect(targets.server.admin_login, targets.server.admin_password) as connection:
            connection.execute("DROP ROLE second_admin")


@pytest.fixture
def pooler(target_postgres: PostgresServer) -> Iterator[PgbouncerServer]:
    with target_folder() as folder:
        made = pgbouncer.start(folder, target_postgres)
        yield made
        made.stop()


def test_a_role_behind_a_pooler_is_rotated_and_verified_through_it(
    sqlite_router: RunningRouter, target_postgres: PostgresServer, pooler: PgbouncerServer, tmp_path: Path
) -> None:
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{pooler.port}=postgresql")
    targets = Targets(site, target_postgres, port=pooler.port, database="transactions")
    login, uid = targets.add_role()
    engine = site.engine()

    assert "by a pooler" in str(site.run("plan", uid, engine)["detail"])
    job = site.run("rotate", uid, engine)

    assert job["state"] == "succeeded", job
    new = site.password(uid)
    for place in ({}, {"port": pooler.port, "dbname": "transactions"}):
        assert targets.logs_in(login, new, **place)
        assert not targets.logs_in(login, "First-Secret-1", **place)
    assert site.vault.jobs.proof(uid)["proven"] is True
    assert site.run("verify", uid, engine)["state"] == "succeeded"
    for wherever in (site.router.dump(), target_postgres.log_path.read_bytes(), pooler.log_path.read_bytes()):
        assert new.encode() not in wherever


def test_a_rotation_whose_scripts_failed_is_rolled_back(targets: Targets, tmp_path: Path) -> None:
    login, uid = targets.add_role()
    targets.site.attach(uid, "count.sh", f"#!/bin/sh\necho x >> {tmp_path}/runs\n".encode())
    targets.site.attach(targets.site.configuration_uid, "fails.sh", b"#!/bin/sh\nexit 7\n")
    targets.site.vault.records.update(
        targets.resource,
        lambda record: record.set_field("text", "TRUE", "Rollback On Post Rotation Fail", custom=True),
    )
    engine = targets.site.engine()
    job = targets.site.run("rotate", uid, engine)
    assert (job["state"], job["status"], job["post_rotation_status"]) == ("failed", "rolled_back", "failed")
    assert [(step["kind"], step["state"]) for step in job["steps"]] == [
        ("script", "succeeded"), ("script", "failed"), ("rollback", "succeeded"),
    ]  # fmt: skip
    assert targets.logs_in(login, "First-Secret-1")
    assert targets.site.password(uid) == "First-Secret-1"
    proof = targets.site.vault.jobs.proof(uid)
    assert (proof["proven"], proof["current"]["seq"], proof["unresolved"]) == (True, 3, [])
    assert (tmp_path / "runs").read_text() == "x\n"
    assert targets.site.run("verify", uid, engine)["state"] == "succeeded"

"""Drift, seen by scheduled verifications of real targets, told by events and by the proof."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import delete, update

from connectors.faults import FaultProxy
from deploy.lab import PostgresServer, SshServer
from pam_jobs.db.tables import Job, JobState, LoginRefusal, Schedule
from scheduler import due
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter
from workers.engine import Engine

pytestmark = pytest.mark.integration

EVENTS = ("credential_drift_detected", "credential_drift_resolved", "credential_drift_unchecked")
HOURLY = [{"type": "CRON", "cron": "0 * * * *", "tz": "Etc/UTC"}]


class Watched:
    """One account that is looked at by the configuration's default schedule."""

    def __init__(self, site: GatewaySite, uid: str) -> None:
        self.site = site
        self.uid = uid
        self.engine: Engine = site.engine()
        site.vault.pam.edit_configuration(site.configuration_uid, default_verify_schedule=HOURLY)

    def look(self) -> dict[str, Any]:
        """Let the next verification come due, run it to its end and return it."""
        router = self.site.router
        with router.database.transaction() as session:
            overdue = router.context.clock.now() - timedelta(seconds=1)
            session.execute(update(Schedule).where(Schedule.kind == "verify").values(next_run_at=overdue))
        [job_uid] = due.tick(router.database, router.context.clock)
        while True:
            self.engine.run(job_uid)
            job = self.site.opened(job_uid)
            if job["state"] != JobState.UNKNOWN:
                return job
            with router.database.transaction() as session:  # the back-off is over
                session.execute(update(Job).where(Job.uid == job_uid).values(not_before=None))

    def state(self) -> tuple[str, str | None]:
        drift = (self.site.vault.pam.rotation(self.uid) or {})["drift"]
        return drift["state"], drift["cause"]

    def events(self) -> list[str]:
        return [
            f"{row.fields['drift_before']} > {row.fields['drift_state']}" for row in self.site.router.events(*EVENTS)
        ]

    def status(self) -> str:
        [shown] = [entry for entry in self.site.vault.jobs.proofs() if entry["record"] == self.uid]
        assert shown == self.site.vault.jobs.proof(self.uid)
        return str(shown["status"])


def test_drift_of_a_database_role_from_one_state_to_the_next(
    sqlite_router: RunningRouter, target_postgres: PostgresServer, tmp_path: Path
) -> None:
    server = target_postgres
    with FaultProxy(server.host, server.port) as proxy:
        site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{proxy.port}=postgresql")
        admin = site.add_user(server.admin_login, server.admin_password)
        resource = site.add_resource("pamDatabase", proxy.host, proxy.port, admin)
        login = "app_" + secrets.token_hex(4)
        _run(server, sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'First-Secret-1'").format(sql.Identifier(login)))
        uid = site.add_user(login, "First-Secret-1")
        site.rotate_by(uid, resource)
        watched = Watched(site, uid)
        assert (watched.state()[0], watched.status()) == ("unchecked", "never_proven")

        assert site.run("rotate", uid, watched.engine)["state"] == "succeeded"
        assert watched.look()["state"] == "succeeded"
        assert (watched.state(), watched.status(), watched.events()) == (("healthy", None), "proven", [])

        _run(server, sql.SQL("ALTER ROLE {} PASSWORD 'By-Hand-1'").format(sql.Identifier(login)))
        for _ in range(2):
            assert watched.look()["cause"] == "drift"
        assert (watched.state(), watched.status()) == (("out_of_sync", "drift"), "out_of_sync")
        assert watched.events() == ["healthy > out_of_sync"]
        assert watched.look()["cause"] == "lockout_budget"  # one login is left to others
        assert watched.state() == ("out_of_sync", "drift")

        with site.router.database.transaction() as session:  # the window of the lockout budget has passed
            session.execute(delete(LoginRefusal))
        assert site.run("reconcile", uid, watched.engine)["state"] == "succeeded"
        assert (watched.state(), watched.status()) == (("healthy", None), "proven")
        assert watched.events()[1:] == ["out_of_sync > healthy"]

        _run(server, sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(login)))
        watched.look()
        assert watched.state()[0] == "locked"

        proxy.close()
        watched.look()
        assert (watched.state()[0], watched.status()) == ("unreachable", "proven")
        assert watched.events()[2:] == ["healthy > locked", "locked > unreachable"]


def test_a_locked_account_of_a_machine_is_told_from_a_wrong_password(
    sqlite_router: RunningRouter, sshd_server: SshServer, tmp_path: Path
) -> None:
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{sshd_server.port}=ssh")
    admin = site.add_user(sshd_server.admin_login, sshd_server.admin_password, sshd_server.admin_private_key)
    resource = site.add_resource("pamMachine", sshd_server.host, sshd_server.port, admin)
    login = "u" + secrets.token_hex(4)
    sshd_server.add_user(login, "First-Secret-1")
    uid = site.add_user(login, "First-Secret-1")
    site.rotate_by(uid, resource)
    watched = Watched(site, uid)
    watched.look()
    assert watched.state() == ("healthy", None)
    sshd_server.run(["passwd", "-l", login])
    watched.look()
    assert watched.state() == ("locked", "locked")
    assert watched.events() == ["unchecked > healthy", "healthy > locked"]


def _run(server: PostgresServer, statement: sql.Composed) -> None:
    with psycopg.connect(
        host=server.host, port=server.port, user=server.admin_login, password=server.admin_password,
        dbname=server.database, autocommit=True,
    ) as connection:  # fmt: skip
        connection.execute(statement)

"""The engine against an emulated SQL Server, with a real router and the vendor's SDK between them."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from connectors.base import Account, Credential, Deadline, Target, VerdictState
from connectors.sqlserver.connector import SqlserverConnector
from connectors.sqlserver.quoting import identifier, literal
from deploy.lab import EmulatedServer
from pam_jobs.secret import SecretValue
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration


def test_a_login_is_rotated_verified_and_reconciled(
    sqlite_router: RunningRouter, target_mssql: EmulatedServer, tmp_path: Path
) -> None:
    server = target_mssql
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{server.port}=mssql")
    admin = site.add_user(server.admin_login, server.admin_password)
    resource = site.add_resource("pamDatabase", server.host, server.port, admin)
    connector = SqlserverConnector()
    target = Target(host=server.host, port=server.port, protocol="mssql")

    def execute(batch: str) -> None:
        credential = Credential(login=server.admin_login, password=SecretValue(server.admin_password))
        link = connector.login(target, credential, Deadline(20))
        link.query(batch, Deadline(20))
        link.close()

    def logs_in(password: str) -> bool:
        with connector.open(target, None, Deadline(20)) as session:
            credential = Credential(login=login, password=SecretValue(password))
            return session.probe(Account(login=login, record_uid="x"), credential).state is VerdictState.ACCEPTED

    login = f"app]'{secrets.token_hex(4)}"
    execute(f"CREATE LOGIN {identifier(login)} WITH PASSWORD = {literal('First-Secret-1')}")
    uid = site.add_user(login, "First-Secret-1")
    site.rotate_by(uid, resource)
    engine = site.engine()

    plan = site.run("plan", uid, engine)
    assert plan["detail"]["plan"]["connector"] == "sqlserver"
    job = site.run("rotate", uid, engine)

    assert job["state"] == "succeeded", job
    new = site.password(uid)
    assert logs_in(new)
    assert not logs_in("First-Secret-1")
    assert site.vault.jobs.proof(uid)["proven"] is True
    for wherever in (site.router.dump(), server.log_path.read_bytes()):
        assert new.encode() not in wherever

    execute(f"ALTER LOGIN {identifier(login)} WITH PASSWORD = {literal('By-Hand-1')}")
    seen = site.run("verify", uid, engine)
    assert (seen["state"], seen["cause"]) == ("failed", "drift")
    assert site.run("reconcile", uid, engine)["state"] == "succeeded"
    assert logs_in(new)
    connector.close_idle()

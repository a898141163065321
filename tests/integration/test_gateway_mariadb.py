"""The engine against a real MariaDB, with a real router and the vendor's SDK between them."""

from __future__ import annotations

import secrets
from pathlib import Path

import pymysql
import pytest

from deploy.lab import MariadbServer
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration


def _connect(server: MariadbServer, login: str, password: str) -> pymysql.connections.Connection:
    return pymysql.connect(host=server.host, port=server.port, user=login, password=password, autocommit=True)


def _logs_in(server: MariadbServer, login: str, password: str) -> bool:
    try:
        _connect(server, login, password).close()
    except pymysql.err.OperationalError as error:
        if error.args[0] != 1045:
            raise
        return False
    return True


def test_a_user_of_two_hosts_is_rotated_verified_and_reconciled(
    sqlite_router: RunningRouter, target_mariadb: MariadbServer, tmp_path: Path
) -> None:
    server = target_mariadb
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{server.port}=mariadb")
    resource = site.add_resource(
        "pamDatabase", server.host, server.port, site.add_user(server.admin_login, server.admin_password)
    )
    login = "app_" + secrets.token_hex(4)
    with _connect(server, server.admin_login, server.admin_password) as connection, connection.cursor() as cursor:
        for host in ("%", "127.0.0.1"):
            cursor.execute("CREATE USER %s@%s IDENTIFIED BY 'First-Secret-1'", (login, host))
    uid = site.add_user(login, "First-Secret-1")
    site.rotate_by(uid, resource)
    engine = site.engine()

    plan = site.run("plan", uid, engine)
    assert plan["detail"]["plan"]["connector"] == "mysql"
    assert f"{login}@127.0.0.1" in str(plan["detail"])
    job = site.run("rotate", uid, engine)

    assert job["state"] == "succeeded", job
    new = site.password(uid)
    assert _logs_in(server, login, new)
    assert not _logs_in(server, login, "First-Secret-1")
    with _connect(server, server.admin_login, server.admin_password) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT Priv FROM mysql.global_priv WHERE User = %s", (login,))
        assert len({row[0].split('"authentication_string":')[1][:44] for row in cursor.fetchall()}) == 1
        cursor.execute("ALTER USER %s@'127.0.0.1' IDENTIFIED BY 'By-Hand-1'", (login,))
    assert site.vault.jobs.proof(uid)["proven"] is True
    for wherever in (site.router.dump(), server.general_log_path.read_bytes(), server.log_path.read_bytes()):
        assert new.encode() not in wherever

    seen = site.run("verify", uid, engine)
    assert (seen["state"], seen["cause"]) == ("failed", "drift")
    assert site.run("reconcile", uid, engine)["state"] == "succeeded"
    assert _logs_in(server, login, new)

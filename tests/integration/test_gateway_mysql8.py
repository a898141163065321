"""The engine against an emulated MySQL 8 with dual passwords, with a real router and the vendor's SDK between them."""

from __future__ import annotations

import secrets
from pathlib import Path

import pymysql
import pytest

from deploy.lab import EmulatedServer
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration


def _logs_in(server: EmulatedServer, login: str, password: str) -> bool:
    try:
        pymysql.connect(host=server.host, port=server.port, user=login, password=password, autocommit=None).close()
    except pymysql.err.OperationalError as error:
        if error.args[0] != 1045:
            raise
        return False
    return True


def test_a_user_is_rotated_twice(sqlite_router: RunningRouter, target_mysql8: EmulatedServer, tmp_path: Path) -> None:
    server = target_mysql8
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{server.port}=mysql")
    admin = site.add_user(server.admin_login, server.admin_password)
    resource = site.add_resource("pamDatabase", server.host, server.port, admin)
    login = "app_" + secrets.token_hex(4)
    arguments = {"user": server.admin_login, "password": server.admin_password, "autocommit": None}
    with pymysql.connect(host=server.host, port=server.port, **arguments) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER %s IDENTIFIED BY 'First-Secret-1'", (login,))
    uid = site.add_user(login, "First-Secret-1")
    site.rotate_by(uid, resource)
    engine = site.engine()

    for former in ("First-Secret-1", None):
        former = former or site.password(uid)  # noqa: PLW2901 - the second round's
        job = site.run("rotate", uid, engine)
        assert job["state"] == "succeeded", job
        assert _logs_in(server, login, site.password(uid))
        assert not _logs_in(server, login, former)
    assert site.vault.jobs.proof(uid)["proven"] is True
    for wherever in (site.router.dump(), server.log_path.read_bytes()):
        assert site.password(uid).encode() not in wherever

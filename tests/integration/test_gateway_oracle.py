"""The engine against an emulated Oracle Database, with a real router and the vendor's SDK between them."""

from __future__ import annotations

import secrets
from pathlib import Path

import oracledb
import pytest

from deploy.lab import EmulatedServer
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter

pytestmark = pytest.mark.integration


def test_a_user_is_rotated(sqlite_router: RunningRouter, target_oracle: EmulatedServer, tmp_path: Path) -> None:
    server = target_oracle
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{server.port}=oracle")
    admin = site.add_user(server.admin_login, server.admin_password)
    service = {"type": "text", "label": "connectDatabase", "value": ["labpdb"]}
    resource = site.add_resource("pamDatabase", server.host, server.port, admin, service)
    login = "APP" + secrets.token_hex(3).upper()

    def connect(user: str, password: str) -> oracledb.Connection:
        return oracledb.connect(
            user=user, password=password, host=server.host, port=server.port, service_name="labpdb", disable_oob=True
        )

    with connect(server.admin_login, server.admin_password) as connection, connection.cursor() as cursor:
        cursor.execute(f'CREATE USER "{login}" IDENTIFIED BY "First-Secret-1"')
    uid = site.add_user(login, "First-Secret-1")
    site.rotate_by(uid, resource)

    job = site.run("rotate", uid, site.engine())

    assert job["state"] == "succeeded", job
    new = site.password(uid)
    connect(login, new).close()
    with pytest.raises(oracledb.DatabaseError, match="ORA-01017"):
        connect(login, "First-Secret-1")
    for wherever in (site.router.dump(), server.log_path.read_bytes()):
        assert new.encode() not in wherever

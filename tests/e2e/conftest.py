"""One embedded system a module, with folder, share, configuration and the lab's targets as resources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from deploy.lab import PostgresServer, SshServer, sshd
from tests.support.embedded import Embedded, running

_numbers = count(1)


@dataclass
class Site:
    """The system and its targets."""

    system: Embedded
    postgres: PostgresServer
    ssh: SshServer | None
    configuration: str
    database: str
    database_admin: str
    machine: str | None = None
    machine_admin: str | None = None

    def database_user(self, password: str, *, rotation: bool = True) -> tuple[str, str]:
        """Make a role and its record, and return login and record UID."""
        login = f"role{next(_numbers)}"
        with self.connect(self.postgres.admin_login, self.admin_password()) as connection:
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(login), sql.Literal(password)))
        uid = self.system.add_record("pamUser", login, f"login={login}", "connectDatabase=postgres", secret=password)
        if rotation:
            self.system.pam(
                "rotation", "edit", "-r", uid, "-rs", self.database, "-a", self.database_admin, "-c", "Network", "-od"
            )
        return login, uid

    def machine_user(self, password: str) -> tuple[str, str]:
        """Make a Linux user and its record, and return login and record UID."""
        assert self.ssh is not None
        assert self.machine is not None
        assert self.machine_admin is not None
        login = f"user{next(_numbers)}"
        self.ssh.add_user(login, password)
        uid = self.system.add_record("pamUser", login, f"login={login}", secret=password)
        self.system.pam(
            "rotation", "edit", "-r", uid, "-rs", self.machine, "-a", self.machine_admin, "-c", "Network", "-od"
        )
        return login, uid

    def admin_password(self) -> str:
        return self.system.secret_of(self.database_admin)

    def connect(self, login: str, password: str) -> psycopg.Connection:
        return psycopg.connect(
            host=self.postgres.host, port=self.postgres.port, user=login, password=password, dbname="postgres",
            autocommit=True, connect_timeout=10,
        )  # fmt: skip

    def logs_in(self, login: str, password: str) -> bool:
        try:
            self.connect(login, password).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" not in str(error):
                raise
            return False
        return True


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, target_postgres: PostgresServer, request: pytest.FixtureRequest
) -> Iterator[Site]:
    """A running system that knows the lab's PostgreSQL, and its sshd where there can be one."""
    ssh: SshServer | None = None if sshd.obstacles() else request.getfixturevalue("sshd_server")
    folder = tmp_path_factory.mktemp("embedded") / "data"
    with running(folder) as system:
        yield _site(system, target_postgres, ssh, tmp_path_factory.mktemp("site"))


def _site(system: Embedded, server: PostgresServer, ssh: SshServer | None, _folder: Path) -> Site:
    system.pam("folder", "new", "Office")
    system.pam("app", "share", "Embedded", "Office", "--can-edit")
    ports = ["-pm", f"{server.port}=postgresql"] + (["-pm", f"{ssh.port}=ssh"] if ssh else [])
    configuration = system.json("config", "new", "-t", "Network", "-sf", "Office", *ports)["uid"]
    database = system.add_record(
        "pamDatabase", "Database", f"host={server.host}", f"port={server.port}", "databaseType=postgresql",
        "connectDatabase=postgres",
    )  # fmt: skip
    admin = system.add_record(
        "pamUser", "Database admin", f"login={server.admin_login}", "connectDatabase=postgres",
        secret=server.admin_password,
    )  # fmt: skip
    site = Site(
        system=system, postgres=server, ssh=ssh, configuration=configuration, database=database, database_admin=admin
    )
    if ssh:
        fields = (f"host={ssh.host}", f"port={ssh.port}", "operatingSystem=linux")
        site.machine = system.add_record("pamMachine", "Machine", *fields)
        site.machine_admin = system.add_record(
            "pamUser", "Machine admin", f"login={ssh.admin_login}", secret=ssh.admin_password
        )
    return site

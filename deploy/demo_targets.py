"""The demo's targets: what the vault is told of them, and logins to them that are not the system's own."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod

from deploy.lab import PostgresServer, SshServer

__all__ = ["DatabaseTarget", "MachineTarget", "Target"]

_LOGIN_SECONDS = 10


class Target(ABC):
    """A server with users whose credentials are rotated."""

    kind: str
    title: str
    protocol: str
    record_type: str
    host: str
    port: int
    admin_login: str
    admin_password: str

    @abstractmethod
    def fields(self) -> list[str]:
        """Return the fields of the resource's record."""

    @abstractmethod
    def user_fields(self) -> list[str]:
        """Return more fields of its users' records."""

    @abstractmethod
    def make_users(self) -> dict[str, str]:
        """Make users on the target and return their first passwords by login."""

    @abstractmethod
    def logs_in(self, login: str, password: str) -> bool:
        """Say whether the target takes the credential."""


class DatabaseTarget(Target):
    """A PostgreSQL server."""

    kind = "PostgreSQL"
    title = "Demo database"
    protocol = "postgresql"
    record_type = "pamDatabase"

    def __init__(self, server: PostgresServer) -> None:
        self.host, self.port = server.host, server.port
        self.admin_login, self.admin_password = server.admin_login, server.admin_password
        self._database = server.database

    def fields(self) -> list[str]:
        """Return the fields of the resource's record."""
        return [
            f"host={self.host}", f"port={self.port}", "databaseType=postgresql", f"connectDatabase={self._database}",
        ]  # fmt: skip

    def user_fields(self) -> list[str]:
        """Return more fields of its users' records."""
        return [f"connectDatabase={self._database}"]

    def make_users(self) -> dict[str, str]:
        """Make two roles."""
        import psycopg
        from psycopg import sql

        made = {login: secrets.token_urlsafe(12) for login in ("app_reader", "app_writer")}
        with self._connect(psycopg, self.admin_login, self.admin_password) as connection:
            for login, password in made.items():
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(login), sql.Literal(password))
                )
        return made

    def logs_in(self, login: str, password: str) -> bool:
        """Say whether the server takes the password."""
        import psycopg

        try:
            self._connect(psycopg, login, password).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                return False
            raise
        return True

    def _connect(self, psycopg, login: str, password: str):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return psycopg.connect(
            host=self.host, port=self.port, user=login, password=password, dbname=self._database, autocommit=True,
            connect_timeout=_LOGIN_SECONDS,
        )  # fmt: skip


class MachineTarget(Target):
    """A Linux machine over SSH."""

    kind = "SSH"
    title = "Demo machine"
    protocol = "ssh"
    record_type = "pamMachine"

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self.host, self.port = server.host, server.port
        self.admin_login, self.admin_password = server.admin_login, server.admin_password

    def fields(self) -> list[str]:
        """Return the fields of the resource's record."""
        return [f"host={self.host}", f"port={self.port}", "operatingSystem=linux"]

    def user_fields(self) -> list[str]:
        """Return more fields of its users' records."""
        return []

    def make_users(self) -> dict[str, str]:
        """Make one user."""
        password = secrets.token_urlsafe(12)
        self._server.add_user("deployer", password)
        return {"deployer": password}

    def logs_in(self, login: str, password: str) -> bool:
        """Say whether the machine takes the password."""
        import paramiko

        with paramiko.SSHClient() as client:
            keys = client.get_host_keys()
            kind, _, text = self._server.host_key.partition(" ")
            keys.add(f"[{self.host}]:{self.port}", kind, paramiko.PKey.from_type_string(kind, _bytes(text)))
            try:
                client.connect(
                    self.host, self.port, login, password, look_for_keys=False, allow_agent=False,
                    timeout=_LOGIN_SECONDS, auth_timeout=_LOGIN_SECONDS,
                )  # fmt: skip
            except paramiko.AuthenticationException:
                return False
        return True


def _bytes(text: str) -> bytes:
    import base64

    return base64.b64decode(text)

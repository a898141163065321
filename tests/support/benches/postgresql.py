"""Bench of PostgreSQL."""

from __future__ import annotations

import psycopg
from psycopg import sql

from connectors.base import Account, Credential, Target
from connectors.postgresql.connector import PostgresqlConnector
from deploy.lab import PostgresServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench


class PostgresBench(Bench):
    def __init__(self, server: PostgresServer, *, is_self: bool = False) -> None:
        self.name = "postgresql, itself" if is_self else "postgresql, admin"
        self.server = server
        self.is_self = is_self
        self.connector = PostgresqlConnector()
        self.target = Target(host=server.host, port=server.port, protocol="postgresql")

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def execute(self, statement: sql.Composed | str, *values: object) -> list[tuple]:
        arguments = {"host": self.server.host, "port": self.server.port, "dbname": "postgres"}
        login = {"user": self.server.admin_login, "password": self.server.admin_password}
        with psycopg.connect(**arguments, **login, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def make_account(self, login: str, credential: Credential) -> None:
        from connectors.postgresql.scram import scram_verifier

        verifier = scram_verifier(credential.password.reveal())[0] if credential.password else ""
        self.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(login), sql.Literal(verifier)))

    def fingerprint(self, account: Account) -> str:
        return str(self.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", account.login))

    def log_text(self) -> str:
        return self.server.log_path.read_text()

"""Bench of Oracle, which is emulated."""

from __future__ import annotations

import secrets

from connectors.base import Account, Credential, Deadline, Target
from connectors.oracle.connector import OracleConnector
from connectors.oracle.link import Row
from connectors.oracle.quoting import stored_name
from deploy.lab import EmulatedServer
from pam_jobs.ids import new_uid
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench


class OracleBench(Bench):
    emulated = True
    longest = 30
    forbidden = '"'

    def __init__(self, server: EmulatedServer, *, is_self: bool = False) -> None:
        self.name = "oracle, itself" if is_self else "oracle, admin"
        self.server = server
        self.is_self = is_self
        self.sees_others = not is_self
        self.connector = OracleConnector()
        self.target = Target(host=server.host, port=server.port, protocol="oracle", database="labpdb")

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def execute(self, statement: str, *values: str) -> list[Row]:
        link = self.connector.login(self.target, self.admin, Deadline(30))
        try:
            return link.query(statement, values, Deadline(30))
        finally:
            link.close()

    def new_account(self) -> tuple[Account, Credential]:
        """Return a fresh account with a plain name, which the database stores in capitals."""
        account = Account(login=f"U{secrets.token_hex(5).upper()}", record_uid=new_uid())
        credential = self.candidate(account).credential(account)
        self.make_account(account.login, credential)
        return account, credential

    def make_account(self, login: str, credential: Credential) -> None:
        password = credential.password.reveal() if credential.password else ""
        self.execute(f'CREATE USER "{stored_name(login)}" IDENTIFIED BY "{password}"')

    def fingerprint(self, account: Account) -> str:
        name = stored_name(account.login)
        return str(self.execute("SELECT password_versions FROM dba_users WHERE username = :name", name))

    def log_text(self) -> str:
        return self.server.log_path.read_text()

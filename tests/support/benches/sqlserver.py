"""Bench of SQL Server, which is emulated."""

from __future__ import annotations

from connectors.base import Account, Credential, Deadline, Target
from connectors.sqlserver.connector import SqlserverConnector
from connectors.sqlserver.link import Drivers, Row
from connectors.sqlserver.quoting import identifier, literal
from deploy.lab import EmulatedServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench

_DRIVERS = Drivers()  # of all benches: starting one takes longer than logging in


class SqlserverBench(Bench):
    emulated = True
    longest = 128

    def __init__(self, server: EmulatedServer, *, is_self: bool = False) -> None:
        self.name = "sqlserver, itself" if is_self else "sqlserver, admin"
        self.server = server
        self.is_self = is_self
        self.sees_others = not is_self
        self.connector = SqlserverConnector(drivers=_DRIVERS)
        self.target = Target(host=server.host, port=server.port, protocol="mssql")

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def execute(self, batch: str) -> list[Row]:
        link = self.connector.login(self.target, self.admin, Deadline(30))
        try:
            return link.query(batch, Deadline(30))
        finally:
            link.close()

    def make_account(self, login: str, credential: Credential, options: str = ", CHECK_POLICY = OFF") -> None:
        password = credential.password.reveal() if credential.password else ""
        self.execute(f"CREATE LOGIN {identifier(login)} WITH PASSWORD = {literal(password)}{options}")

    def fingerprint(self, account: Account) -> str:
        return str(self.execute(f"SELECT password_hash FROM sys.sql_logins WHERE name = {literal(account.login)}"))

    def log_text(self) -> str:
        return self.server.log_path.read_text()

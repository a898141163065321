"""Benches of MariaDB, and of MySQL 8, which is emulated."""

from __future__ import annotations

import pymysql

from connectors.base import Account, Credential, Target
from connectors.mysql.connector import MysqlConnector
from deploy.lab import EmulatedServer, MariadbServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench


class MariadbBench(Bench):
    def __init__(self, server: MariadbServer, *, is_self: bool = False) -> None:
        self.name = "mariadb, itself" if is_self else "mariadb, admin"
        self.server = server
        self.is_self = is_self
        self.sees_others = not is_self
        self.connector = MysqlConnector()
        self.target = Target(host=server.host, port=server.port, protocol="mariadb")

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def execute(self, statement: str, *values: object) -> list[tuple]:
        login = {"user": self.server.admin_login, "password": self.server.admin_password}
        place = {"host": self.server.host, "port": self.server.port}
        with pymysql.connect(**place, **login, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def make_account(self, login: str, credential: Credential) -> None:
        from connectors.mysql.hashes import native_hash

        user, _, host = login.rpartition("@") if "@" in login else (login, "", "%")
        stored = native_hash(credential.password.reveal().encode()) if credential.password else ""
        self.execute("CREATE USER %s@%s IDENTIFIED BY PASSWORD %s", user, host, stored)

    def fingerprint(self, account: Account) -> str:
        user = account.login.rpartition("@")[0] or account.login
        return str(self.execute("SELECT Host, Priv FROM mysql.global_priv WHERE User = %s ORDER BY Host", user))

    def log_text(self) -> str:
        return self.server.log_path.read_text() + self.server.general_log_path.read_text(errors="replace")


class Mysql8Bench(Bench):
    emulated = True

    def __init__(self, server: EmulatedServer, *, is_self: bool = False) -> None:
        self.name = "mysql8, itself" if is_self else "mysql8, admin"
        self.server = server
        self.is_self = is_self
        self.sees_others = not is_self
        self.connector = MysqlConnector()
        self.target = Target(host=server.host, port=server.port, protocol="mysql")

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def execute(self, statement: str, *values: object) -> list[tuple]:
        login = {"user": self.server.admin_login, "password": self.server.admin_password}
        place = {"host": self.server.host, "port": self.server.port}
        with pymysql.connect(**place, **login, autocommit=None) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def make_account(self, login: str, credential: Credential) -> None:
        user, _, host = login.rpartition("@") if "@" in login else (login, "", "%")
        password = credential.password.reveal() if credential.password else ""
        self.execute("CREATE USER %s@%s IDENTIFIED WITH caching_sha2_password BY %s", user, host, password)

    def fingerprint(self, account: Account) -> str:
        user = account.login.rpartition("@")[0] or account.login
        return str(
            self.execute("SELECT host, authentication_string, user_attributes FROM mysql.user WHERE user = %s", user)
        )

    def log_text(self) -> str:
        return self.server.log_path.read_text()

"""MariaDB as a target of the crash suite."""

from __future__ import annotations

import secrets
from typing import Any

import pymysql

from deploy.lab import MariadbServer
from tests.crash.targets import Target

_REFUSED = {1045, 4151}  # a wrong password; an account that is locked


class Mariadb(Target):
    name = "mariadb"
    protocol = "mariadb"
    record_type = "pamDatabase"
    locks_accounts = True
    is_further = True

    def __init__(self, server: MariadbServer) -> None:
        super().__init__(server.host, server.port)
        self._server = server
        self.admin_login, self.admin_password = f"admin{secrets.token_hex(4)}", secrets.token_urlsafe(18)
        self.add(self.admin_login, self.admin_password)
        self.make_admin(self.admin_login)

    def add(self, login: str, password: str) -> None:
        self._execute("CREATE USER %s@'%%' IDENTIFIED BY %s", login, password)

    def logs_in(self, login: str, password: str) -> bool:
        try:
            self._connect(login, password).close()
        except pymysql.err.OperationalError as error:
            if error.args[0] not in _REFUSED:
                raise
            return False
        return True

    def set_password(self, login: str, password: str) -> None:
        self._execute("ALTER USER %s@'%%' IDENTIFIED BY %s", login, password)

    def lock(self, login: str, *, is_locked: bool) -> None:
        self._execute(f"ALTER USER %s@'%%' ACCOUNT {'LOCK' if is_locked else 'UNLOCK'}", login)

    def demote_admin(self, *, is_demoted: bool) -> None:
        if is_demoted:
            self._execute("REVOKE ALL PRIVILEGES, GRANT OPTION FROM %s@'%%'", self.admin_login)
        else:
            self.make_admin(self.admin_login)

    def make_admin(self, login: str) -> None:
        self._execute("GRANT ALL ON *.* TO %s@'%%' WITH GRANT OPTION", login)

    def fingerprint(self, login: str) -> str:
        """Return what the server stores, with the second of the last change: the hash has no salt."""
        return str(self._execute("SELECT Priv FROM mysql.global_priv WHERE User = %s", login))

    def _connect(self, login: str, password: str) -> pymysql.connections.Connection:
        return pymysql.connect(
            host=self._server.host, port=self._server.port, user=login, password=password, autocommit=True
        )

    def _execute(self, statement: str, *values: str) -> Any:
        with (
            self._connect(self._server.admin_login, self._server.admin_password) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, values)
            return cursor.fetchall()

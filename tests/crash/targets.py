"""The targets of the crash suite. A further connector joins by one more ``Target`` here.

Everything in this module talks to the target with its own driver, never through a connector: it is the judge.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import paramiko
import psycopg
from psycopg import sql

from connectors.faults import FaultProxy
from deploy.lab import PostgresServer, SshServer
from tests.support.gateway_site import GatewaySite

LOCKING = ("postgresql", "linux", "mariadb", "openldap")  # targets whose accounts can be locked
NAMES = (*LOCKING, "rabbitmq")
FIRST = "First-Secret-1"
_LOGIN_SECONDS = 60  # of a machine that others use too
PROXIES = 26  # the first is everybody's, each other one is for a case of its own


class Target(ABC):
    """One server behind a fault proxy."""

    name: ClassVar[str]
    protocol: ClassVar[str]
    record_type: ClassVar[str]
    locks_accounts: ClassVar[bool]  # one attempt waits on the target for another one's end
    is_slow: ClassVar[bool] = False  # a login costs so much that short runs have fewer of them
    is_further: ClassVar[bool] = False  # short runs have a handful of rounds on it, since others show the same
    can_lock: ClassVar[bool] = True  # an account can be shut, its password kept
    part: ClassVar[str] = "password"  # of the credential, as ledger and record call it
    first: str = FIRST  # what an account has in the beginning
    admin_login: str
    admin_password: str
    admin: str  # uid of the admin's record
    resource: str  # uid of the server's

    def __init__(self, host: str, port: int) -> None:
        # Their ports are known before the configuration is made: it maps each to the protocol.
        self.proxies = [FaultProxy(host, port).__enter__() for _ in range(PROXIES)]
        self._resources: dict[int, str] = {}

    def join(self, site: GatewaySite) -> None:
        """Make the records of the server and its admin."""
        self.admin = site.add_user(self.admin_login, self.admin_password)
        self.resource = self.resource_at(site, self.proxies[0])

    def resource_at(self, site: GatewaySite, proxy: FaultProxy) -> str:
        """Return the record of the server as it is reached through the proxy."""
        if proxy.port not in self._resources:
            self._resources[proxy.port] = self.add_resource(site, proxy, self.admin)
        return self._resources[proxy.port]

    def add_resource(self, site: GatewaySite, proxy: FaultProxy, admin: str) -> str:
        """Make a record of the server with that admin."""
        return site.add_resource(self.record_type, proxy.host, proxy.port, admin)

    def record(self, site: GatewaySite, login: str) -> str:
        """Make the record of a new account."""
        return site.add_user(login, self.first)

    def resource_for(self, _site: GatewaySite, _account_uid: str) -> str:
        """Return the record of the server that the account is rotated on."""
        return self.resource

    @property
    def port_mapping(self) -> str:
        """The lines of the configuration's port mapping."""
        return "\n".join(f"{proxy.port}={self.protocol}" for proxy in self.proxies)

    @abstractmethod
    def add(self, login: str, password: str) -> None:
        """Make an account."""

    @abstractmethod
    def logs_in(self, login: str, password: str) -> bool:
        """Log in to the server itself."""

    @abstractmethod
    def set_password(self, login: str, password: str) -> None:
        """Set a password behind everybody's back."""

    @abstractmethod
    def lock(self, login: str, *, is_locked: bool) -> None:
        """Lock or unlock an account."""

    @abstractmethod
    def demote_admin(self, *, is_demoted: bool) -> None:
        """Take the admin's rights, or give them back."""

    @abstractmethod
    def make_admin(self, login: str) -> None:
        """Give an account every right there is."""

    @abstractmethod
    def fingerprint(self, login: str) -> str:
        """Return what the server stores of the password: another one after each change, even to the same value."""

    def new_login(self) -> str:
        return f"c{secrets.token_hex(5)}"

    def forget_records(self) -> None:
        """Forget the records of a system that is gone."""
        self._resources.clear()

    def close(self) -> None:
        for proxy in self.proxies:
            proxy.close()


_CHANGE = re.compile(r'ALTER ROLE "(\w+)" PASSWORD')


class Postgresql(Target):
    name = "postgresql"
    protocol = "postgresql"
    record_type = "pamDatabase"
    locks_accounts = True

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(server.host, server.port)
        self._server = server
        self.admin_login, self.admin_password = f"admin{secrets.token_hex(4)}", secrets.token_urlsafe(18)
        statement = sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}")
        self._execute(statement, self.admin_login, self.admin_password)

    def add(self, login: str, password: str) -> None:
        self._execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}"), login, password)

    def logs_in(self, login: str, password: str) -> bool:
        try:
            self._connect(login, password).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" not in str(error) and "is not permitted" not in str(error):
                raise
            return False
        return True

    def set_password(self, login: str, password: str) -> None:
        self._execute(sql.SQL("ALTER ROLE {} PASSWORD {}"), login, password)

    def lock(self, login: str, *, is_locked: bool) -> None:
        until = "2001-01-01" if is_locked else "infinity"
        self._execute(sql.SQL("ALTER ROLE {} VALID UNTIL {}"), login, until)

    def demote_admin(self, *, is_demoted: bool) -> None:
        words = "NOSUPERUSER NOCREATEROLE" if is_demoted else "SUPERUSER"
        with self._connect(self._server.admin_login, self._server.admin_password) as connection:
            connection.execute(sql.SQL("ALTER ROLE {} " + words).format(sql.Identifier(self.admin_login)))

    def make_admin(self, login: str) -> None:
        with self._connect(self._server.admin_login, self._server.admin_password) as connection:
            connection.execute(sql.SQL("ALTER ROLE {} SUPERUSER").format(sql.Identifier(login)))

    def fingerprint(self, login: str) -> str:
        with self._connect(self._server.admin_login, self._server.admin_password) as connection:
            row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [login]).fetchone()
        assert row is not None
        return str(row[0])

    def changes_of(self, login: str) -> int:
        """Return how often the server was told to change the role."""
        return self._server.log_path.read_text(errors="replace").count(f'ALTER ROLE "{login}" PASSWORD')

    def changes(self) -> Counter[str]:
        """Return how often the server was told to change each role."""
        with self._server.log_path.open(errors="replace") as log:
            return Counter(found[1] for line in log if (found := _CHANGE.search(line)))

    def _connect(self, login: str, password: str) -> psycopg.Connection:
        return psycopg.connect(
            host=self._server.host, port=self._server.port, user=login, password=password,
            dbname=self._server.database, autocommit=True,
        )  # fmt: skip

    def _execute(self, statement: sql.SQL, login: str, text: str) -> None:
        with self._connect(self._server.admin_login, self._server.admin_password) as connection:
            connection.execute(statement.format(sql.Identifier(login), sql.Literal(text)))


class Linux(Target):
    name = "linux"
    protocol = "ssh"
    record_type = "pamMachine"
    locks_accounts = False
    is_slow = True

    _gate = threading.Semaphore(4)  # unfinished logins beyond some are dropped by sshd at random

    def __init__(self, server: SshServer) -> None:
        super().__init__(server.host, server.port)
        self._server = server
        self.admin_login, self.admin_password = f"admin{secrets.token_hex(4)}", secrets.token_urlsafe(18)
        self._rule = f"/etc/sudoers.d/{self.admin_login}"
        server.add_user(self.admin_login, self.admin_password)
        self.demote_admin(is_demoted=False)

    def add(self, login: str, password: str) -> None:
        self._server.add_user(login, password)

    def logs_in(self, login: str, password: str) -> bool:
        return self._connects(login, password=password)

    def _connects(self, login: str, **credential: Any) -> bool:
        kind, text = self._server.host_key.split()
        place = f"[{self._server.host}]:{self._server.port}"
        with self._gate, paramiko.SSHClient() as client:
            client.get_host_keys().add(place, kind, paramiko.PKey.from_type_string(kind, base64.b64decode(text)))
            try:
                client.connect(
                    self._server.host, self._server.port, login, look_for_keys=False, allow_agent=False,
                    timeout=_LOGIN_SECONDS, banner_timeout=_LOGIN_SECONDS, auth_timeout=_LOGIN_SECONDS, **credential,
                )  # fmt: skip
            except paramiko.AuthenticationException:
                return False
            return True

    def set_password(self, login: str, password: str) -> None:
        """Set it past PAM, which a fault may have refuse passwords."""
        self._server.run(["chpasswd", "-c", "SHA512"], f"{login}:{password}\n".encode())

    def lock(self, login: str, *, is_locked: bool) -> None:
        self._server.run(["chage", "-E", "1" if is_locked else "-1", login])

    def demote_admin(self, *, is_demoted: bool) -> None:
        self._write_rule(self._rule, "" if is_demoted else f"{self.admin_login} ALL=(ALL:ALL) NOPASSWD: ALL\n")

    def make_admin(self, login: str) -> None:
        self._write_rule(f"/etc/sudoers.d/{login}", f"{login} ALL=(ALL:ALL) NOPASSWD: ALL\n")

    def _write_rule(self, path: str, rule: str) -> None:
        self._server.run(["tee", path], rule.encode())
        self._server.run(["chmod", "440", path])

    def fingerprint(self, login: str) -> str:
        lines = self._server.run(["cat", "/etc/shadow"]).stdout.decode().splitlines()
        return next(line for line in lines if line.startswith(f"{login}:"))

    @contextmanager
    def refusing_every_second(self) -> Iterator[None]:
        """Let PAM refuse every second new password, beginning with the first."""
        service, rule = "/etc/pam.d/chpasswd", "/etc/pam-every-second"
        before = self._server.run(["cat", service]).stdout
        script = (
            f"#!/bin/sh\ncat >/dev/null\n[ -e {rule}.seen ] && rm {rule}.seen && exit 0\ntouch {rule}.seen\n"
            "echo 'BAD PASSWORD: it is based on a rule of this machine'\nexit 1\n"
        )
        self._server.run(["tee", rule], script.encode())
        self._server.run(["chmod", "755", rule])
        self._server.run(["tee", service], f"password requisite pam_exec.so quiet stdout {rule}\n".encode() + before)
        try:
            yield
        finally:
            self._server.run(["tee", service], before)

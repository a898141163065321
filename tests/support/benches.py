"""One bench a connector and target: how the contract suite makes accounts there, and looks at them from the side."""

from __future__ import annotations

import functools
import itertools
import secrets
from abc import ABC, abstractmethod
from dataclasses import replace

import ldap3
import psycopg
import pymysql
from psycopg import sql

from connectors.base import Account, Candidate, Connector, Credential, Deadline, Target
from connectors.fake import FakeAccount, FakeConnector, FakeTarget
from connectors.linux.connector import LinuxConnector
from connectors.mysql.connector import MysqlConnector
from connectors.openldap.connector import OpenldapConnector
from connectors.postgresql.connector import PostgresqlConnector
from deploy.lab import LdapServer, MariadbServer, PostgresServer, SshServer
from pam_jobs.ids import new_uid
from pam_jobs.records.keys import KeyPair, generate_key
from pam_jobs.secret import SecretValue
from tests.support.lab import ASKING_ADMIN, CHPASSWD_ADMIN, ROOT, SUDO_LOG

_numbers = itertools.count(1)
_rsa: list[KeyPair] = []


@functools.cache
def _rsa_ring() -> itertools.cycle:
    """Three RSA keys of 4096 bits, used in turn: making one takes seconds."""
    return itertools.cycle([generate_key("ssh-rsa") for _ in range(3)])


def new_key(algorithm: str) -> KeyPair:
    return next(_rsa_ring()) if algorithm == "ssh-rsa" else generate_key(algorithm)


def new_password() -> SecretValue:
    return SecretValue(f"Zq7-{secrets.token_urlsafe(15)}")


class Bench(ABC):
    """A connector, a target, and a way to be the rotator there."""

    name: str
    connector: Connector
    target: Target
    is_self = False  # the account rotates itself
    algorithm: str | None = None  # rotates keys of this kind in place of passwords
    can_be_proxied = True
    sees_others = True  # the rotator is told which other accounts there are

    @abstractmethod
    def make_account(self, login: str, credential: Credential) -> None:
        """Create the account with this credential, from the side."""

    @abstractmethod
    def fingerprint(self, account: Account) -> str:
        """Return what the target stores for the account, from the side."""

    @abstractmethod
    def log_text(self) -> str:
        """Return everything the server wrote to its log."""

    @property
    @abstractmethod
    def admin(self) -> Credential:
        """The rotator, where it is not the account itself."""

    def new_account(self) -> tuple[Account, Credential]:
        """Return a fresh account and the credential that logs in to it."""
        login = f"u{next(_numbers)}x{secrets.token_hex(3)}"
        account = Account(login=login, record_uid=new_uid())
        candidate = self.candidate(account)
        credential = candidate.credential(account)
        self.make_account(login, credential)
        return account, credential

    def candidate(self, account: Account, password: SecretValue | None = None) -> Candidate:
        if self.algorithm is None:
            return Candidate(password=password or new_password())
        key = new_key(self.algorithm)
        comment = f"keeper-security-{account.record_uid}"
        return Candidate(private_key=key.private_pem, public_key=key.public, key_comment=comment)

    def rotator(self, current: Credential) -> Credential:
        return current if self.is_self else self.admin

    def at(self, port: int) -> Target:
        return replace(self.target, port=port)

    def open(self, current: Credential, *, seconds: float = 30.0, target: Target | None = None):
        return self.connector.open(target or self.target, self.rotator(current), Deadline(seconds))

    def look(self, seconds: float = 30.0, target: Target | None = None):
        """Open a session that can only probe."""
        return self.connector.open(target or self.target, None, Deadline(seconds))


class FakeBench(Bench):
    can_be_proxied = False

    def __init__(self) -> None:
        self.name = "fake"
        self.connector = FakeConnector()
        admin = FakeAccount(password="Admin of the fake", is_admin=True)
        self.state = self.connector.add("fake", 1, FakeTarget(accounts={"admin": admin}))
        self.target = Target(host="fake", port=1, protocol="fake")

    @property
    def admin(self) -> Credential:
        return Credential(login="admin", password=SecretValue("Admin of the fake"))

    def make_account(self, login: str, credential: Credential) -> None:
        self.state.accounts[login] = FakeAccount(password=credential.password.reveal() if credential.password else None)

    def fingerprint(self, account: Account) -> str:
        state = self.state.accounts[account.login]
        return f"{state.password} {state.public_keys}"

    def log_text(self) -> str:
        return ""


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


class LinuxBench(Bench):
    def __init__(
        self,
        server: SshServer,
        how: str,
        *,
        admin: Credential | None = None,
        algorithm: str | None = None,
    ) -> None:
        self.name = f"linux, {how}" + (f", {algorithm}" if algorithm else "")
        self.server = server
        self.is_self = admin is None
        self.algorithm = algorithm
        self._admin = admin
        self.connector = LinuxConnector()
        self.target = Target(host=server.host, port=server.port, protocol="ssh", host_keys=(server.host_key,))

    @property
    def admin(self) -> Credential:
        return self._admin or key_admin(self.server)

    def make_account(self, login: str, credential: Credential) -> None:
        password = credential.password.reveal() if credential.password else secrets.token_urlsafe(12)
        self.server.add_user(login, password)
        if credential.private_key is not None:
            from pam_jobs.records.keys import public_of

            self.set_keys(login, f"{public_of(credential.private_key)} keeper-security-by-hand\n".encode())

    def set_keys(self, login: str, text: bytes) -> None:
        home = f"/home/{login}"
        self.server.run(["install", "-d", "-m", "700", "-o", login, "-g", login, f"{home}/.ssh"])
        script = 'umask 077; cat >"$1"; chown "$2" "$1"'
        self.server.run(["sh", "-c", script, "sh", f"{home}/.ssh/authorized_keys", login], text)

    def keys(self, login: str) -> bytes:
        return self.server.run(["sh", "-c", 'cat "$1" || :', "sh", f"/home/{login}/.ssh/authorized_keys"]).stdout

    def fingerprint(self, account: Account) -> str:
        shadow = self.server.run(["getent", "shadow", account.login]).stdout
        return f"{shadow!r} {self.keys(account.login)!r}"

    def log_text(self) -> str:
        asked = self.server.run(["sh", "-c", f"cat {SUDO_LOG} || :"]).stdout.decode(errors="replace")
        return self.server.log_path.read_text(errors="replace") + asked


class OpenldapBench(Bench):
    def __init__(self, server: LdapServer, *, is_self: bool = False, secure: bool = True) -> None:
        self.name = f"openldap, {'itself' if is_self else 'admin'}, {'LDAPS' if secure else 'StartTLS'}"
        self.server = server
        self.is_self = is_self
        self.connector = OpenldapConnector()
        self.target = Target(
            host=server.host, port=server.secure_port if secure else server.port,
            protocol="ldaps" if secure else "ldap", options={"ssl_ca": str(server.ca)},
        )  # fmt: skip

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def dn(self, login: str) -> str:
        return f"uid={login},ou=people,{self.server.base}"

    def connect(self) -> ldap3.Connection:
        server = ldap3.Server(self.server.host, self.server.port, get_info=ldap3.NONE)
        return ldap3.Connection(
            server, self.server.admin_login, self.server.admin_password, auto_bind=True, check_names=False
        )

    def make_account(self, login: str, credential: Credential) -> None:
        password = credential.password.reveal() if credential.password else ""
        values = {"uid": login, "cn": login, "sn": login, "userPassword": password.encode()}
        with self.connect() as connection:
            assert connection.add(self.dn(login), "inetOrgPerson", values), connection.result

    def modify(self, login: str, values: dict[str, list]) -> None:
        """Set attributes of an entry from the side; an empty list takes one away."""
        changes = {name: [(ldap3.MODIFY_REPLACE, new)] for name, new in values.items()}
        with self.connect() as connection:
            # what slapd keeps to itself goes with the relax control (draft-zeilenga-ldap-relax)
            assert connection.modify(self.dn(login), changes, [("1.3.6.1.4.1.4203.666.5.12", True, None)]), (
                connection.result
            )

    def fingerprint(self, account: Account) -> str:
        with self.connect() as connection:
            connection.search(self.dn(account.login), "(objectClass=*)", ldap3.BASE, attributes=["userPassword", "+"])
            return str(connection.response[0]["raw_attributes"])

    def log_text(self) -> str:
        return self.server.log_path.read_text(errors="replace")


def password_admin(server: SshServer) -> Credential:
    return Credential(login=server.admin_login, password=SecretValue(server.admin_password))


def key_admin(server: SshServer) -> Credential:
    return Credential(login=server.admin_login, private_key=SecretValue(server.admin_private_key))


def credential_of(pair: tuple[str, str]) -> Credential:
    return Credential(login=pair[0], password=SecretValue(pair[1]))


def asking_admin() -> Credential:
    return credential_of(ASKING_ADMIN)


def narrow_admin() -> Credential:
    return credential_of(CHPASSWD_ADMIN)


def root() -> Credential:
    return credential_of(ROOT)

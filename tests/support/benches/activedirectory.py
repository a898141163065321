"""Bench of Active Directory: Samba's domain controller."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import ldap3

from connectors.activedirectory.connector import ActiveDirectoryConnector
from connectors.base import Account, Credential, Target
from deploy.lab import SambaServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench

_connections: dict[str, ldap3.Connection] = {}

NORMAL = 0x200


class ActiveDirectoryBench(Bench):
    def __init__(self, server: SambaServer, *, is_self: bool = False, secure: bool = True) -> None:
        self.name = f"active directory, {'itself' if is_self else 'admin'}, {'LDAPS' if secure else 'StartTLS'}"
        self.server = server
        self.is_self = is_self
        self.connector = ActiveDirectoryConnector()
        self.target = Target(
            host=server.host, port=server.port if secure else server.clear_port, protocol="ldaps" if secure else "ldap",
            options={"ssl_ca": str(server.ca), "directory_type": "active_directory", "domain_name": server.domain},
        )  # fmt: skip

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def at(self, port: int) -> Target:
        return replace(self.target, host="127.0.0.1", port=port)

    def dn(self, login: str) -> str:
        return f"CN={ldap3.utils.dn.escape_rdn(login)},CN=Users,{self.server.base}"

    @contextmanager
    def connect(self) -> Iterator[ldap3.Connection]:
        """Lend the administrator's connection, which is made once: a login costs the controller more than what is asked."""
        if self.server.host not in _connections:
            tls = ldap3.Tls(validate=ssl.CERT_NONE)  # ldap3's own check of names is deprecated in the standard library
            server = ldap3.Server(self.server.host, self.server.port, use_ssl=True, tls=tls, get_info=ldap3.NONE)
            login = (self.server.admin_login, self.server.admin_password)
            _connections[self.server.host] = ldap3.Connection(server, *login, auto_bind=True, check_names=False)
        yield _connections[self.server.host]

    def make_account(self, login: str, credential: Credential, **values: object) -> None:
        password = credential.password.reveal() if credential.password else ""
        entry = {
            "sAMAccountName": login, "userPrincipalName": f"{login}@{self.server.domain}",
            "unicodePwd": f'"{password}"'.encode("utf-16-le"), "userAccountControl": str(NORMAL), **values,
        }  # fmt: skip
        with self.connect() as connection:
            assert connection.add(self.dn(login), "user", entry), connection.result

    def modify(self, dn: str, values: dict[str, list]) -> None:
        """Set attributes from the side; an empty list takes one away."""
        changes = {name: [(ldap3.MODIFY_REPLACE, new)] for name, new in values.items()}
        with self.connect() as connection:
            assert connection.modify(dn, changes), connection.result

    def read(self, login: str, *attributes: str) -> dict[str, list[bytes]]:
        with self.connect() as connection:
            connection.search(self.dn(login), "(objectClass=*)", ldap3.BASE, attributes=list(attributes))
            return connection.response[0]["raw_attributes"]

    def fingerprint(self, account: Account) -> str:
        told = self.read(account.login, "pwdLastSet", "userAccountControl", "lockoutTime", "msDS-KeyVersionNumber")
        return str(sorted(told.items()))

    def log_text(self) -> str:
        return self.server.log_path.read_text(errors="replace")

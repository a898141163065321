"""Bench of OpenLDAP."""

from __future__ import annotations

import ldap3

from connectors.base import Account, Credential, Target
from connectors.openldap.connector import OpenldapConnector
from deploy.lab import LdapServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench


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

"""An OpenLDAP directory as a target of the crash suite, over LDAPS."""

from __future__ import annotations

import secrets
from typing import Any

import ldap3
from ldap3.core.results import RESULT_INVALID_CREDENTIALS, RESULT_SUCCESS

from connectors.faults import FaultProxy
from deploy.lab import LdapServer
from tests.crash.targets import Target
from tests.support.gateway_site import GatewaySite

PATIENT = "patient"  # the password policy of the accounts: the judge's own wrong guesses lock nothing
_DATABASE = "olcDatabase={1}mdb,cn=config"
_FOREVER = "000001010000Z"  # pwdAccountLockedTime of an account that an administrator locked
_RELAX = ("1.3.6.1.4.1.4203.666.5.12", True, None)  # what slapd keeps to itself goes with this control


class Openldap(Target):
    name = "openldap"
    protocol = "ldaps"
    record_type = "pamDirectory"
    locks_accounts = False
    is_further = True

    def __init__(self, server: LdapServer) -> None:
        super().__init__(server.host, server.secure_port)
        self._server = server
        self.admin_login = ""
        login, self.admin_password = f"admin{secrets.token_hex(4)}", secrets.token_urlsafe(18)
        self.admin_login = self._dn(login)
        self.add(login, self.admin_password)
        self.make_admin(login)

    def add_resource(self, site: GatewaySite, proxy: FaultProxy, admin: str) -> str:
        uid, ca = super().add_resource(site, proxy, admin), str(self._server.ca)
        site.vault.records.update(uid, lambda record: record.set_field("text", ca, "ssl_ca", custom=True))
        return uid

    def add(self, login: str, password: str) -> None:
        values = {"uid": login, "cn": login, "sn": login, "userPassword": password}
        values["pwdPolicySubentry"] = f"cn={PATIENT},ou=policies,{self._server.base}"
        with self._root() as connection:
            done = connection.add(self._dn(login), "inetOrgPerson", values, [_RELAX])
            assert done, connection.result

    def logs_in(self, login: str, password: str) -> bool:
        connection = ldap3.Connection(self._place, self._dn(login), password)
        connection.bind()
        result = connection.result["result"]
        connection.unbind()
        assert result in {RESULT_SUCCESS, RESULT_INVALID_CREDENTIALS}, result
        return bool(result == RESULT_SUCCESS)

    def set_password(self, login: str, password: str) -> None:
        self._modify(self._dn(login), "userPassword", [password])

    def lock(self, login: str, *, is_locked: bool) -> None:
        self._modify(self._dn(login), "pwdAccountLockedTime", [_FOREVER] if is_locked else [])

    def demote_admin(self, *, is_demoted: bool) -> None:
        self._rule(ldap3.MODIFY_DELETE if is_demoted else ldap3.MODIFY_ADD, self.admin_login)

    def make_admin(self, login: str) -> None:
        self._rule(ldap3.MODIFY_ADD, self._dn(login))

    def fingerprint(self, login: str) -> str:
        with self._root() as connection:
            names = ["userPassword", "pwdChangedTime", "entryCSN"]
            connection.search(self._dn(login), "(objectClass=*)", ldap3.BASE, attributes=names)
            return str(connection.response[0]["raw_attributes"])

    def _dn(self, login: str) -> str:
        return login if login == self.admin_login else f"uid={login},ou=people,{self._server.base}"

    @property
    def _place(self) -> ldap3.Server:
        return ldap3.Server(self._server.host, self._server.port, get_info=ldap3.NONE)

    def _root(self) -> ldap3.Connection:
        return self._bound(self._server.admin_login)

    def _bound(self, name: str) -> ldap3.Connection:
        return ldap3.Connection(self._place, name, self._server.admin_password, auto_bind=True, check_names=False)

    def _modify(self, dn: str, attribute: str, values: list[str]) -> None:
        with self._root() as connection:
            done = connection.modify(dn, {attribute: [(ldap3.MODIFY_REPLACE, values)]}, [_RELAX])
            assert done, connection.result

    def _rule(self, how: str, dn: str) -> None:
        """Add the rule that lets the entry do everything in front of all others, or take it away."""
        rule = f'to * by dn.exact="{dn}" manage by * break'
        with self._bound("cn=config") as connection:
            if how == ldap3.MODIFY_ADD:
                change: Any = (how, ["{0}" + rule])
            else:
                connection.search(_DATABASE, "(objectClass=*)", ldap3.BASE, attributes=["olcAccess"])
                rules = [text.decode() for text in connection.response[0]["raw_attributes"]["olcAccess"]]
                change = (how, [next(text for text in rules if dn in text)])
            done = connection.modify(_DATABASE, {"olcAccess": [change]})
            assert done, connection.result

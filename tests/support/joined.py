"""An emulated Windows machine as a member of the lab's domain, or as its controller: Kerberos' keys and tickets are real."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ldap3
from ldap3.utils.conv import escape_filter_chars

from connectors.base import Account, Credential, Target
from deploy.lab import SambaServer, windows
from deploy.lab.windows import Acceptor, Machine, User, WindowsServer
from deploy.lab.windows.kerberos import write_keytab
from deploy.lab.windows.machine import Code
from pam_jobs.secret import SecretValue
from tests.support.benches.activedirectory import ActiveDirectoryBench

__all__ = ["JoinedMachine"]


_LOGON_CODES = {
    "": Code.OK, "wrong_password": Code.LOGON_FAILURE, "not_found": Code.LOGON_FAILURE, "locked": Code.ACCOUNT_LOCKED_OUT,
    "disabled": Code.ACCOUNT_DISABLED, "expired": Code.PASSWORD_EXPIRED, "change_after_reset": Code.PASSWORD_MUST_CHANGE,
    "account_expired": Code.ACCOUNT_EXPIRED,
}  # fmt: skip


@dataclass(kw_only=True)
class _Controller(Machine):
    """A controller: searches, passwords that are set and logons that are tried are those of the real domain."""

    bench: ActiveDirectoryBench = field(repr=False)
    resets: list[list[str]] = field(default_factory=list)  # names of what was set together with a password

    def find(self, name: str) -> User | None:
        realm = self.bench.server.domain
        prefix, _, bare = name.rpartition("\\")
        if prefix.lower() == realm or name.lower().endswith(f"@{realm}"):
            return self.users.get((bare if prefix else name.rpartition("@")[0]).lower())
        return super().find(name)

    def set_password(self, user: User, password: str) -> None:
        super().set_password(user, password)
        if user.login.lower() != "administrator":
            found = self._search("(sAMAccountName=" + escape_filter_chars(user.login) + ")")
            self.bench.modify(found, {"unicodePwd": [f'"{password}"'.encode("utf-16-le")]})

    def log_on(self, name: str, password: str | None, *, right: bool | None = None) -> Code:
        user = self.find(name)
        if password is None or user is None or user.login.lower() == "administrator":
            return super().log_on(name, password, right=right)
        dn = self._search("(sAMAccountName=" + escape_filter_chars(user.login) + ")")
        credential = Credential(login=user.login, password=SecretValue(password), distinguished_name=dn)
        with self.bench.look() as session:
            verdict = session.probe(Account(login=user.login, record_uid="x"), credential)
        return _LOGON_CODES[verdict.cause]

    def _search(self, wanted: str) -> str:
        with self.bench.connect() as connection:
            assert connection.search(self.bench.server.base, wanted), connection.result
            return str(connection.response[0]["dn"])

    def reset(self, facts: dict[str, Any], password: str) -> dict[str, Any]:
        """Let the real controller change an account, as one modification."""
        values = {
            "unicodePwd": f'"{password}"'.encode("utf-16-le"),
            **{each["name"]: each["value"] for each in facts["beside"]},
        }
        with self.bench.connect() as connection:
            connection.modify(facts["dn"], {name: [(ldap3.MODIFY_REPLACE, [value])] for name, value in values.items()})
            result = connection.result
        if result["result"] == 0:
            next(user for user in self.users.values() if self.bench.dn(user.login) == facts["dn"]).password = password
        self.resets.append(sorted(values))
        return {"code": result["result"], "text": result["message"], "entries": []}

    def search(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Answer one search of a program as the real controller does."""
        with self.bench.connect() as connection:
            scope = {"Base": ldap3.BASE, "Subtree": ldap3.SUBTREE}[facts["scope"]]
            connection.search(facts["base"], facts["filter"], scope, attributes=facts["attributes"])
            result, found = connection.result, connection.response or []
        entries = [
            {
                "dn": each["dn"],
                "values": {
                    name: [base64.b64encode(value).decode() for value in values]
                    for name, values in each["raw_attributes"].items()
                    if values
                },
            }
            for each in found
            if each["type"] == "searchResEntry"
        ]
        return {"code": result["result"], "text": result["message"], "entries": entries}


class JoinedMachine:
    """A machine, the domain whose accounts log in to it, and the way there."""

    def __init__(self, domain: SambaServer, folder: Path, *, is_controller: bool = False) -> None:
        """Start the machine, and give its service an account of the domain."""
        self.domain = domain
        self.bench = ActiveDirectoryBench(domain)
        self.realm = domain.domain.upper()
        self.name = f"win-{secrets.token_hex(4)}"
        self.host = f"{self.name}.{domain.domain}"
        policy = windows.Policy(complexity=False, maximum_age_seconds=0, lockout_threshold=0)
        facts = {"name": self.name.upper(), "domain": domain.netbios, "controller": is_controller, "policy": policy}
        self.machine = _Controller(bench=self.bench, **facts) if is_controller else Machine(**facts)
        if isinstance(self.machine, _Controller):
            self.machine.directory = self.machine
        self.server: WindowsServer = windows.start(folder, self.machine, basic=False, service=self._service(folder))
        password = f"Adm-{secrets.token_hex(8)}"
        self.administrator = self.credential(self.add_account(password, admin=True), password)

    def _service(self, folder: Path) -> Acceptor:
        login, password = f"svc-{self.name}", SecretValue(f"Svc-{secrets.token_hex(12)}")
        names = [f"HTTP/{self.host}", f"HTTP/{self.name}"]
        account = Credential(login=login, password=password)
        encryption = {"msDS-SupportedEncryptionTypes": "24"}  # AES alone
        self.bench.make_account(login, account, servicePrincipalName=names, **encryption)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_keytab(folder / "service.keytab", names[0], self.realm, password, f"{self.realm}{login}")
        return Acceptor(realm=self.realm, keytab=folder / "service.keytab", replays=folder / "replays")

    def target(self, *, secure: bool = False, **options: str) -> Target:
        told = {"kerberos_host": self.host, "kerberos_kdc": self.domain.host, "ssl_ca": str(self.server.ca), **options}
        return Target(
            host=self.server.host, port=self.server.secure_port if secure else self.server.port, protocol="winrm",
            use_ssl=secure, options=told,
        )  # fmt: skip

    def add_account(self, password: str, *, admin: bool = False, login: str = "", **values: object) -> str:
        """Make an account of the domain that the machine knows, and return its name."""
        login = login or f"acc{secrets.token_hex(4)}"
        self.bench.make_account(login, Credential(login=login, password=SecretValue(password)), **values)
        self.machine.add_user(login, password, admin=admin, remote=True)
        return login

    def credential(self, login: str, password: str) -> Credential:
        return Credential(login=f"{login}@{self.domain.domain}", password=SecretValue(password))

    def logins(self) -> list[tuple[str, str]]:
        """Return how and who, on both listeners, and forget it."""
        told = []
        for listener in self.server.listeners[:2]:
            told += listener.logins
            listener.logins.clear()
        return told

"""An emulated Windows machine as a member of the lab's domain, or as its controller: Kerberos' keys and tickets are real."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from connectors.base import Credential, Target
from deploy.lab import SambaServer, windows
from deploy.lab.windows import Acceptor, Machine, User, WindowsServer
from deploy.lab.windows.kerberos import write_keytab
from pam_jobs.secret import SecretValue
from tests.support.benches.activedirectory import ActiveDirectoryBench

__all__ = ["JoinedMachine"]


@dataclass(kw_only=True)
class _Controller(Machine):
    """A controller: a password that is set on it is set in the domain."""

    bench: ActiveDirectoryBench = field(repr=False)

    def set_password(self, user: User, password: str) -> None:
        super().set_password(user, password)
        if user.login.lower() != "administrator":
            self.bench.modify(self.bench.dn(user.login), {"unicodePwd": [f'"{password}"'.encode("utf-16-le")]})


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

    def add_account(self, password: str, *, admin: bool = False, **values: object) -> str:
        """Make an account of the domain that the machine knows, and return its name."""
        login = f"acc{secrets.token_hex(4)}"
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

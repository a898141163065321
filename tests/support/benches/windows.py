"""Benches of Windows, which is emulated."""

from __future__ import annotations

from connectors.activedirectory.winrm import ActiveDirectoryWinrmConnector
from connectors.base import Account, Connector, Credential, Target
from connectors.windows.connector import WindowsSshConnector, WinrmConnector
from deploy.lab.windows import Service, WindowsServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench
from tests.support.joined import JoinedMachine


class WindowsBench(Bench):
    emulated = True
    has_services = True
    longest = 127

    def __init__(
        self, server: WindowsServer, way: str = "winrm", *, login: str | None = None, is_self: bool = False
    ) -> None:
        """Speak to the machine by way of ``winrm``, ``winrm-https`` or ``ssh``, with NTLM unless ``login`` says basic."""
        self.name = f"windows, {way}{', ' + login if login else ''}, {'itself' if is_self else 'admin'}"
        self.server = server
        self.is_self = is_self
        self.connector: Connector = WindowsSshConnector() if way == "ssh" else WinrmConnector()
        options = {"winrm_authentication": login} if login else {}
        if way == "ssh":
            self.target = Target(
                host=server.host, port=server.ssh_port, protocol="ssh", host_keys=(server.host_key,), options=options
            )
            return
        secure = way == "winrm-https"
        self.target = Target(
            host=server.host, port=server.secure_port if secure else server.port, protocol="winrm", use_ssl=secure,
            options={**options, "ssl_ca": str(server.ca)},
        )  # fmt: skip

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def make_account(self, login: str, credential: Credential) -> None:
        password = credential.password.reveal() if credential.password else ""
        self.server.machine.add_user(login, password, admin=self.is_self, remote=True)

    def fingerprint(self, account: Account) -> str:
        user = self.server.machine.users[account.login.lower()]
        return f"{user.password} {user.last_set}"

    def make_service(self, login: str, password: str) -> str:
        name = f"s.{login}"
        with self.server.machine.changing() as machine:
            machine.services[name] = Service(name=name, account=f".\\{login}", stored=password, state="Running")
        return name

    def service(self, name: str) -> tuple[str | None, bool, int]:
        found = self.server.machine.services[name]
        return found.stored, found.state == "Running", found.starts

    def log_text(self) -> str:
        """Return what process creation and script block logging wrote, and what WinRM was sent in the clear."""
        plain, secure, _ = self.server.listeners
        return "\n".join([*self.server.machine.events, *plain.requests, *secure.requests[:0]])


class KerberosBench(WindowsBench):
    """A member of a domain, whose administrator logs in by Kerberos and rotates accounts of the machine."""

    def __init__(self, joined: JoinedMachine) -> None:
        super().__init__(joined.server)
        self.name = "windows, winrm, kerberos, admin"
        self.target = joined.target()
        self._admin = joined.administrator

    @property
    def admin(self) -> Credential:
        return self._admin


class ControllerBench(WindowsBench):
    """A controller whose WinRM is the resource's own port: accounts of the real domain, rotated by its administrator."""

    def __init__(self, joined: JoinedMachine) -> None:
        super().__init__(joined.server)
        self.name = "active directory, winrm, admin"
        self.joined = joined
        self.connector = ActiveDirectoryWinrmConnector()
        self.has_services = False
        self.target = joined.target(directory_type="active_directory", domain_name=joined.domain.domain)

    @property
    def admin(self) -> Credential:
        return self.joined.administrator

    def make_account(self, login: str, credential: Credential) -> None:
        self.joined.add_account(credential.password.reveal() if credential.password else "", login=login)

    def fingerprint(self, account: Account) -> str:
        return self.joined.bench.fingerprint(account)

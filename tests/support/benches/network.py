"""Bench of Cisco IOS XE, emulated."""

from __future__ import annotations

import paramiko

from connectors.base import Account, Credential, Target
from connectors.network.connector import NetworkConnector
from deploy.lab.emulated import EmulatedServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench


class IosXeBench(Bench):
    emulated = True
    forbids = "\tä"  # printable ASCII alone can be typed at every login

    def __init__(self, server: EmulatedServer) -> None:
        self.name = "cisco ios xe, admin"
        self.server = server
        self.connector = NetworkConnector()
        options = {"operatingSystem": "cisco ios xe"}
        self.target = Target(host=server.host, port=server.port, protocol="ssh", options=options)

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def run(self, command: str) -> str:
        """Run a command on the device from the side."""
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect(
                self.server.host, self.server.port, self.server.admin_login, self.server.admin_password,
                look_for_keys=False, allow_agent=False,
            )  # fmt: skip
            return client.exec_command(command)[1].read().decode()

    def make_account(self, login: str, credential: Credential) -> None:
        self.set_by_hand(login, credential.password.reveal() if credential.password else "")
        self.run("write memory")

    def set_by_hand(self, login: str, password: str, level: int = 1) -> None:
        self.run(f"lab user {login} {level} {password.encode().hex()}")

    def fingerprint(self, account: Account) -> str:
        start = f"username {account.login} "
        both = self.run("show running-config | include ^username") + self.run("show startup-config | include ^username")
        return "\n".join(line for line in both.splitlines() if line.startswith(start))

    def log_text(self) -> str:
        return self.server.log_path.read_text()

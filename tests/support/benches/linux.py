"""Bench of Linux over SSH, and its administrators."""

from __future__ import annotations

import secrets

from connectors.base import Account, Credential, Target
from connectors.linux.connector import LinuxConnector
from deploy.lab import SshServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench
from tests.support.lab import ASKING_ADMIN, CHPASSWD_ADMIN, ROOT, SUDO_LOG


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

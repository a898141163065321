"""Other kinds of credential on the same servers: an admin's own, and an SSH key pair."""

from __future__ import annotations

import base64
import io
import shlex
from itertools import cycle

import paramiko

from pam_jobs.records.keys import generate_key
from tests.crash.targets import FIRST, Linux, Target
from tests.support.gateway_site import GatewaySite


class OwnAdmin(Target):
    """Admins that change themselves: each is the admin of its own server record, and no other one is at hand.

    Each has its own port, as of a server of its own: of one server they would be changed one after the other.
    """

    name = "admin"
    protocol = "-"
    record_type = "-"
    locks_accounts = False

    def __init__(self, inner: Target) -> None:
        self._inner = inner
        self.name = f"{inner.name} admin"  # type: ignore[misc]
        self.is_slow = inner.is_slow  # type: ignore[misc]
        self.can_lock = inner.can_lock  # type: ignore[misc]
        self.locks_accounts = inner.locks_accounts  # type: ignore[misc]
        self.proxies = []
        self._ports = cycle(inner.proxies[1:])

    def add(self, login: str, password: str) -> None:
        self._inner.add(login, password)
        self._inner.make_admin(login)

    def resource_for(self, site: GatewaySite, account_uid: str) -> str:
        return self._inner.add_resource(site, next(self._ports), account_uid)

    def logs_in(self, login: str, password: str) -> bool:
        return self._inner.logs_in(login, password)

    def set_password(self, login: str, password: str) -> None:
        self._inner.set_password(login, password)

    def lock(self, login: str, *, is_locked: bool) -> None:
        self._inner.lock(login, is_locked=is_locked)

    def demote_admin(self, *, is_demoted: bool) -> None:
        raise NotImplementedError("each account here is its own admin")

    def make_admin(self, login: str) -> None:
        self._inner.make_admin(login)

    def fingerprint(self, login: str) -> str:
        return self._inner.fingerprint(login)


class LinuxKeys(Linux):
    """Accounts that log in by a key pair; what stands for the password is the private key."""

    name = "linux keys"
    part = "private_key"

    def __init__(self, inner: Linux) -> None:
        self._inner = inner
        self._server = inner._server
        self.proxies = inner.proxies
        self.admin_login, self.admin_password = inner.admin_login, inner.admin_password
        self._rule = inner._rule
        self.first = generate_key("ssh-ed25519").private_pem.reveal()

    @property
    def resource(self) -> str:  # type: ignore[override]
        return self._inner.resource

    def record(self, site: GatewaySite, login: str) -> str:
        return site.add_user(login, None, self.first)

    def add(self, login: str, password: str) -> None:
        self._server.run(["useradd", "-m", "-s", "/bin/bash", "--", login])
        self._server.run(["usermod", "-p", "*", login])  # no password, and not locked
        self.set_password(login, password)

    def logs_in(self, login: str, password: str) -> bool:
        key = paramiko.Ed25519Key.from_private_key(io.StringIO(password))
        return self._connects(login, pkey=key)

    def set_password(self, login: str, password: str) -> None:
        key = paramiko.Ed25519Key.from_private_key(io.StringIO(password))
        line = f"ssh-ed25519 {base64.b64encode(key.asbytes()).decode()}\n"
        home = shlex.quote(f"/home/{login}/.ssh")
        script = (
            f"install -d -m 700 -o {login} -g {login} {home} && cat > {home}/authorized_keys && "
            f"chown {login}:{login} {home}/authorized_keys && chmod 600 {home}/authorized_keys"
        )
        self._server.run(["sh", "-c", script], line.encode())

    def fingerprint(self, login: str) -> str:
        path = f"/home/{login}/.ssh/authorized_keys"
        return self._server.run(["sh", "-c", f"stat -c %Y.%i {path}; cat {path}"]).stdout.decode()


class LinuxHalf(LinuxKeys):
    """Accounts with a password and a key pair, on whose machine the key cannot be changed: every change is made in part."""

    name = "linux, key refused"
    part = "password"

    def __init__(self, inner: Linux) -> None:
        super().__init__(inner)
        self.key, self.first = self.first, FIRST

    def record(self, site: GatewaySite, login: str) -> str:
        return site.add_user(login, self.first, self.key)

    def add(self, login: str, password: str) -> None:
        self._server.add_user(login, password)
        LinuxKeys.set_password(self, login, self.key)
        self._server.run(["chown", "-R", "root:", f"/home/{login}/.ssh"])
        self._server.run(["chmod", "-R", "a+rX", f"/home/{login}/.ssh"])

    def takes_key(self, login: str) -> bool:
        """Say whether the key that it had in the beginning logs in."""
        return LinuxKeys.logs_in(self, login, self.key)

    def logs_in(self, login: str, password: str) -> bool:
        return Linux.logs_in(self, login, password)

    def set_password(self, login: str, password: str) -> None:
        Linux.set_password(self, login, password)

    def fingerprint(self, login: str) -> str:
        return Linux.fingerprint(self, login)

"""Real targets for the test session: databases that log every statement, and an SSH server with real users."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.lab import (
    EmulatedServer,
    LdapServer,
    MariadbServer,
    PostgresServer,
    SambaServer,
    SshServer,
    macos,
    mariadb,
    mssql,
    mysql8,
    openldap,
    oracle,
    postgres,
    samba,
    sshd,
    windows,
)
from deploy.lab.saas import SaasServices
from deploy.lab.windows import WindowsServer

if TYPE_CHECKING:  # what it imports is not for every run
    from tests.support.joined import JoinedMachine

ASKING_ADMIN = ("asked", "Asked by sudo: 7 'times'")  # sudo wants this one's password
CHPASSWD_ADMIN = ("narrow", "Only-chpasswd-91")  # sudo allows it chpasswd and nothing else
ROOT = ("root", "Root in the lab only 5")
SUDO_LOG = "/home/sudo.log"  # in the lab: what sudo was asked, command lines included
SUDOERS = (f"Defaults logfile={SUDO_LOG}", "asked ALL=(ALL:ALL) ALL", "narrow ALL=(root) NOPASSWD: /usr/sbin/chpasswd")
DOMAIN_POLICY = {
    "minPwdLength": "0", "pwdProperties": "0", "pwdHistoryLength": "3", "minPwdAge": "0",
    "maxPwdAge": "-9223372036854775808", "lockoutThreshold": "5",
}  # fmt: skip
LDAP_POLICIES = {
    "young": {"pwdMinAge": "3600"},
    "strict": {"pwdMinLength": "24", "pwdCheckQuality": "2"},
    "ageing": {"pwdMaxAge": "1"},
    "resetting": {"pwdMustChange": "TRUE"},
    "safe": {"pwdSafeModify": "TRUE"},
    "frozen": {"pwdAllowUserChange": "FALSE"},
    "graceful": {"pwdMaxAge": "1", "pwdGraceAuthNLimit": "5"},
    "patient": {"pwdMaxFailure": "0", "pwdInHistory": "0"},
}


@pytest.fixture(scope="session")
def target_postgres() -> Iterator[PostgresServer]:
    """A server to rotate on, with ``log_statement=all``, so that its log would show a secret that travelled."""
    with _folder() as folder:
        server = postgres.start(folder, settings={"log_statement": "all", "log_connections": "on"})
        yield server
        server.stop()


@pytest.fixture(scope="session")
def target_mariadb() -> Iterator[MariadbServer]:
    """A server to rotate on, whose general log would show a secret that travelled."""
    with _folder() as folder:
        server = mariadb.start(folder)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def target_mssql() -> Iterator[EmulatedServer]:
    """An emulated SQL Server with a database whose users have their passwords in it."""
    with _folder() as folder:
        server = mssql.start(folder, databases={"Shop]'s": {"contained": True}})
        yield server
        server.stop()


@pytest.fixture(scope="session")
def saas_services() -> Iterator[SaasServices]:
    """Emulated online services, to rotate on."""
    with SaasServices() as services:
        yield services


@pytest.fixture(scope="session")
def target_oracle() -> Iterator[EmulatedServer]:
    """An emulated Oracle Database with profiles that refuse."""
    profiles = {
        "STRICT": {"min_length": 12, "reuse_max": 3, "failed_attempts": 3},
        "GRACEFUL": {"grace_days": 7},
    }
    with _folder() as folder:
        server = oracle.start(folder, profiles=profiles, common=["C##COMMON"])
        yield server
        server.stop()


@pytest.fixture(scope="session")
def target_mysql8() -> Iterator[EmulatedServer]:
    """An emulated MySQL 8 without TLS, so that passwords go by its RSA key."""
    with _folder() as folder:
        server = mysql8.start(folder)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def sshd_server() -> Iterator[SshServer]:
    """A server to rotate on; it needs root, as the whole lab does."""
    with _folder() as folder:
        server = sshd.start(folder, users=dict([ASKING_ADMIN, CHPASSWD_ADMIN, ROOT]), sudoers=SUDOERS)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def openldap_server() -> Iterator[LdapServer]:
    """A directory to rotate on, with password policies beside the default one."""
    with _folder() as folder:
        server = openldap.start(folder, policies=LDAP_POLICIES)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def mac_server() -> Iterator[SshServer]:
    """An emulated Mac: a real sshd, with commands that stand in for those of macOS."""
    with _folder() as folder:
        server = macos.start(folder, users=dict([ASKING_ADMIN, ROOT]), sudoers=SUDOERS[:2])
        yield server
        server.stop()


@pytest.fixture(scope="session")
def windows_server() -> Iterator[WindowsServer]:
    """An emulated Windows machine whose policy takes any password."""
    policy = windows.Policy(complexity=False, maximum_age_seconds=0, lockout_threshold=0)
    with _folder() as folder:
        server = windows.start(folder / "windows", windows.Machine(policy=policy))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def samba_server() -> Iterator[SambaServer]:
    """A domain controller to rotate on, which refuses an old password at once and takes any new one."""
    with _folder() as folder:
        server = samba.start(folder, policy=DOMAIN_POLICY)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def joined_machine(samba_server: SambaServer) -> Iterator[JoinedMachine]:
    """An emulated Windows machine that is a member of the real domain."""
    from tests.support.joined import JoinedMachine

    with _folder() as folder:
        machine = JoinedMachine(samba_server, folder / "joined")
        yield machine
        machine.server.stop()


class _folder:  # noqa: N801 - reads as a function
    """A temporary folder that the servers' own users can pass through; pytest's folders are ours alone."""

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(prefix="pam-targets-"))
        self.path.chmod(0o755)
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which connector keeps which promise on which target, and which targets are emulated."""
    outcomes: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == "contract":
                    promise, target, server = value
                    outcomes[target, server][promise] = "+" if outcome == "passed" else "X"
    if not outcomes:
        return
    promises = sorted({promise for row in outcomes.values() for promise in row})
    terminalreporter.section("connector contract: target, server, promises (+ kept, X broken, . does not apply)")
    for number, promise in enumerate(promises, 1):
        terminalreporter.write_line(f"  {number:2}  {promise}")
    width = max(len(target) for target, _ in outcomes)
    terminalreporter.write_line(" " * (width + 12) + " ".join(f"{n:>2}" for n in range(1, len(promises) + 1)))
    for (target, server), row in sorted(outcomes.items()):
        marks = " ".join(f"{row.get(promise, '.'):>2}" for promise in promises)
        terminalreporter.write_line(f"{target:<{width}}  {server:<8}  {marks}")

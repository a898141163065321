"""Targets for the test session, each started for the first test that asks for it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import pytest

from deploy.lab import (
    EmulatedServer,
    LdapServer,
    MariadbServer,
    PostgresServer,
    SambaServer,
    SshServer,
    ios_xe,
    macos,
    mariadb,
    mongodb,
    mssql,
    mysql8,
    openldap,
    oracle,
    postgres,
    rabbitmq,
    redis,
    samba,
    sshd,
    windows,
)
from deploy.lab.mongodb import MongoServer
from deploy.lab.rabbitmq import RabbitmqServer
from deploy.lab.redis import RedisServer
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


class _Server(Protocol):
    def stop(self) -> None: ...


S = TypeVar("S", bound=_Server)


@pytest.fixture(scope="session")
def target_postgres() -> Iterator[PostgresServer]:
    """A server to rotate on, with ``log_statement=all``, so that its log would show a secret that travelled."""
    yield from _lent(lambda folder: postgres.start(folder, settings={"log_statement": "all", "log_connections": "on"}))


@pytest.fixture(scope="session")
def target_postgres_18() -> Iterator[PostgresServer]:
    """PostgreSQL 18 of the wheel."""
    yield from _lent(lambda folder: postgres.start(folder, wheel_only=True))


@pytest.fixture(scope="session")
def target_mariadb() -> Iterator[MariadbServer]:
    """A server to rotate on, whose general log would show a secret that travelled."""
    yield from _lent(mariadb.start)


@pytest.fixture(scope="session")
def target_mssql() -> Iterator[EmulatedServer]:
    """An emulated SQL Server with a database whose users have their passwords in it."""
    yield from _lent(lambda folder: mssql.start(folder, databases={"Shop]'s": {"contained": True}}))


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
    yield from _lent(lambda folder: oracle.start(folder, profiles=profiles, common=["C##COMMON"]))


@pytest.fixture(scope="session")
def target_mysql8() -> Iterator[EmulatedServer]:
    """An emulated MySQL 8 without TLS, so that passwords go by its RSA key."""
    yield from _lent(mysql8.start)


@pytest.fixture(scope="session")
def sshd_server() -> Iterator[SshServer]:
    """A server to rotate on; it needs root, as the whole lab does."""
    yield from _lent(
        lambda folder: sshd.start(folder, users=dict([ASKING_ADMIN, CHPASSWD_ADMIN, ROOT]), sudoers=SUDOERS)
    )


@pytest.fixture(scope="session")
def openldap_server() -> Iterator[LdapServer]:
    """A directory to rotate on, with password policies beside the default one."""
    yield from _lent(lambda folder: openldap.start(folder, policies=LDAP_POLICIES))


@pytest.fixture(scope="session")
def mac_server() -> Iterator[SshServer]:
    """An emulated Mac: a real sshd, with commands that stand in for those of macOS."""
    yield from _lent(lambda folder: macos.start(folder, users=dict([ASKING_ADMIN, ROOT]), sudoers=SUDOERS[:2]))


@pytest.fixture(scope="session")
def windows_server() -> Iterator[WindowsServer]:
    """An emulated Windows machine whose policy takes any password."""
    policy = windows.Policy(complexity=False, maximum_age_seconds=0, lockout_threshold=0)
    yield from _lent(lambda folder: windows.start(folder / "windows", windows.Machine(policy=policy)))


@pytest.fixture(scope="session")
def samba_server() -> Iterator[SambaServer]:
    """A domain controller to rotate on, which refuses an old password at once and takes any new one."""
    yield from _lent(lambda folder: samba.start(folder, policy=DOMAIN_POLICY))


@pytest.fixture(scope="session")
def joined_machine(samba_server: SambaServer) -> Iterator[JoinedMachine]:
    """An emulated Windows machine that is a member of the real domain."""
    from tests.support.joined import JoinedMachine

    with target_folder() as folder:
        machine = JoinedMachine(samba_server, folder / "joined")
        yield machine
        machine.server.stop()


@pytest.fixture(scope="session")
def joined_controller(samba_server: SambaServer) -> Iterator[JoinedMachine]:
    """An emulated Windows machine that stands for a controller of the real domain, in front of the real one."""
    from tests.support.joined import JoinedMachine

    with target_folder() as folder:
        machine = JoinedMachine(samba_server, folder / "controller", is_controller=True)
        yield machine
        machine.server.stop()


@pytest.fixture(scope="session")
def target_redis() -> Iterator[RedisServer]:
    """A Redis server to rotate on, with a file of users."""
    yield from _lent(redis.start)


@pytest.fixture(scope="session")
def target_valkey() -> Iterator[RedisServer]:
    """Valkey to rotate on, with a file of users."""
    yield from _lent(lambda folder: redis.start(folder, program=redis.programs()[-1]))


@pytest.fixture(scope="session")
def target_mongodb() -> Iterator[MongoServer]:
    """A stand-in for MongoDB to rotate on."""
    yield from _lent(mongodb.start)


@pytest.fixture(scope="session")
def ios_xe_device() -> Iterator[EmulatedServer]:
    """An emulated Cisco IOS XE to rotate on."""
    yield from _lent(ios_xe.start)


@pytest.fixture(scope="session")
def target_rabbitmq() -> Iterator[RabbitmqServer]:
    """A broker to rotate on, one for all tests: it takes seconds to start."""
    yield from _lent(rabbitmq.start)


@contextlib.contextmanager
def target_folder() -> Iterator[Path]:
    """Give a temporary folder that the servers' own users can pass through; pytest's folders are ours alone."""
    path = Path(tempfile.mkdtemp(prefix="pam-targets-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _lent(start: Callable[[Path], S]) -> Iterator[S]:
    """Lend a server in a folder of its own, until the tests are over."""
    with target_folder() as folder:
        server = start(folder)
        try:
            yield server
        finally:
            server.stop()

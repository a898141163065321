"""The lab's servers, as benches ask for them."""

from __future__ import annotations

import pytest

from deploy.lab import EmulatedServer, LdapServer, MariadbServer, PostgresServer, SambaServer, SshServer
from deploy.lab.mongodb import MongoServer
from deploy.lab.rabbitmq import RabbitmqServer
from deploy.lab.redis import RedisServer
from deploy.lab.windows import WindowsServer
from tests.support.joined import JoinedMachine


class Lab:
    """Starts a server when the first bench asks for it."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    @property
    def postgres(self) -> PostgresServer:
        return self._request.getfixturevalue("target_postgres")

    @property
    def postgres_18(self) -> PostgresServer:
        return self._request.getfixturevalue("target_postgres_18")

    @property
    def openldap(self) -> LdapServer:
        return self._request.getfixturevalue("openldap_server")

    @property
    def samba(self) -> SambaServer:
        return self._request.getfixturevalue("samba_server")

    @property
    def mariadb(self) -> MariadbServer:
        return self._request.getfixturevalue("target_mariadb")

    @property
    def mongodb(self) -> MongoServer:
        return self._request.getfixturevalue("target_mongodb")

    @property
    def ios_xe(self) -> EmulatedServer:
        return self._request.getfixturevalue("ios_xe_device")

    @property
    def rabbitmq(self) -> RabbitmqServer:
        return self._request.getfixturevalue("target_rabbitmq")

    @property
    def redis(self) -> RedisServer:
        return self._request.getfixturevalue("target_redis")

    @property
    def valkey(self) -> RedisServer:
        return self._request.getfixturevalue("target_valkey")

    @property
    def mysql8(self) -> EmulatedServer:
        return self._request.getfixturevalue("target_mysql8")

    @property
    def oracle(self) -> EmulatedServer:
        return self._request.getfixturevalue("target_oracle")

    @property
    def mssql(self) -> EmulatedServer:
        return self._request.getfixturevalue("target_mssql")

    @property
    def ssh(self) -> SshServer:
        return self._request.getfixturevalue("sshd_server")

    @property
    def mac(self) -> SshServer:
        return self._request.getfixturevalue("mac_server")

    @property
    def windows(self) -> WindowsServer:
        return self._request.getfixturevalue("windows_server")

    @property
    def joined(self) -> JoinedMachine:
        return self._request.getfixturevalue("joined_machine")

    @property
    def controller(self) -> JoinedMachine:
        return self._request.getfixturevalue("joined_controller")

"""Bench of MongoDB: a stand-in that is not mongod."""

from __future__ import annotations

import pymongo

from connectors.base import Account, Credential, Target
from connectors.mongodb.connector import MongodbConnector
from deploy.lab.mongodb import MongoServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench


class MongodbBench(Bench):
    emulated = True
    forbids = "\t"  # as RFC 4013 has it

    def __init__(self, server: MongoServer) -> None:
        self.name = "mongodb stand-in, admin"
        self.server = server
        self.connector = MongodbConnector()
        self.target = Target(host=server.host, port=server.port, protocol="mongodb")

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def client(self, login: str, password: str, source: str = "admin") -> pymongo.MongoClient:
        return pymongo.MongoClient(
            self.server.host, self.server.port, username=login, password=password, authSource=source,
            directConnection=True, serverSelectionTimeoutMS=5000,
        )  # fmt: skip

    def execute(self, name: str, value: object, database: str = "admin", **more: object) -> dict:
        with self.client(self.server.admin_login, self.server.admin_password) as client:
            return client[database].command(name, value, **more)

    def make_account(self, login: str, credential: Credential, database: str = "admin") -> None:
        password = credential.password.reveal() if credential.password else ""
        roles = [{"role": "read", "db": "shop"}]
        self.execute("createUser", login, database, pwd=password, roles=roles)

    def set_by_hand(self, login: str, password: str) -> None:
        self.execute("updateUser", login, pwd=password)

    def fingerprint(self, account: Account) -> str:
        return str(self.execute("usersInfo", {"user": account.login, "db": "admin"}, showCredentials=True)["users"])

    def log_text(self) -> str:
        return self.server.log_path.read_text(errors="replace")

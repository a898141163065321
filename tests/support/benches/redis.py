"""Bench of Redis and Valkey."""

from __future__ import annotations

import hashlib

import redis

from connectors.base import Account, Credential, Target
from connectors.redis.connector import RedisConnector
from deploy.lab.redis import RedisServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench


class RedisBench(Bench):
    def __init__(self, server: RedisServer) -> None:
        self.name = f"{server.title.split()[0].lower()}, admin"
        self.server = server
        self.connector = RedisConnector()
        self.target = Target(host=server.host, port=server.port, protocol="redis")

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def connect(self) -> redis.Redis:
        return redis.Redis(
            host=self.server.host, port=self.server.port, username=self.server.admin_login,
            password=self.server.admin_password, decode_responses=True,
        )  # fmt: skip

    def execute(self, *words: str) -> object:
        with self.connect() as client:
            return client.execute_command(*words)

    def make_account(self, login: str, credential: Credential) -> None:
        stored = hashlib.sha256(credential.password.reveal().encode()).hexdigest() if credential.password else ""
        self.execute("ACL", "SETUSER", login, "reset", "on", f"#{stored}", "~*", "+@read")

    def fingerprint(self, account: Account) -> str:
        with self.connect() as client:
            return next(line for line in client.acl_list() if line.startswith(f"user {account.login} "))

    def log_text(self) -> str:
        written = (path for path in self.server.base.rglob("*") if path.is_file())
        return "".join(path.read_text(errors="replace") for path in written)

    def set_by_hand(self, login: str, password: str) -> None:
        self.execute("ACL", "SETUSER", login, "resetpass", f">{password}")

"""Bench of RabbitMQ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx

from connectors.base import Account, Credential, Target
from connectors.rabbitmq.connector import RabbitmqConnector
from deploy.lab.rabbitmq import RabbitmqServer
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench


class RabbitmqBench(Bench):
    def __init__(self, server: RabbitmqServer, *, secure: bool = False) -> None:
        self.name = "rabbitmq, admin"
        self.server = server
        self.connector = RabbitmqConnector()
        amqp = server.secure_amqp_port if secure else server.amqp_port
        options = {"amqp_port": str(amqp), **({"ssl_ca": str(server.ca)} if secure else {})}
        port = server.secure_port if secure else server.port
        self.target = Target(host=server.host, port=port, protocol="rabbitmq", use_ssl=secure, options=options)

    @property
    def admin(self) -> Credential:
        return Credential(login=self.server.admin_login, password=SecretValue(self.server.admin_password))

    def at(self, port: int) -> Target:
        """Return the target whose management API is elsewhere; logins are proven there too, where a fault may be."""
        return replace(self.target, port=port, options={**self.target.options, "amqp_port": "1"})

    def ask(self, method: str, *path: str, content: dict[str, Any] | None = None) -> Any:
        url = f"http://{self.server.host}:{self.server.port}/api/" + "/".join(quote(part, safe="") for part in path)
        login = (self.server.admin_login, self.server.admin_password)
        with httpx.Client(trust_env=False, auth=login) as client:
            answer = client.request(method, url, json=content)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def make_account(self, login: str, credential: Credential) -> None:
        password = credential.password.reveal() if credential.password else ""
        self.set_by_hand(login, password)

    def set_by_hand(self, login: str, password: str, tags: str = "management") -> None:
        self.ask("PUT", "users", login, content={"password": password, "tags": tags})

    def fingerprint(self, account: Account) -> str:
        return str(self.ask("GET", "users", account.login))

    def log_text(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.server.log_folder.glob("*.log"))

"""RabbitMQ as a target of the crash suite: HTTP, to its management API."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import quote

import amqp
import httpx

from connectors.faults import FaultProxy
from deploy.lab.rabbitmq import RabbitmqServer
from tests.crash.targets import Target
from tests.support.gateway_site import GatewaySite


class Rabbitmq(Target):
    name = "rabbitmq"
    protocol = "rabbitmq"
    record_type = "pamDatabase"
    locks_accounts = False
    can_lock = False
    is_further = True

    def __init__(self, server: RabbitmqServer) -> None:
        super().__init__(server.host, server.port)
        self._server = server
        self.admin_login, self.admin_password = f"admin{secrets.token_hex(4)}", secrets.token_urlsafe(18)
        self.add(self.admin_login, self.admin_password)
        self.make_admin(self.admin_login)

    def add_resource(self, site: GatewaySite, proxy: FaultProxy, admin: str) -> str:
        """Make the record of the API; nobody listens on its AMQP port, so logins go over HTTP and the proxy too."""
        uid = super().add_resource(site, proxy, admin)
        site.vault.records.update(uid, lambda record: record.set_field("text", "1", "AMQP Port", custom=True))
        return uid

    def add(self, login: str, password: str) -> None:
        self._ask("PUT", login, {"password": password, "tags": "management"})

    def logs_in(self, login: str, password: str) -> bool:
        """Log in over AMQP, as the judge; what the user may open there does not matter."""
        place = f"{self._server.host}:{self._server.amqp_port}"
        connection = amqp.Connection(host=place, userid=login, password=password, login_method="PLAIN")
        try:
            connection.connect()
        except amqp.exceptions.AccessRefused:
            return False
        except amqp.exceptions.NotAllowed:  # the virtual host, after the password was taken
            return True
        finally:
            connection.collect()
        return True

    def set_password(self, login: str, password: str) -> None:
        self._ask("PUT", login, {"password": password, "tags": self._user(login)["tags"]})

    def lock(self, login: str, *, is_locked: bool) -> None:
        raise NotImplementedError("this broker locks no user")

    def demote_admin(self, *, is_demoted: bool) -> None:
        self._tag(self.admin_login, "management" if is_demoted else "administrator")

    def make_admin(self, login: str) -> None:
        self._tag(login, "administrator")

    def fingerprint(self, login: str) -> str:
        return str(self._user(login))

    def _tag(self, login: str, tag: str) -> None:
        user = self._user(login)
        kept = {name: user[name] for name in ("password_hash", "hashing_algorithm")}
        self._ask("PUT", login, {**kept, "tags": tag})

    def _user(self, login: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", login)
        return found

    def _ask(self, method: str, login: str, content: dict[str, Any] | None = None) -> Any:
        url = f"http://{self._server.host}:{self._server.port}/api/users/{quote(login, safe='')}"
        admin = (self._server.admin_login, self._server.admin_password)
        with httpx.Client(trust_env=False, auth=admin) as client:
            answer = client.request(method, url, json=content)
        answer.raise_for_status()
        return answer.json() if answer.content else None

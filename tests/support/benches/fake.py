"""Bench of the connector in memory."""

from __future__ import annotations

from connectors.base import Account, Credential, Target
from connectors.fake import FakeAccount, FakeConnector, FakeService, FakeTarget
from pam_jobs.secret import SecretValue
from tests.support.benches.base import Bench


class FakeBench(Bench):
    can_be_proxied = False
    emulated = True
    has_services = True

    def __init__(self) -> None:
        self.name = "fake"
        self.connector = FakeConnector()
        admin = FakeAccount(password="Admin of the fake", is_admin=True)
        self.state = self.connector.add("fake", 1, FakeTarget(accounts={"admin": admin}))
        self.target = Target(host="fake", port=1, protocol="fake")

    @property
    def admin(self) -> Credential:
        return Credential(login="admin", password=SecretValue("Admin of the fake"))

    def make_account(self, login: str, credential: Credential) -> None:
        self.state.accounts[login] = FakeAccount(password=credential.password.reveal() if credential.password else None)

    def fingerprint(self, account: Account) -> str:
        state = self.state.accounts[account.login]
        return f"{state.password} {state.public_keys}"

    def make_service(self, login: str, password: str) -> str:
        self.state.services.append(FakeService(name=f"s.{login}", account=login, password=password, is_running=True))
        return f"s.{login}"

    def service(self, name: str) -> tuple[str | None, bool, int]:
        found = next(each for each in self.state.services if each.name == name)
        return found.password, found.is_running, found.starts

    def log_text(self) -> str:
        return ""

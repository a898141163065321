"""One bench a connector and target: how the contract suite makes accounts there, and looks at them from the side."""

from __future__ import annotations

import functools
import itertools
import secrets
from abc import ABC, abstractmethod
from dataclasses import replace

from connectors.base import Account, Candidate, Connector, Credential, Deadline, Target
from pam_jobs.ids import new_uid
from pam_jobs.records.keys import KeyPair, generate_key
from pam_jobs.secret import SecretValue

_numbers = itertools.count(1)
_rsa: list[KeyPair] = []


@functools.cache
def _rsa_ring() -> itertools.cycle:
    """Three RSA keys of 4096 bits, used in turn: making one takes seconds."""
    return itertools.cycle([generate_key("ssh-rsa") for _ in range(3)])


def new_key(algorithm: str) -> KeyPair:
    return next(_rsa_ring()) if algorithm == "ssh-rsa" else generate_key(algorithm)


def new_password() -> SecretValue:
    return SecretValue(f"Zq7-{secrets.token_urlsafe(15)}")


class Bench(ABC):
    """A connector, a target, and a way to be the rotator there."""

    name: str
    connector: Connector
    target: Target
    is_self = False  # the account rotates itself
    algorithm: str | None = None  # rotates keys of this kind in place of passwords
    can_be_proxied = True
    emulated = False  # the server only speaks the protocol: it is not the vendor's
    longest: int | None = None  # bytes that a password may have here
    forbidden = ""  # characters that no password here may have
    forbids = ""  # characters that a password of this target cannot have
    has_services = False  # something there can run as an account
    sees_others = True  # the rotator is told which other accounts there are

    @abstractmethod
    def make_account(self, login: str, credential: Credential) -> None:
        """Create the account with this credential, from the side."""

    @abstractmethod
    def fingerprint(self, account: Account) -> str:
        """Return what the target stores for the account, from the side."""

    @abstractmethod
    def log_text(self) -> str:
        """Return everything the server wrote to its log."""

    @property
    @abstractmethod
    def admin(self) -> Credential:
        """The rotator, where it is not the account itself."""

    def make_service(self, login: str, password: str) -> str:
        """Create a running service of the account, from the side, and return its name."""
        raise NotImplementedError

    def service(self, name: str) -> tuple[str | None, bool, int]:
        """Return the password that the service keeps, whether it runs, and how often it was started."""
        raise NotImplementedError

    def new_account(self) -> tuple[Account, Credential]:
        """Return a fresh account and the credential that logs in to it."""
        login = f"u{next(_numbers)}x{secrets.token_hex(3)}"
        account = Account(login=login, record_uid=new_uid())
        candidate = self.candidate(account)
        credential = candidate.credential(account)
        self.make_account(login, credential)
        return account, credential

    def candidate(self, account: Account, password: SecretValue | None = None) -> Candidate:
        if self.algorithm is None:
            return Candidate(password=password or new_password())
        key = new_key(self.algorithm)
        comment = f"keeper-security-{account.record_uid}"
        return Candidate(private_key=key.private_pem, public_key=key.public, key_comment=comment)

    def rotator(self, current: Credential) -> Credential:
        return current if self.is_self else self.admin

    def at(self, port: int) -> Target:
        return replace(self.target, port=port)

    def open(self, current: Credential, *, seconds: float = 30.0, target: Target | None = None):
        return self.connector.open(target or self.target, self.rotator(current), Deadline(seconds))

    def look(self, seconds: float = 30.0, target: Target | None = None):
        """Open a session that can only probe."""
        return self.connector.open(target or self.target, None, Deadline(seconds))

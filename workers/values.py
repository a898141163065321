"""The value of a credential: what the ledger seals, a record holds and a target is given."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from connectors.base import Account, Candidate, Credential
from pam_jobs.crypto import aes
from pam_jobs.errors import InvalidInput, VaultError
from pam_jobs.records.keys import public_of
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue

__all__ = ["Value"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A password, an SSH key, or both."""

    password: SecretValue | None = None
    private_key: SecretValue | None = None  # PEM
    public_key: str | None = None  # "type base64"
    undoes: int | None = field(default=None, compare=False)  # the version that a roll-back sets it in place of
    partly: tuple[str, str] | None = field(default=None, compare=False)  # status and cause, where a part was refused

    @classmethod
    def of_record(cls, record: Record) -> Value:
        """Return what the record's own fields say."""
        return cls(password=record.password, private_key=record.private_key)

    @classmethod
    def open(cls, ciphertext: bytes, record_key: bytes, kind: str = "credential") -> Value:
        """Return the value of a ledger row.

        Raises:
            VaultError: the key does not open it, or it holds something else.
        """
        plain = aes.decrypt(ciphertext, record_key)
        try:
            if kind == "record":
                return cls.of_record(Record.parse(plain))
            data = json.loads(plain)
            return cls(
                password=_secret(data.get("password")),
                private_key=_secret(data.get("private_key")),
                public_key=data.get("public_key"),
                undoes=data.get("undoes"),
                partly=tuple(data["partly"]) if data.get("partly") else None,
            )
        except (InvalidInput, ValueError, AttributeError):
            # Without the cause: it would carry the plain text.
            raise VaultError(
                "a version in the ledger is not in a known form", remedy="look at the record's versions"
            ) from None

    def seal(self, record_key: bytes) -> bytes:
        """Return the value as the ledger holds it."""
        data: dict[str, Any] = {}
        if self.password is not None:
            data["password"] = self.password.reveal()
        if self.private_key is not None:
            data["private_key"] = self.private_key.reveal()
        if self.public_key is not None:
            data["public_key"] = self.public_key
        if self.undoes is not None:
            data["undoes"] = self.undoes
        if self.partly is not None:
            data["partly"] = list(self.partly)
        return aes.encrypt(json.dumps(data).encode(), record_key)

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to log in with."""
        return not self.password and not self.private_key

    def covers(self, other: Value) -> bool:
        """Say whether every part of the other value is the same here."""
        return all(
            mine is not None and mine.reveal().strip() == theirs.reveal().strip()
            for mine, theirs in ((self.password, other.password), (self.private_key, other.private_key))
            if theirs is not None
        )

    def has_parts_of(self, other: Value) -> bool:
        """Say whether no part of the other value is missing here."""
        has_password = self.password is not None or other.password is None
        return has_password and (self.private_key is not None or other.private_key is None)

    def merged_over(self, older: Value) -> Value:
        """Return the older value with the parts of this one: what logs in after this one was set."""
        return Value(
            password=self.password if self.password is not None else older.password,
            private_key=self.private_key if self.private_key is not None else older.private_key,
            public_key=self.public_key if self.private_key is not None else older.public_key,
        )

    def like(self, other: Value) -> Value:
        """Return those parts of this value that the other one has too."""
        return Value(
            password=self.password if other.password is not None else None,
            private_key=self.private_key if other.private_key is not None else None,
            public_key=self.public_key if other.private_key is not None else None,
        )

    def credential(self, account: Account) -> Credential:
        """Return the value as what logs in to the account."""
        return Credential(
            login=account.login,
            password=self.password,
            private_key=self.private_key,
            distinguished_name=account.distinguished_name,
            database=account.database,
        )

    def candidate(self, account: Account) -> Candidate:
        """Return the value as what is set on the target.

        Raises:
            InvalidInput: the private key is not one whose public half can be told.
        """
        public = self.public_key
        if public is None and self.private_key is not None:
            public = public_of(self.private_key)
        return Candidate(
            password=self.password,
            private_key=self.private_key,
            public_key=public,
            key_comment=f"keeper-security-{account.record_uid}" if public else None,
        )


def _secret(text: Any) -> SecretValue | None:
    return SecretValue(text) if isinstance(text, str) and text else None

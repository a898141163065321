"""What a Windows machine told of itself and its accounts. Pure values; no connection here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from connectors.base import AccountMetadata, Finding, Unseen
from connectors.windows.names import COMPLEX_CLASSES, Name, forbidden_words
from pam_jobs.errors import PolicyRefused, Unsupported

__all__ = ["Look", "Rules", "User", "metadata_of", "read_accounts"]

_DISABLED: Final = 0x2
_LOCKED: Final = 0x10
_NEVER_EXPIRES: Final = 0x10000


@dataclass(frozen=True, kw_only=True)
class User:
    """An account, with the rules for its password."""

    name: str
    flags: int
    age_seconds: int  # of the password
    maximum_age_seconds: int  # 0 or below: it never expires
    expires: datetime | None
    minimum_length: int | None
    full_name: str = ""
    minimum_age_seconds: int = 0  # before the account may change its password again
    must_change: bool = False  # at the next logon, whatever its age

    @property
    def is_disabled(self) -> bool:
        """Say whether nobody logs on to it."""
        return bool(self.flags & _DISABLED)

    @property
    def is_locked(self) -> bool:
        """Say whether too many logons were refused."""
        return bool(self.flags & _LOCKED)

    def check_age(self) -> None:
        """Refuse a change by the account itself that comes too early; an administrator's is not bound by it.

        Raises:
            PolicyRefused: with the time that is left.
        """
        left = self.minimum_age_seconds - self.age_seconds
        if left > 0 and not self.must_change:
            raise PolicyRefused(
                "the account changed its password lately, and may not again (minimum password age)",
                remedy=f"wait {timedelta(seconds=left)} (hours), or rotate it by an administrator",
            )


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the machine demands of every password; None = it was not told."""

    is_complex: bool | None = None
    minimum_length: int | None = None

    @classmethod
    def read(cls, value: Any) -> Rules:
        """Read a program's answer; what is missing was not told."""
        told = value if isinstance(value, dict) else {}
        complexity, length = told.get("PasswordComplexity"), told.get("MinimumPasswordLength")
        return cls(
            is_complex=bool(complexity) if isinstance(complexity, int) else None,
            minimum_length=length if isinstance(length, int) and length > 0 else None,
        )

    @property
    def min_classes(self) -> int | None:
        """How many classes of characters a password has; Windows demands it unless it says otherwise."""
        return None if self.is_complex is False else COMPLEX_CLASSES

    def forbidden_words(self, user: User) -> tuple[str, ...]:
        """Return the parts of names that a password does not hold."""
        return () if self.is_complex is False else forbidden_words(user.name, user.full_name)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look told."""

    computer: str
    domain: str
    version: str
    is_admin: bool  # who is logged in
    is_controller: bool
    user: User | None  # None: there is no such account

    @classmethod
    def read(cls, value: Any) -> Look:
        """Read a program's answer.

        Raises:
            Unsupported: it is none.
        """
        try:
            user = value["user"]
            return cls(
                computer=str(value["computer"]),
                domain=str(value.get("domain") or ""),
                version=str(value["version"]),
                is_admin=value["admin"] is True,
                is_controller=value["controller"] is True,
                user=None if user is None else _user(user),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Unsupported("the machine does not tell of itself as Windows does") from None

    def check(self, name: Name) -> None:
        """Make sure that the account is one of this machine, or of the domain that it controls.

        Raises:
            Unsupported: it is not.
        """
        place = name.domain.casefold()
        if self.is_controller:
            known = {".", self.computer.casefold(), self.domain.casefold(), self.domain.partition(".")[0].casefold()}
        else:
            known = {".", self.computer.casefold()}
        if place not in known:
            raise Unsupported(
                "the account is of a domain, and this machine does not keep it",
                remedy="use a pamDirectory record for the domain, or DOMAIN\\login on a domain controller",
            )
        if self.user is None:
            raise Unsupported(f"there is no account {name.login!r}", remedy="check the login in the user record")


def _user(value: dict[str, Any]) -> User:
    expires = value.get("expires")
    return User(
        name=str(value["name"]),
        flags=int(value["flags"]),
        age_seconds=int(value.get("age") or 0),
        maximum_age_seconds=int(value.get("maximum") or 0),
        expires=datetime.fromisoformat(expires).replace(tzinfo=UTC) if expires else None,
        minimum_length=int(value["length"]) if value.get("length") else None,
        full_name=str(value.get("full") or ""),
        minimum_age_seconds=int(value.get("minimum") or 0),
        must_change=bool(value.get("expired")),
    )


def metadata_of(user: User | None) -> AccountMetadata:
    """Return the account's metadata; the age of the password is told in whole seconds."""
    if user is None:
        return AccountMetadata()
    last_set = datetime.now(UTC) - timedelta(seconds=user.age_seconds)
    return AccountMetadata(
        last_set=last_set, locked=user.is_locked, disabled=user.is_disabled, expires=_expiry(user, last_set)
    )


def _expiry(user: User, last_set: datetime) -> datetime | None:
    """Return when account or password expires, whichever is first."""
    dates = [user.expires] if user.expires else []
    if user.maximum_age_seconds > 0 and not user.flags & _NEVER_EXPIRES:
        dates.append(last_set + timedelta(seconds=user.maximum_age_seconds))
    return min(dates) if dates else None


def read_accounts(value: Any) -> Iterator[Finding | Unseen]:
    """Yield the accounts that a machine listed."""
    for row in value if isinstance(value, list) else []:
        try:
            flags = int(row["flags"])
            facts: dict[str, str | bool | int] = {
                "sid": str(row["sid"]), "disabled": bool(flags & _DISABLED), "locked": bool(flags & _LOCKED),
                "system": int(str(row["sid"]).rpartition("-")[2]) in {501, 503, 504},
            }  # fmt: skip
            yield Finding(kind="users", name=str(row["name"]), facts=facts)
        except (KeyError, TypeError, ValueError):
            yield Unseen(what="an account", cause="not_parsed")

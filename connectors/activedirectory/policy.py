"""The rules for an account's password: those of its fine-grained policy, else those of its domain."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from connectors.activedirectory.accounts import AccountState, Directory, Domain
from connectors.ldap.errors import LdapRefusal
from connectors.ldap.link import Entry
from connectors.windows.names import COMPLEX_CLASSES, forbidden_words
from pam_jobs.errors import PolicyRefused

__all__ = ["MOST_UNITS", "PasswordRules", "read_rules"]

MOST_UNITS: Final = 256  # UTF-16 code units of a password

_COMPLEX: Final = 0x1  # DOMAIN_PASSWORD_COMPLEX of pwdProperties
_OF_DOMAIN: Final = ["minPwdLength", "pwdProperties", "minPwdAge", "pwdHistoryLength"]
_OF_POLICY: Final = [
    "msDS-MinimumPasswordLength", "msDS-PasswordComplexityEnabled", "msDS-MinimumPasswordAge",
    "msDS-PasswordHistoryLength",
]  # fmt: skip
_LONGEST: Final = timedelta(days=36_500)


@dataclass(frozen=True, kw_only=True)
class PasswordRules:
    """What the domain demands of a password of one account; None = not readable."""

    source: str = "no policy is readable"
    min_length: int | None = None
    is_complex: bool | None = None
    min_age: timedelta = timedelta(0)
    history: int | None = None

    def forbidden_words(self, account: Entry) -> tuple[str, ...]:
        """Return the parts of names that complex passwords do not hold, whatever their case."""
        if self.is_complex is False:
            return ()
        return forbidden_words(account.first("sAMAccountName") or "", account.first("displayName") or "")

    @property
    def min_classes(self) -> int | None:
        """How many classes of characters a password has."""
        return None if self.is_complex is False else COMPLEX_CLASSES

    def check_age(self, state: AccountState) -> None:
        """Refuse a change by the account itself that comes too early.

        Raises:
            PolicyRefused: with the instant from which on it is allowed.
        """
        if state.last_set is None or state.last_set + self.min_age <= datetime.now(UTC):
            return
        earliest = (state.last_set + self.min_age).isoformat(timespec="minutes")
        remedy = f"wait until {earliest}, or rotate it by an admin"
        raise PolicyRefused("the account changed its password lately, and may not again (minPwdAge)", remedy=remedy)


def read_rules(link: Directory, domain: Domain, account: Entry) -> PasswordRules:
    """Return the rules that hold for the account, as far as the rotator may read them.

    A fine-grained policy that is named but not readable leaves the domain's own rules as the best guess.

    Raises:
        Exception: one of ``FAILURES``.
    """
    named = account.first("msDS-ResultantPSO")
    if named:
        found = _read(link, named, _OF_POLICY)
        if found is not None and found.first(_OF_POLICY[0]) is not None:
            return PasswordRules(
                source="fine-grained policy", min_length=_length(found, _OF_POLICY[0]),
                is_complex=found.is_true("msDS-PasswordComplexityEnabled"), min_age=_age(found, _OF_POLICY[2]),
                history=_length(found, _OF_POLICY[3]),
            )  # fmt: skip
    found = _read(link, domain.base, _OF_DOMAIN)
    if found is None or found.first("minPwdLength") is None:
        return PasswordRules()
    return PasswordRules(
        source="domain policy, the account's own one is not readable" if named else "domain policy",
        min_length=_length(found, "minPwdLength"), is_complex=bool((_length(found, "pwdProperties") or 0) & _COMPLEX),
        min_age=_age(found, "minPwdAge"), history=_length(found, "pwdHistoryLength"),
    )  # fmt: skip


def _read(link: Directory, dn: str, attributes: list[str]) -> Entry | None:
    try:
        return next(iter(link.search(dn, "(objectClass=*)", attributes, "base")), None)
    except LdapRefusal:
        return None


def _length(entry: Entry, name: str) -> int | None:
    text = entry.first(name)
    return int(text) if text is not None and text.isdecimal() else None


def _age(entry: Entry, name: str) -> timedelta:
    """Return a length of time, which is kept as a negative count of 100 nanoseconds."""
    text = (entry.first(name) or "0").removeprefix("-")
    return min(timedelta(microseconds=min(int(text) // 10, 10**16)), _LONGEST) if text.isdecimal() else timedelta(0)

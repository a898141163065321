"""Finding an account's entry, and reading what the password policy overlay keeps about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import escape_rdn

from connectors.base import AccountMetadata, Finding
from connectors.ldap.errors import INSUFFICIENT_ACCESS, NO_SUCH_OBJECT, LdapRefusal
from connectors.ldap.link import Entry, Link
from connectors.ldap.names import same_dn
from pam_jobs.errors import Unsupported

__all__ = [
    "ACCOUNTS",
    "STATE",
    "PasswordPolicy",
    "bases_in",
    "expires_at",
    "find_entry",
    "finding_of",
    "is_locked",
    "metadata_of",
    "read_policy",
    "stamp",
    "template_dn",
]

STATE: Final = [
    "objectClass", "uid", "cn", "pwdChangedTime", "pwdAccountLockedTime", "pwdReset", "pwdPolicySubentry", "pwdEndTime",
]  # fmt: skip
"""What is read of an account's entry; never the password."""

ACCOUNTS: Final = (
    "(|(objectClass=person)(objectClass=inetOrgPerson)(objectClass=posixAccount)(objectClass=account)"
    "(objectClass=simpleSecurityObject)(objectClass=shadowAccount))"
)
"""Entries that can log in."""

_POLICY: Final = [
    "pwdMinLength", "pwdMaxLength", "pwdMaxAge", "pwdLockoutDuration", "pwdAllowUserChange", "pwdMustChange", "pwdInHistory",
]  # fmt: skip
_FOREVER: Final = "000001010000Z"  # pwdAccountLockedTime of an account that an administrator locked


@dataclass(frozen=True, kw_only=True)
class PasswordPolicy:
    """The rules for an account's password; None = not readable."""

    min_length: int | None = None
    max_length: int | None = None
    max_age: timedelta | None = None
    lockout: timedelta | None = None  # how long a lock lasts; None: until somebody unlocks
    may_change_own: bool = True


def template_dn(template: str, login: str) -> str:
    """Return the name that the record's template gives a login.

    Raises:
        Unsupported: the template names no place for the login.
    """
    if "{login}" not in template:
        remedy = "write it like uid={login},ou=people,dc=example,dc=org"
        raise Unsupported("the user DN template does not hold {login}", remedy=remedy)
    return template.replace("{login}", escape_rdn(login))


def bases_in(root: Entry, options: Mapping[str, str]) -> list[str]:
    """Return where accounts are searched.

    It is the custom field ``Base DN``, else the naming context of the record's domain, else all that the root DSE names.
    """
    if base := options.get("base_dn", "").strip():
        return [base]
    told = root.all("namingContexts")
    domain = ",".join(f"dc={part}" for part in options.get("domain_name", "").strip().split(".") if part)
    return [each for each in told if domain and same_dn(each, domain)] or told


def find_entry(link: Link, login: str, bases: Sequence[str]) -> Entry:
    """Return the one entry whose uid is the login, else the one account whose cn is.

    Raises:
        Unsupported: there is none, or there are several.
        Exception: one of ``FAILURES``.
    """
    escaped = escape_filter_chars(login)
    for filter_text in (f"(uid={escaped})", f"(&(cn={escaped})(|{ACCOUNTS}(objectClass=organizationalRole)))"):
        found = [entry for base in bases for entry in _search(link, base, filter_text)]
        if len(found) > 1:
            what = f"{len(found)} entries have the login {login!r}"
            raise Unsupported(what, remedy="set distinguishedName in the user record, or the custom field Base DN")
        if found:
            return found[0]
    remedy = "check the login, the rotator's right to search, or set distinguishedName in the user record"
    raise Unsupported(f"no entry with the login {login!r} was found", remedy=remedy)


def _search(link: Link, base: str, filter_text: str) -> list[Entry]:
    """Search one naming context; one that the rotator may not see holds nothing for us."""
    try:
        return link.search(base, filter_text, STATE)
    except LdapRefusal as refusal:
        if refusal.code in {NO_SUCH_OBJECT, INSUFFICIENT_ACCESS} and refusal.policy.error is None:
            return []
        raise


def read_policy(link: Link, entry: Entry, options: Mapping[str, str], bases: Sequence[str]) -> PasswordPolicy:
    """Return the rules that hold for the entry, as far as the rotator can read them.

    The entry's own policy or the custom field ``Password Policy`` counts; else the only policy there is. Of several, any
    might be the default, so their strictest lengths are taken and their times are not known.

    Raises:
        Exception: one of ``FAILURES``.
    """
    named = entry.first("pwdPolicySubentry") or options.get("password_policy", "").strip()
    try:
        if named:
            found = link.search(named, "(objectClass=pwdPolicy)", _POLICY, "base")
        else:
            found = [each for base in bases for each in _search(link, base, "(objectClass=pwdPolicy)")]
            found = [each for policy in found for each in link.search(policy.dn, "(objectClass=*)", _POLICY, "base")]
    except LdapRefusal:
        return PasswordPolicy()
    shortest = [number for policy in found if (number := _number(policy, "pwdMinLength"))]
    longest = [number for policy in found if (number := _number(policy, "pwdMaxLength"))]
    limits = PasswordPolicy(min_length=max(shortest, default=None), max_length=min(longest, default=None))
    if len(found) != 1:
        return limits
    return PasswordPolicy(
        min_length=limits.min_length, max_length=limits.max_length,
        max_age=_seconds(found[0], "pwdMaxAge"), lockout=_seconds(found[0], "pwdLockoutDuration"),
        may_change_own=(found[0].first("pwdAllowUserChange") or "TRUE").upper() != "FALSE",
    )  # fmt: skip


def is_locked(entry: Entry, policy: PasswordPolicy, now: datetime) -> bool | None:
    """Say whether the account is locked now; None where a lock is there and nobody tells how long it lasts."""
    text = entry.first("pwdAccountLockedTime")
    if text is None:
        return False
    since = None if text == _FOREVER else stamp(text)
    if since is None or policy.lockout is None:
        return True
    return now < since + policy.lockout


def expires_at(entry: Entry, policy: PasswordPolicy) -> datetime | None:
    """Return when the password or the account ends, whichever comes first."""
    ends = [stamp(entry.first("pwdEndTime"))]
    changed = stamp(entry.first("pwdChangedTime"))
    if changed is not None and policy.max_age is not None:
        ends.append(changed + policy.max_age)
    return min((end for end in ends if end is not None), default=None)


def stamp(text: str | None) -> datetime | None:
    """Return a generalized time of the directory, which is always UTC; None for what is none."""
    digits = (text or "").partition("Z")[0].partition(".")[0]
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _number(entry: Entry, name: str) -> int | None:
    text = entry.first(name)
    return int(text) if text is not None and text.isdecimal() else None


def _seconds(entry: Entry, name: str) -> timedelta | None:
    number = _number(entry, name)
    return timedelta(seconds=number) if number else None


def metadata_of(entry: Entry, policy: PasswordPolicy) -> AccountMetadata:
    """Return what the password policy keeps about an account."""
    return AccountMetadata(
        last_set=stamp(entry.first("pwdChangedTime")),
        locked=is_locked(entry, policy, datetime.now(UTC)),
        expires=expires_at(entry, policy),
    )


def finding_of(entry: Entry) -> Finding:
    """Return an account as discovery tells it."""
    facts: dict[str, str | bool | int] = {"distinguished_name": entry.dn}
    if entry.first("pwdAccountLockedTime"):
        facts["locked"] = True
    if entry.is_true("pwdReset"):
        facts["must_change"] = True
    if changed := entry.first("pwdChangedTime"):
        facts["last_set"] = changed
    return Finding(kind="users", name=entry.first("uid") or entry.first("cn") or entry.dn, facts=facts)

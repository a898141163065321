"""Finding an account of the domain, telling which ones nobody may rotate, and reading what the domain keeps about it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntFlag
from typing import Final, Protocol

from ldap3.utils.conv import escape_filter_chars

from connectors.base import AccountMetadata, Finding
from connectors.ldap.errors import NO_SUCH_OBJECT, LdapRefusal
from connectors.ldap.link import Entry
from connectors.ldap.look import domain_of
from connectors.ldap.names import is_dn, parents_of
from pam_jobs.errors import WrongAccount

__all__ = [
    "COMPUTERS",
    "LISTED",
    "UNITS",
    "USERS",
    "AccountState",
    "Directory",
    "Domain",
    "find_account",
    "finding_of",
    "metadata_of",
    "refuse_special",
    "state_of",
]

USERS: Final = (
    "(|(&(objectCategory=person)(objectClass=user))(objectClass=msDS-GroupManagedServiceAccount)"
    "(objectClass=msDS-ManagedServiceAccount))"
)
COMPUTERS: Final = "(objectCategory=computer)"
UNITS: Final = "(objectClass=organizationalUnit)"

LISTED: Final = [
    "objectClass", "sAMAccountName", "userPrincipalName", "displayName", "objectSid", "userAccountControl", "pwdLastSet",
    "lockoutTime", "accountExpires", "servicePrincipalName", "dNSHostName", "operatingSystem", "operatingSystemVersion",
]  # fmt: skip
"""What is read of every account; never a password."""

_STATE: Final = [
    *LISTED, "msDS-User-Account-Control-Computed", "msDS-UserPasswordExpiryTimeComputed", "msDS-ResultantPSO",
]  # fmt: skip
_NEVER: Final = frozenset({0, 0x7FFFFFFFFFFFFFFF})
_EPOCH: Final = datetime(1601, 1, 1, tzinfo=UTC)
_PROTECTED_USERS, _KRBTGT = 525, 502  # last numbers of security identifiers
_MANAGED: Final = frozenset(
    {"msds-managedserviceaccount", "msds-groupmanagedserviceaccount", "msds-delegatedmanagedserviceaccount"}
)


class _Control(IntFlag):
    """userAccountControl, as far as it matters here (MS-ADTS 2.2.16)."""

    DISABLED = 0x2
    LOCKED_OUT = 0x10  # in the computed attribute alone
    TRUST = 0x800
    NEVER_EXPIRES = 0x10000
    SMARTCARD = 0x40000
    EXPIRED = 0x800000  # in the computed attribute alone


class Directory(Protocol):
    """Where entries are read: a controller over LDAP, or one that asks itself over WinRM."""

    def search(self, base: str, filter_text: str, attributes: list[str], scope: str = "subtree") -> list[Entry]:
        """Return the entries that match.

        Raises:
            LdapRefusal: the directory answered with another result than success.
        """
        ...


@dataclass(frozen=True)
class Domain:
    """The domain that a controller serves."""

    base: str
    name: str  # in the DNS, in lower case
    configuration: str  # where the forest keeps its own settings

    @classmethod
    def of(cls, root: Entry) -> Domain:
        """Return what the root DSE tells."""
        configuration = root.first("configurationNamingContext") or ""
        return cls(base=root.first("defaultNamingContext") or "", name=domain_of(root), configuration=configuration)

    def netbios(self, link: Directory) -> str:
        """Return the short name, in lower case; nothing where nobody may read it."""
        wanted = f"(&(objectClass=crossRef)(nCName={escape_filter_chars(self.base)}))"
        try:
            found = link.search(f"CN=Partitions,{self.configuration}", wanted, ["nETBIOSName"])
        except LdapRefusal:
            return ""
        return (found[0].first("nETBIOSName") or "").casefold() if found else ""


@dataclass(frozen=True, kw_only=True)
class AccountState:
    """An account as the domain tells of it now."""

    entry: Entry
    locked: bool
    disabled: bool
    expired: bool  # the account, not its password
    must_change: bool  # at the next logon
    last_set: datetime | None
    expires: datetime | None
    groups: frozenset[int] = field(default_factory=frozenset)  # last numbers of the groups of its own domain

    @property
    def dn(self) -> str:
        """The distinguished name."""
        return self.entry.dn


def find_account(link: Directory, domain: Domain, login: str, dn: str | None) -> Entry:
    r"""Return the entry of an account.

    Args:
        link: of the rotator.
        domain: where to search.
        login: a user principal name, ``DOMAIN\user``, a sAMAccountName or a distinguished name.
        dn: the record's distinguished name, which goes before the login.

    Raises:
        WrongAccount: there is none, there are several, or it is of another domain.
        Exception: one of ``FAILURES``.
    """
    dn = dn or (login if is_dn(login) else None)
    if "\0" in (dn or login):  # some controllers would take what stands before it
        raise WrongAccount("an account's name has no NUL", remedy="correct the user record")
    if dn is not None:
        try:
            found = link.search(dn, "(objectClass=*)", LISTED, "base")
        except LdapRefusal as refusal:
            if refusal.code != NO_SUCH_OBJECT:
                raise
            found = []
        if not found:
            remedy = "correct distinguishedName in the user record, or let the rotator read the entry"
            raise WrongAccount(f"there is no entry {dn!r}", remedy=remedy)
        return found[0]
    for condition in _conditions(link, domain, login):
        found = link.search(domain.base, f"(&(objectClass=user){condition})", LISTED)
        if len(found) > 1:
            what = f"{len(found)} accounts have the login {login!r}"
            raise WrongAccount(what, remedy="set distinguishedName in the user record")
        if found:
            return found[0]
    remedy = "check the login, the rotator's right to read, or set distinguishedName in the user record"
    raise WrongAccount(f"no account with the login {login!r} was found in {domain.name}", remedy=remedy)


def _conditions(link: Directory, domain: Domain, login: str) -> list[str]:
    """Return what to search, in the order in which the domain itself reads a login."""
    within, _, name = login.rpartition("\\")
    if within:
        if within.casefold() not in {domain.name, domain.netbios(link)}:
            remedy = f"rotate it by a controller of its own domain, not of {domain.name}"
            raise WrongAccount(f"the account {login!r} is of another domain", remedy=remedy)
        return [f"(sAMAccountName={escape_filter_chars(name)})"]
    name, _, suffix = login.rpartition("@")
    if not name:
        return [f"(sAMAccountName={escape_filter_chars(login)})"]
    conditions = [f"(userPrincipalName={escape_filter_chars(login)})"]
    if suffix.casefold() in {domain.name, domain.netbios(link)}:
        conditions.append(f"(sAMAccountName={escape_filter_chars(name)})")
    return conditions


def state_of(link: Directory, entry: Entry) -> AccountState:
    """Return how the account is now.

    Raises:
        Exception: one of ``FAILURES``.
    """
    now = datetime.now(UTC)
    full = next(iter(link.search(entry.dn, "(objectClass=*)", _STATE, "base")), entry)
    control = _Control(_number(full, "userAccountControl") or 0)
    computed = _Control(_number(full, "msDS-User-Account-Control-Computed") or 0)
    account_ends = _moment(full, "accountExpires")
    password_ends = _moment(full, "msDS-UserPasswordExpiryTimeComputed")
    must_change = _number(full, "pwdLastSet") == 0 and _Control.NEVER_EXPIRES not in control
    ends = [end for end in (account_ends, password_ends) if end is not None]
    return AccountState(
        entry=full, locked=_Control.LOCKED_OUT in computed, disabled=_Control.DISABLED in control,
        expired=account_ends is not None and account_ends <= now, must_change=must_change,
        last_set=_moment(full, "pwdLastSet"), expires=min(ends, default=None), groups=_groups(link, full),
    )  # fmt: skip


def _groups(link: Directory, entry: Entry) -> frozenset[int]:
    """Return the groups of the account's own domain that it is in, also through other groups, by their last numbers."""
    try:
        found = link.search(entry.dn, "(objectClass=*)", ["tokenGroups"], "base")
    except LdapRefusal:  # only a controller that reaches a global catalog tells
        return frozenset()
    own = (entry.values.get("objectsid") or (b"",))[0][:-4]
    sids = found[0].values.get("tokengroups", ()) if found else ()
    return frozenset(int.from_bytes(sid[-4:], "little") for sid in sids if sid[:-4] == own)


def refuse_special(state: AccountState) -> None:
    """Refuse accounts whose password nobody may set, or no login by password could prove.

    Raises:
        WrongAccount: with the reason.
    """
    entry = state.entry
    name = entry.first("sAMAccountName") or entry.dn
    kinds = {kind.casefold() for kind in entry.all("objectClass")}
    control = _Control(_number(entry, "userAccountControl") or 0)
    number = int.from_bytes((entry.values.get("objectsid") or (b"",))[0][-4:], "little")
    if kinds & _MANAGED:
        what, remedy = (
            "is a managed service account: the domain sets its password",
            "disable the rotation of its record",
        )
    elif "computer" in kinds or control & _Control.TRUST:
        what = "is a computer or a trust, whose password only the machine itself may change"
        remedy = "disable the rotation of its record"
    elif number == _KRBTGT or re.fullmatch(r"krbtgt(_\d+)?", name, re.IGNORECASE):
        what = "holds the domain's Kerberos keys"
        remedy = "reset it twice by hand, as Microsoft describes, and disable the rotation of its record"
    elif "user" not in kinds:
        what, remedy = "is no account of a user", "name the account's own entry"
    elif _PROTECTED_USERS in state.groups:
        what = "is one of the Protected Users, whose password no login over LDAP can prove"
        remedy = "take it out of that group, or disable the rotation of its record"
    elif control & _Control.SMARTCARD:
        what = "logs in by smart card alone, so that no login can prove a password"
        remedy = "allow it passwords, or disable the rotation of its record"
    else:
        return
    raise WrongAccount(f"{name} {what}", remedy=remedy)


def metadata_of(state: AccountState) -> AccountMetadata:
    """Return what the domain keeps about an account."""
    return AccountMetadata(
        last_set=state.last_set, locked=state.locked, disabled=state.disabled, expires=state.expires
    )  # fmt: skip


def finding_of(entry: Entry) -> Finding:
    """Return a user or a computer as discovery tells it."""
    kinds = {kind.casefold() for kind in entry.all("objectClass")}
    facts: dict[str, str | bool | int] = {"distinguished_name": entry.dn}
    told = {
        "user_principal_name": entry.first("userPrincipalName"), "display_name": entry.first("displayName"),
        "dns_name": entry.first("dNSHostName"), "operating_system": entry.first("operatingSystem"),
        "operating_system_version": entry.first("operatingSystemVersion"),
        "service_principal_names": "\n".join(entry.all("servicePrincipalName")),
        "organizational_unit": next((value for kind, value in parents_of(entry.dn) if kind == "ou"), None),
    }  # fmt: skip
    facts.update({name: text for name, text in told.items() if text})
    if last_set := _moment(entry, "pwdLastSet"):
        facts["last_set"] = last_set.isoformat()
    ends = _moment(entry, "accountExpires")
    is_listed = kinds & _MANAGED or (entry.first("sAMAccountName") or "").casefold().startswith("krbtgt")
    flags = {
        "disabled": bool(_Control(_number(entry, "userAccountControl") or 0) & _Control.DISABLED),
        "locked": bool(_number(entry, "lockoutTime")),
        "expired": ends is not None and ends <= datetime.now(UTC),
        "must_change": _number(entry, "pwdLastSet") == 0,
        "managed": bool(is_listed),
    }
    facts.update({name: True for name, is_true in flags.items() if is_true})
    name = entry.first("sAMAccountName") or entry.dn
    if "computer" in kinds and not kinds & _MANAGED:
        return Finding(kind="machines", name=name.removesuffix("$"), facts=facts)
    return Finding(kind="users", name=name, facts=facts)


def _number(entry: Entry, name: str) -> int | None:
    text = entry.first(name)
    return int(text) if text is not None and text.removeprefix("-").isdecimal() else None


def _moment(entry: Entry, name: str) -> datetime | None:
    """Return an instant that is kept as a count of 100 nanoseconds since 1601; None for never."""
    number = _number(entry, name)
    if number is None or number in _NEVER or number < 0:
        return None
    try:
        return _EPOCH + timedelta(microseconds=number // 10)
    except OverflowError:
        return None

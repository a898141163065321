"""Active Directory over LDAPS: passwords reset by an admin or changed by the account itself, under the domain's policy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import ClassVar, Final

from connectors.activedirectory.accounts import (
    COMPUTERS,
    LISTED,
    UNITS,
    USERS,
    AccountState,
    Domain,
    find_account,
    finding_of,
    metadata_of,
    refuse_special,
    state_of,
)
from connectors.activedirectory.controllers import reach
from connectors.activedirectory.errors import map_error, mapped, policy_refused, verdict_of
from connectors.activedirectory.policy import MOST_UNITS, read_rules
from connectors.activedirectory.wishes import Wishes
from connectors.base import (
    Account,
    AccountMetadata,
    Candidate,
    Capability,
    Credential,
    Deadline,
    Fence,
    Finding,
    Preflight,
    Service,
    Target,
    Unseen,
    Verdict,
    VerdictState,
)
from connectors.errors import NO_PASSWORD
from connectors.kept import KeepingConnector, KeptConnections
from connectors.ldap.errors import FAILURES, LdapRefusal
from connectors.ldap.link import Entry, Link
from connectors.ldap.look import ACTIVE_DIRECTORY, domain_of, product_of, recognised, unseen_of
from connectors.ldap.names import UserMatch, is_dn, same_dn
from connectors.ldap.session import DirectorySession
from connectors.passwords import plain_password_of
from pam_jobs.errors import Effect, Forbidden, PolicyRefused, TargetError, Unsupported, WrongTarget
from pam_jobs.secret import SecretValue

__all__ = ["ActiveDirectoryConnector", "ActiveDirectorySession"]

_NO_PASSWORD: Final = b"no password: a question"  # of odd length, so that it is never taken for UTF-16
_KINDS_SECONDS: Final = 600.0  # how long it is remembered what a server is
_PARTITIONS: Final = ("/cn=configuration,", "/cn=schema,", "/dc=domaindnszones,", "/dc=forestdnszones,")


class ActiveDirectoryConnector(KeepingConnector[Link]):
    """Domain controllers of Windows Server 2008 R2 and newer, and Samba's."""

    name: ClassVar[str] = "activedirectory"
    protocols: ClassVar[frozenset[str]] = frozenset({"ldaps", "ldap"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CHANGE, Capability.PROBE, Capability.DISCOVER, Capability.METADATA}
    )

    def __init__(self, kept: KeptConnections[Link] | None = None) -> None:
        """Start with no connection.

        Args:
            kept: where rotators' connections wait for their next session; one with the usual bounds when absent.
        """
        self.kept = kept or KeptConnections(is_usable=Link.is_idle, close=Link.close)
        self._kinds: dict[tuple[str, int, str], tuple[bool, float]] = {}

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> ActiveDirectorySession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            WrongTarget: the record does not say which directory it is, and it is another one.
            NotApplied: with the cause; nothing on the target changed.
        """
        if target.options.get("directory_type") != "active_directory":
            self._look(target, deadline)
        return ActiveDirectorySession(self.kept, target, rotator, deadline).connect()

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it answers as a domain controller does, in the clear or within TLS, without a login."""
        found = recognised(host, port, deadline)
        return found if found is not None and found.facts["directory_type"] == "active_directory" else None

    def _look(self, target: Target, deadline: Deadline) -> None:
        """Ask the server what it is, unless it said so a few minutes ago.

        Raises:
            WrongTarget: it is another directory.
            NotApplied: it did not tell.
        """
        key = (target.host, target.port, target.protocol)
        is_ours, asked = self._kinds.get(key, (False, -_KINDS_SECONDS))
        if time.monotonic() - asked >= _KINDS_SECONDS:
            with mapped(sent=False):
                link = Link.connect(target, deadline)
                try:
                    is_ours = ACTIVE_DIRECTORY in link.root().all("supportedCapabilities")
                except LdapRefusal:  # a controller tells everybody
                    is_ours = False
                finally:
                    link.close()
            self._kinds[key] = (is_ours, time.monotonic())
        if not is_ours:
            raise WrongTarget(
                "the server is no domain controller", remedy="set directoryType of the resource to openldap"
            )


class ActiveDirectorySession(DirectorySession):
    """A session on one domain controller."""

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed, and what the policy of the account demands.

        The right to reset is learned by asking for a value that is no password: the controller refuses that for want of
        rights, or because it is none, and either way changes nothing.

        Raises:
            Forbidden: the rotator may not reset the password.
            Unsupported: there is no such account, or it is one that nobody may rotate.
            Locked: the account is locked, disabled or expired, so that no login could prove the change.
            PolicyRefused: the account changes itself, and did so lately.
            TargetError: anything else the controller said.
        """
        link = self._require_link()
        with mapped(sent=False):
            state = self._state(link, account)
            refuse_special(state)
            rules = read_rules(link, self._domain(link), state.entry)
            is_self = self._is_own(link, state)
            if not is_self:
                self._check_right(link, state)
        Wishes.of(self._target.options).check(state)
        if is_self:
            rules.check_age(state)
        return Preflight(
            server=f"{product_of(self._root_of(link))}, {link.host}, {link.transport}, {rules.source}", is_self=is_self,
            account_exists=True, min_length=rules.min_length, max_length=MOST_UNITS, forbidden_characters="\0",
            forbidden_words=rules.forbidden_words(state.entry), min_classes=rules.min_classes,
        )  # fmt: skip

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the password.

        Effect on target: one modification of the account. An admin replaces ``unicodePwd``, and with it what the record
        says of the next logon and of a lock; the account itself exchanges its old password for the new one.

        Raises:
            NotApplied: the account is certainly as it was.
            EffectUnknown: the connection ended after the request was sent.
        """
        password = _fitting(plain_password_of(candidate))
        link = self._require_link()
        with mapped(sent=False):
            state = self._state(link, account)
            refuse_special(state)
            is_self = self._is_own(link, state)
            values = {"unicodePwd": _quoted(password), **Wishes.of(self._target.options).beside(state)}
        self._deadline.check("the change was sent")
        fence()
        try:
            if is_self:
                old = self._require_rotator().password or password
                link.exchange(state.dn, "unicodePwd", _quoted(old), values["unicodePwd"])
            else:
                link.replace(state.dn, values)
        except FAILURES as error:
            if not (is_self and policy_refused(error) and self._is_set(link, state.dn, password)):
                raise map_error(error, sent=True) from None
        self._after_change(account, state.dn, password, is_self=is_self)
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in once, afresh, at the controller that this session changed the account on."""
        if not credential.password:
            return NO_PASSWORD
        try:
            self._logged_in(credential, account.distinguished_name, writable=False).close()
        except Unsupported as error:
            return Verdict(state=VerdictState.UNKNOWN, cause="not_found", detail=error.message)
        except (*FAILURES, TargetError) as error:
            return verdict_of(error)
        return Verdict(state=VerdictState.ACCEPTED)

    def metadata(self, account: Account) -> AccountMetadata:
        """Return what the domain keeps about the account."""
        link = self._require_link()
        with mapped(sent=False):
            return metadata_of(self._state(link, account))

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield users, computers and organizational units page by page, and what the controller did not show."""
        link = self._require_link()
        with mapped(sent=False):
            domain = self._domain(link)
        wanted = UserMatch.of(self._target.options)
        for base in wanted.bases([domain.base]):
            for kind in (USERS, COMPUTERS, UNITS):
                condition = f"(&{kind}{wanted.filter})" if wanted.filter and kind != UNITS else kind
                try:
                    yield from _listed(link, base, condition, wanted)
                except FAILURES as error:
                    yield unseen_of(base, error)
                    return

    def _login_rotator(self, rotator: Credential) -> Link:
        with mapped(sent=False):
            link = self._logged_in(rotator, None, writable=True)
            try:
                if not is_dn(link.bound_dn):
                    link.bound_dn = self._found(link, rotator.login, None).dn
            except Unsupported:  # it cannot see itself, and is then taken for none of the accounts
                return link
            except BaseException:
                link.close()
                raise
            return link

    def _logged_in(self, credential: Credential, known_dn: str | None, *, writable: bool) -> Link:
        """Return a new connection on which the credential is logged in.

        Raises:
            TargetError: no controller could be reached, or the account was not found.
            Exception: one of ``FAILURES``.
        """
        first = self._link.host if self._link is not None else None
        link = reach(self._target, self._deadline, first=first, writable=writable)
        try:
            link.use(self._deadline)
            link.log_in(self._bind_name(credential, known_dn, link), credential.password or SecretValue(""))
        except BaseException:
            link.close()
            raise
        return link

    def _bind_name(self, credential: Credential, known_dn: str | None, link: Link) -> str:
        """Return what to log in as: the DN where one is known, else the login as the domain understands it.

        A bare login becomes a DN by a search of the rotator, else ``login@domain``: alone it would mean a display name.
        """
        login = credential.login
        if known := credential.distinguished_name or known_dn:
            return known
        if is_dn(login) or "\\" in login or "@" in login:
            return login
        if self._link is not None:
            return self._found(self._link, login, None).dn
        domain = self._target.options.get("domain_name", "").strip() or domain_of(link.root())
        return f"{login}@{domain}"

    def _found(self, link: Link, login: str, dn: str | None) -> Entry:
        return find_account(link, self._domain(link), login, dn)

    def _state(self, link: Link, account: Account) -> AccountState:
        Wishes.of(self._target.options)  # a wrong one is told before anything is asked
        return state_of(link, self._found(link, account.login, account.distinguished_name))

    def _domain(self, link: Link) -> Domain:
        root = self._root_of(link)
        if ACTIVE_DIRECTORY not in root.all("supportedCapabilities"):
            remedy = "set directoryType of the resource to openldap, or correct its host and port"
            raise WrongTarget("the server is no domain controller", remedy=remedy)
        return Domain.of(root)

    @staticmethod
    def _is_own(link: Link, state: AccountState) -> bool:
        return same_dn(link.bound_dn, state.dn)

    @staticmethod
    def _check_right(link: Link, state: AccountState) -> None:
        """Learn whether the rotator may reset the password, by a value that no controller takes.

        Raises:
            Forbidden: it may not.
        """
        try:
            link.replace(state.dn, {"unicodePwd": _NO_PASSWORD})
        except LdapRefusal as refusal:
            error = map_error(refusal, sent=False)
            if isinstance(error, Forbidden):
                raise error from None

    @staticmethod
    def _is_set(link: Link, dn: str, password: SecretValue) -> bool:
        """Say whether the account has this password now: only then it is taken as the old one.

        A login does not tell: for an hour it takes the password before the last one as well.
        """
        try:
            link.exchange(dn, "unicodePwd", _quoted(password), _quoted(password))
        except FAILURES as error:
            return policy_refused(error)
        return True


def _listed(link: Link, base: str, condition: str, wanted: UserMatch) -> Iterator[Finding | Unseen]:
    for each in link.pages(base, condition, LISTED):
        if isinstance(each, Entry):
            if wanted.takes(each.dn):
                is_unit = condition == UNITS
                yield Finding(kind="units", name=each.dn) if is_unit else finding_of(each)
        elif condition == USERS and not any(part in each.casefold() for part in _PARTITIONS):
            yield Unseen(what=each, cause="not_permitted", detail="another domain: it was not followed")


def _quoted(password: SecretValue) -> bytes:
    """Return a password in the form of ``unicodePwd`` (MS-ADTS 3.1.1.3.1.5.1)."""
    return f'"{password.reveal()}"'.encode("utf-16-le")


def _fitting(password: SecretValue) -> SecretValue:
    """Return the password, which a controller can hold.

    Raises:
        PolicyRefused: it is too long.
    """
    units = len(password.reveal().encode("utf-16-le")) // 2
    if units > MOST_UNITS:
        what = f"a password here has at most {MOST_UNITS} characters, as UTF-16 counts them"
        raise PolicyRefused(what, remedy="lower the length in the record's password rules")
    return password

"""Active Directory over WinRM on its controllers: the second way, where LDAPS applied nothing."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import ClassVar, Final

from connectors.activedirectory.accounts import (
    AccountState,
    Domain,
    find_account,
    metadata_of,
    refuse_special,
    state_of,
)
from connectors.activedirectory.errors import map_error, mapped, verdict_of
from connectors.activedirectory.policy import read_rules
from connectors.activedirectory.winrm_place import find_place, login_of, places_of
from connectors.activedirectory.winrm_search import RESET, RemoteDirectory, refusal_of
from connectors.activedirectory.wishes import Wishes
from connectors.base import (
    Account,
    AccountMetadata,
    Candidate,
    Capability,
    Credential,
    Deadline,
    Fence,
    Preflight,
    Target,
    Verdict,
    VerdictState,
)
from connectors.errors import NO_PASSWORD
from connectors.kept import KeepingConnector, KeptConnections, kept_key
from connectors.ldap.link import Entry
from connectors.ldap.look import ACTIVE_DIRECTORY
from connectors.ldap.names import is_dn, same_dn
from connectors.windows.errors import verdict_of as windows_verdict_of
from connectors.windows.facts import Look, Rules
from connectors.windows.link import Link
from connectors.windows.names import Name
from connectors.windows.programs import Answer
from connectors.windows.session import WindowsSession
from connectors.windows.winrm_link import WinrmLink
from pam_jobs.errors import AmbiguousReply, Effect, TargetError, Unsupported, WrongAccount
from pam_jobs.secret import SecretValue

__all__ = ["ActiveDirectoryWinrmConnector", "ControllerSession"]

_READ_ONLY: Final = "1.2.840.113556.1.4.1920"


class ActiveDirectoryWinrmConnector(KeepingConnector[Link]):
    """Domain controllers of Windows, whose LDAPS does not answer or has no certificate."""

    name: ClassVar[str] = "activedirectory-winrm"
    protocols: ClassVar[frozenset[str]] = frozenset({"ldaps", "ldap", "winrm"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CHANGE, Capability.PROBE, Capability.METADATA}
    )

    def __init__(self, kept: KeptConnections[Link] | None = None) -> None:
        """Start with no connection.

        Args:
            kept: where rotators' connections wait for their next session; one with the usual bounds when absent.
        """
        self.kept = kept or KeptConnections(is_usable=lambda link: link.is_alive(), close=lambda link: link.close())

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> ControllerSession:
        """Find a controller whose WinRM answers, and connect as the rotator.

        The next controller is asked only while nobody has logged in, so that a refused administrator is refused once.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        place = target
        if rotator is not None:
            place = self._kept_place(target, rotator) or find_place(target, deadline)
        return ControllerSession(self.kept, place, rotator, deadline).connect()

    def _kept_place(self, target: Target, rotator: Credential) -> Target | None:
        """Return the place where the rotator is logged in still, so that nobody is asked whether it answers."""
        for place in places_of(target):
            key = kept_key(place, rotator)
            link = self.kept.take(key)
            if link is not None:
                self.kept.give(key, link)
                return place
        return None


class ControllerSession(WindowsSession):
    """A session on one controller: the domain tells of its accounts, and Windows sets the password."""

    def __init__(
        self, kept: KeptConnections[Link], target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(kept, WinrmLink.connect, target, rotator, deadline)
        self._states: dict[tuple[str, str | None], AccountState] = {}
        self._domain: Domain | None = None
        self._own: Entry | None = None  # the rotator's own entry, where it may see it
        self._beside: dict[str, bytes] = {}  # what the change under way sets beside the password

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed, and what the policy of the account demands.

        Raises:
            Forbidden: the rotator is neither administrator on the controller nor the account itself.
            Unsupported: there is no such account, or it is one that nobody may rotate.
            Locked: the account is locked, disabled or expired, so that no login could prove the change.
            PolicyRefused: the account changes itself, and did so lately.
            TargetError: anything else the controller said.
        """
        state = self._state(account)
        with mapped(sent=False):
            rules = read_rules(self._directory(), self._require_domain(), state.entry)
        local = _local(account, state.entry)
        told = super().preflight(local)
        if told.is_self and not self._look(Name.parse(local.login)).is_admin:
            rules.check_age(state)
        return replace(
            told, server=f"{told.server}, {self._target.host}, {rules.source}", min_length=rules.min_length,
            forbidden_words=rules.forbidden_words(state.entry), min_classes=rules.min_classes,
        )  # fmt: skip

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the password, and with it what the record says of the next logon and of a lock.

        Effect on target: ADSI runs on the controller with the password from its standard input; where more than the
        password is set, one modification of the account by the controller's own directory.

        Raises:
            NotApplied: the account is certainly as it was.
            EffectUnknown: it may have changed.
        """
        self._deadline.check("the change was sent")
        state = self._state(account)
        local = _local(account, state.entry)
        is_self = self._is_self(local)
        self._beside = {} if is_self else Wishes.of(self._target.options).beside(state)
        self._states.clear()
        effect = super().change(local, candidate, fence)
        for login in {account.login, state.dn, login_of(account.login, self._target)}:
            self._kept.forget(self._target.host, self._target.port, login)
        if is_self:
            rotator = self._require_rotator()
            self._kept.forget(self._target.host, self._target.port, rotator.login)
        return effect

    def _reset(self, account: Account, password: SecretValue, fence: Fence) -> Answer:
        if not self._beside:
            return super()._reset(account, password, fence)
        beside = [{"name": name, "value": value.decode()} for name, value in self._beside.items()]
        facts = {"dn": account.distinguished_name, "beside": beside}
        answer = self._tell(RESET, facts, password, fence=fence, account=account)
        if answer.ok:
            if not isinstance(answer.value, dict):
                raise AmbiguousReply
            if refusal := refusal_of(answer.value):
                raise map_error(refusal, sent=True)
        return answer

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in with the password: the controller tries it where an administrator is there, else it is a login from here."""
        if not credential.password:
            return NO_PASSWORD
        if self._link is None:
            login = login_of(credential.login, self._target)
            if is_dn(login):
                detail = "WinRM knows no login by a distinguished name"
                return Verdict(state=VerdictState.UNKNOWN, cause="unsupported", detail=detail)
            return super().probe(account, replace(credential, login=login))
        try:
            with mapped(sent=False):
                entry = self._find(credential.login, credential.distinguished_name or account.distinguished_name)
            local = _local(account, entry)
            with contextlib.suppress(TargetError):
                self._look(Name.parse(local.login))  # tells whether the controller may be asked to try it
        except WrongAccount as error:
            return Verdict(state=VerdictState.UNKNOWN, cause="not_found", detail=error.message)
        except TargetError as error:
            return verdict_of(error)
        return super().probe(local, replace(credential, login=local.login))

    def metadata(self, account: Account) -> AccountMetadata:
        """Return what the domain keeps about the account."""
        with mapped(sent=False):
            entry = self._find(account.login, account.distinguished_name)
            return metadata_of(state_of(self._directory(), entry))

    def _log_in(self, rotator: Credential) -> Link:
        if is_dn(rotator.login):
            remedy = "write the login of the admin's record as login@domain or DOMAIN\\login"
            raise Unsupported("WinRM knows no login by a distinguished name", remedy=remedy)
        return super()._log_in(replace(rotator, login=login_of(rotator.login, self._target)))

    def _try(self, credential: Credential) -> Verdict:
        if self._link is not None:
            return super()._try(replace(credential, login=f"{self._require_domain().name}\\{credential.login}"))
        try:
            self._target = find_place(self._target, self._deadline)
        except TargetError as error:
            return windows_verdict_of(error)
        return super()._try(credential)

    def _require(self, account: Account) -> Look:
        look = super()._require(account)
        if not look.is_controller:  # there the same name would be another account
            raise Unsupported(f"{look.computer} is no domain controller", remedy="name a domain controller as host")
        return look

    def _rules(self, look: Look) -> Rules:  # noqa: ARG002 - the domain's are read in its place
        return Rules()

    def _is_self(self, account: Account) -> bool:
        """Say whether it is the rotator's own account.

        Args:
            account: with its logon name alone, as ``_local`` gives it.
        """
        if self._rotator is None or self._link is None:
            return False
        if self._own is None:
            rotator = self._rotator
            try:
                with mapped(sent=False):
                    self._own = self._find(rotator.login, rotator.distinguished_name)
            except WrongAccount:  # it cannot see itself, and is then taken for none of the accounts
                self._own = Entry(dn="")
        own = self._own.first("sAMAccountName") or ""
        if account.distinguished_name and self._own.dn:
            return same_dn(account.distinguished_name, self._own.dn)
        return own.casefold() == account.login.casefold()

    def _state(self, account: Account) -> AccountState:
        """Return how the account is now, once it is sure that a login could prove its password.

        Raises:
            WrongAccount: it is none that anybody may rotate.
            Locked: no login could prove it.
            Unsupported: an option of the record has no known value.
        """
        wishes = Wishes.of(self._target.options)  # a wrong one is told before anything is asked
        known = self._states.get((account.login, account.distinguished_name))
        if known is not None:  # of this session: each question is a program that is started
            return known
        with mapped(sent=False):
            state = state_of(self._directory(), self._find(account.login, account.distinguished_name))
        refuse_special(state)
        wishes.check(state)
        self._states[account.login, account.distinguished_name] = state
        return state

    def _find(self, login: str, dn: str | None) -> Entry:
        return find_account(self._directory(), self._require_domain(), login, dn)

    def _directory(self) -> RemoteDirectory:
        return RemoteDirectory(self._ask)

    def _require_domain(self) -> Domain:
        """Return the domain that this controller serves.

        Raises:
            Unsupported: it only reads, or is none.
        """
        if self._domain is None:
            root = self._directory().root()
            told = root.all("supportedCapabilities")
            if ACTIVE_DIRECTORY not in told or _READ_ONLY in told:
                what = "a read-only domain controller" if _READ_ONLY in told else "no domain controller"
                raise Unsupported(f"{self._target.host} is {what}", remedy="name a controller that takes writes")
            self._domain = Domain.of(root)
        return self._domain


def _local(account: Account, entry: Entry) -> Account:
    """Return the account as Windows' own programs on the controller take it: by its logon name alone.

    Raises:
        WrongAccount: its name would mean more than a name there.
    """
    login = entry.first("sAMAccountName") or ""
    try:
        name = Name.parse(login)
    except Unsupported:
        name = None
    if name is None or name.domain != "." or name.login != login:
        remedy = "give the account another logon name (sAMAccountName), or rotate it over LDAPS"
        raise WrongAccount(f"the logon name of {entry.dn} cannot be used over WinRM", remedy=remedy)
    return replace(account, login=login, distinguished_name=entry.dn)

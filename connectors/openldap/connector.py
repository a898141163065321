"""OpenLDAP and other LDAPv3 directories: passwords set by RFC 3062, or as userPassword, under the server's policy."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Final

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
from connectors.ldap.errors import (
    FAILURES,
    NO_SUCH_OBJECT,
    LdapRefusal,
    PolicyError,
    map_error,
    mapped,
    verdict_of,
)
from connectors.ldap.link import Entry, Link
from connectors.ldap.look import ACTIVE_DIRECTORY, product_of, recognised, unseen_of
from connectors.ldap.names import UserMatch, is_dn, same_dn
from connectors.ldap.session import DirectorySession
from connectors.openldap.entries import (
    ACCOUNTS,
    STATE,
    PasswordPolicy,
    bases_in,
    find_entry,
    finding_of,
    metadata_of,
    read_policy,
    template_dn,
)
from connectors.passwords import plain_password_of
from pam_jobs.errors import AuthRejected, Effect, Forbidden, TargetError, Unsupported, WrongTarget
from pam_jobs.secret import SecretValue

__all__ = ["OpenldapConnector", "OpenldapSession"]

_MODIFY_PASSWORD: Final = "1.3.6.1.4.1.4203.1.11.1"  # noqa: S105 - an object identifier
_NO_NAME: Final = "set distinguishedName in the user record, or the custom field User DN Template of the resource"


class OpenldapConnector(KeepingConnector[Link]):
    """OpenLDAP 2.4 and newer, and what speaks LDAPv3 with userPassword like it."""

    name: ClassVar[str] = "openldap"
    protocols: ClassVar[frozenset[str]] = frozenset({"ldap", "ldaps"})
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CHANGE, Capability.PROBE, Capability.DISCOVER, Capability.METADATA}
    )

    def __init__(self, kept: KeptConnections[Link] | None = None) -> None:
        """Start with no connection.

        Args:
            kept: where rotators' connections wait for their next session; one with the usual bounds when absent.
        """
        self.kept = kept or KeptConnections(is_usable=Link.is_idle, close=Link.close)

    def open(self, target: Target, rotator: Credential | None, deadline: Deadline) -> OpenldapSession:
        """Connect as the rotator, over a kept connection where there is one.

        Raises:
            NotApplied: with the cause; nothing on the target changed.
        """
        return OpenldapSession(self.kept, target, rotator, deadline).connect()

    def recognise(self, host: str, port: int, deadline: Deadline) -> Service | None:
        """Return the service when it answers as a directory does, in the clear or within TLS, without a login."""
        found = recognised(host, port, deadline)
        return found if found is not None and found.facts["directory_type"] == "openldap" else None


class OpenldapSession(DirectorySession):
    """A session on one server."""

    def __init__(
        self, kept: KeptConnections[Link], target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(kept, target, rotator, deadline)
        self._names: dict[str, str] = {}  # logins whose entries this session found

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed, and what the password policy demands.

        Rights are learned by asking to take away a value of userPassword that is not there: the server refuses that
        for want of rights, or because there is no such value, and either way changes nothing.

        Raises:
            Forbidden: the rotator may not change the account's password.
            Unsupported: there is no such account, or the server takes no change.
            TargetError: anything else the server said.
        """
        link = self._require_link()
        with mapped(sent=False):
            self._check_server(link)
            self._ends_demand()
            entry = self._entry(link, account)
            is_self = same_dn(link.bound_dn, entry.dn)
            policy = PasswordPolicy()
            if not (is_self and link.must_change):
                policy = read_policy(link, entry, self._target.options, self._bases(link))
                self._check_rights(link, entry, is_self=is_self)
        if is_self and not policy.may_change_own:
            raise Forbidden("the password policy lets nobody change his own password", remedy="rotate by an admin")
        return Preflight(
            server=self._server(link), is_self=is_self, account_exists=True, min_length=policy.min_length,
            max_length=policy.max_length, forbidden_characters="\0",
        )  # fmt: skip

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the password.

        Effect on target: one password modify operation (RFC 3062), or where the server has none one change of
        userPassword. A value that the policy refuses because it is the account's own already counts as applied, once a
        login has shown it.

        Raises:
            NotApplied: the account is certainly as it was.
            EffectUnknown: the connection ended after the request was sent.
        """
        password = plain_password_of(candidate)
        link = self._require_link()
        with mapped(sent=False):
            self._check_server(link)
            self._ends_demand()
            dn = self._entry(link, account).dn
            uses_operation = self._uses_operation(link)
        is_self = same_dn(link.bound_dn, dn)
        self._deadline.check("the change was sent")
        fence()
        try:
            if uses_operation:
                link.modify_password(dn, self._require_rotator().password if is_self else None, password)
            else:
                link.replace(dn, {"userPassword": password.reveal().encode()})
        except FAILURES as error:
            mapped_error = map_error(error, sent=True)
            if not (isinstance(error, LdapRefusal) and error.may_be_the_same and self._logs_in(dn, password)):
                raise mapped_error from None
        if not is_self and self._ends_demand():
            with contextlib.suppress(*FAILURES):  # the password is set all the same; a login tells of the demand
                link.clear(dn, "pwdReset")
        self._after_change(account, dn, password, is_self=is_self)
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in once, afresh."""
        if not credential.password:
            return NO_PASSWORD
        known = credential.distinguished_name or account.distinguished_name
        try:
            link = self._login(replace(credential, distinguished_name=known))
        except Unsupported as error:
            return Verdict(state=VerdictState.UNKNOWN, cause="not_found", detail=error.message)
        except (*FAILURES, TargetError) as error:
            verdict = verdict_of(error)
            return self._why_refused(account, verdict) if verdict.state is VerdictState.REFUSED else verdict
        link.close()
        if link.must_change:
            detail = "the server demands another password at the first use (pwdReset)"
            return Verdict(state=VerdictState.ACCEPTED, cause="change_after_reset", detail=detail)
        if link.policy.grace_logins is not None:
            detail = f"the password has expired; {link.policy.grace_logins} logins are left"
            return Verdict(state=VerdictState.ACCEPTED, cause="expired_in_grace", detail=detail)
        return Verdict(state=VerdictState.ACCEPTED)

    def metadata(self, account: Account) -> AccountMetadata:
        """Return what the password policy keeps about the account."""
        link = self._require_link()
        with mapped(sent=False):
            entry = self._entry(link, account)
            policy = read_policy(link, entry, self._target.options, self._bases(link))
        return metadata_of(entry, policy)

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the accounts below the base, page by page, and what the server did not show."""
        link = self._require_link()
        with mapped(sent=False):
            bases = self._bases(link)
        if not bases:
            yield Unseen(what="accounts", cause="not_permitted", detail="the server names no base: set Base DN")
        wanted = UserMatch.of(self._target.options)
        for base in wanted.bases(bases):
            try:
                for each in link.pages(base, wanted.filter or ACCOUNTS, STATE):
                    if isinstance(each, Entry):
                        if wanted.takes(each.dn):
                            yield finding_of(each)
                    else:
                        yield Unseen(what=each, cause="not_permitted", detail="another server: it was not followed")
            except FAILURES as error:
                yield unseen_of(base, error)

    def _login_rotator(self, rotator: Credential) -> Link:
        with mapped(sent=False):
            try:
                return self._login(rotator)
            except Unsupported as error:
                if rotator.distinguished_name or is_dn(rotator.login):
                    raise
                raise AuthRejected(f"the rotator's name was not found: {error.message}", remedy=_NO_NAME) from None

    def _login(self, credential: Credential) -> Link:
        """Return a new connection on which the credential is logged in.

        Raises:
            Unsupported: the credential's entry cannot be told.
            Exception: one of ``FAILURES``.
        """
        link = Link.connect(self._target, self._deadline)
        try:
            name = credential.distinguished_name or self._name_of(credential.login, link)
            link.use(self._deadline)
            link.log_in(name, credential.password or SecretValue(""))
        except BaseException:
            link.close()
            raise
        return link

    def _name_of(self, login: str, anonymous: Link) -> str:
        """Return the distinguished name of a login, found as the rotator, else by the template, else by anybody."""
        if is_dn(login):
            return login
        template = self._target.options.get("user_dn_template", "").strip()
        if login in self._names:
            return self._names[login]
        if self._link is None and template:
            return template_dn(template, login)
        link = self._link or anonymous
        self._names[login] = find_entry(link, login, bases_in(link.root(), self._target.options)).dn
        return self._names[login]

    def _entry(self, link: Link, account: Account) -> Entry:
        """Return the account's entry.

        Raises:
            Unsupported: it is not there, or the rotator does not see it.
            Exception: one of ``FAILURES``.
        """
        dn = account.distinguished_name or (account.login if is_dn(account.login) else None)
        if link.must_change:  # it may read nothing: only its own name is known
            if dn is None or same_dn(dn, link.bound_dn):
                return Entry(link.bound_dn)
            raise Forbidden("the rotator must first change its own password", remedy="rotate the rotator's record")
        if dn is None:
            entry = find_entry(link, account.login, self._bases(link))
            self._names[account.login] = entry.dn
            return entry
        try:
            found = link.search(dn, "(objectClass=*)", STATE, "base")
        except LdapRefusal as refusal:
            if refusal.code != NO_SUCH_OBJECT:
                raise
            found = []
        if not found:
            remedy = "correct distinguishedName in the user record, or let the rotator read the entry"
            raise Unsupported(f"there is no entry {dn!r}", remedy=remedy)
        return found[0]

    def _check_server(self, link: Link) -> None:
        """Refuse a directory whose passwords are not in userPassword.

        Raises:
            WrongTarget: it is Active Directory.
        """
        if link.must_change or ACTIVE_DIRECTORY not in self._root_of(link).all("supportedCapabilities"):
            return
        remedy = "set directoryType of the resource to active_directory"
        raise WrongTarget("this is Active Directory, which keeps its passwords elsewhere", remedy=remedy)

    @staticmethod
    def _check_rights(link: Link, entry: Entry, *, is_self: bool) -> None:
        """Learn whether the rotator may write the password, by a change that cannot succeed.

        Raises:
            Forbidden: it may not.
            Unsupported: the entry has no such attribute, or the server takes no writes.
        """
        try:
            link.delete_value(entry.dn, "userPassword", b"{ABSENT}" + secrets.token_hex(24).encode())
        except LdapRefusal as refusal:
            error = map_error(
                refusal, sent=False
            )  # the usual noSuchAttribute, as all that is doubtful, forbids nothing
            supplies_old = is_self and refusal.policy.error is PolicyError.MUST_SUPPLY_OLD_PASSWORD
            if isinstance(error, Forbidden | Unsupported) and not supplies_old:
                raise error from None

    def _ends_demand(self) -> bool:
        """Say whether an admin's change ends the demand for another password at the first use, which it began itself.

        Raises:
            Unsupported: the option has no known value.
        """
        wish = self._target.options.get("change_at_next_logon", "").strip().casefold() or "keep"
        if wish not in {"keep", "clear"}:
            raise Unsupported(f"{wish!r} is no value of Change At Next Logon", remedy="use keep (default) or clear")
        return wish == "clear"

    def _uses_operation(self, link: Link) -> bool:
        """Say whether the server offers RFC 3062, and the record does not forbid it."""
        if self._target.options.get("password_change", "").strip().casefold() == "userpassword":
            return False
        return link.must_change or _MODIFY_PASSWORD in self._root_of(link).all("supportedExtension")

    def _logs_in(self, dn: str, password: SecretValue) -> bool:
        login = Credential(login=dn, distinguished_name=dn, password=password)
        try:
            self._login(login).close()
        except (*FAILURES, TargetError):
            return False
        return True

    def _why_refused(self, account: Account, verdict: Verdict) -> Verdict:
        """Look whether the account is locked: servers by default then refuse the right password in the same words."""
        if self._link is None:
            return verdict
        with contextlib.suppress(TargetError):
            told = self.metadata(account)
            if told.locked:
                detail = "the account is locked, so every password is refused"
                return Verdict(state=VerdictState.LOCKED, cause="locked", detail=detail)
        return verdict

    def _bases(self, link: Link) -> list[str]:
        return bases_in(self._root_of(link), self._target.options)

    def _server(self, link: Link) -> str:
        product = "LDAP server" if link.must_change else product_of(self._root_of(link))
        return f"{product}, {link.transport}, {'RFC 3062' if self._uses_operation(link) else 'userPassword'}"

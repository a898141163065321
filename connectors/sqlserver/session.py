"""A session on one SQL Server: what it may change, the change, and logins that prove it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from connectors.base import (
    Account,
    AccountMetadata,
    Candidate,
    Credential,
    Deadline,
    Fence,
    Finding,
    Preflight,
    Target,
    Unseen,
    Verdict,
    VerdictState,
)
from connectors.errors import NO_PASSWORD, untried
from connectors.kept import KeptKey, KeptSession
from connectors.options import is_wanted
from connectors.passwords import password_of
from connectors.sqlserver.errors import FAILURES, ServerRefusal, map_error, mapped, verdict_of
from connectors.sqlserver.link import Link
from connectors.sqlserver.quoting import LONGEST, alter_login, alter_user, checked_name, checked_password
from connectors.sqlserver.server import (
    Principal,
    Server,
    contained_user,
    contained_users,
    lock_batch,
    logins,
    look_at,
    server_login,
    unlock_batch,
)
from pam_jobs.errors import Effect, Forbidden, NotApplied, TargetError, Unsupported

if TYPE_CHECKING:
    from connectors.sqlserver.connector import SqlserverConnector

__all__ = ["DEFAULT_DATABASE", "SqlserverSession"]

DEFAULT_DATABASE = "master"  # every login may open it
_POLICY_LENGTH = 8  # of Windows' usual policy; the server does not tell its own
_RIGHTS = (
    "give the rotator ALTER ANY LOGIN; for members of sysadmin CONTROL SERVER; in a contained database ALTER ANY USER"
)
_HISTORY = frozenset({15114, 15115})  # refused as used before or too young: the value may be the present one


class SqlserverSession(KeptSession[Link]):
    """A session on one server; its first connection is to where the rotator is contained, else to what all may open."""

    def __init__(
        self, connector: SqlserverConnector, target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        if rotator is not None:
            rotator = replace(rotator, database=rotator.database or DEFAULT_DATABASE)
        super().__init__(connector.kept, target, rotator, deadline)
        self._connector = connector
        self._elsewhere: dict[str, tuple[Link, KeptKey | None]] = {}  # the rotator's other connections, by database
        self._server: Server | None = None

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed, and whether a login could prove it.

        Raises:
            Forbidden: the rotator may not change the account.
            Unsupported: there is no such account, its password is kept elsewhere, or no login with it could succeed.
            TargetError: anything else the server said.
        """
        is_wanted(self._target.options, "Unlock")  # a wrong value is told before anything is changed
        found, is_own = self._find(account)
        server = self._look()
        if found.is_disabled:
            raise Unsupported(
                f"login {account.login!r} is disabled", remedy="ALTER LOGIN … ENABLE, or remove the rotation"
            )
        place = f", contained in {self._database_of(account)}" if found.is_contained else ""
        return Preflight(
            server=f"{server.title}{place}", is_self=is_own, account_exists=True, forbidden_characters="\0",
            min_length=_POLICY_LENGTH if found.has_policy or found.is_contained else None, max_length=LONGEST,
        )  # fmt: skip

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the password.

        Effect on target: one ``ALTER LOGIN``, or ``ALTER USER`` in the account's database, under a lock on its name.

        Raises:
            NotApplied: the account is certainly as it was.
            EffectUnknown: the connection ended after the statement was sent.
        """
        password = checked_password(password_of(candidate).reveal())
        found, is_own = self._find(account)
        link = self._link_to(self._database_of(account)) if found.is_contained else self._require_link()
        statement = self._statement(found, password, is_own=is_own)
        self._check_private()
        self._deadline.check("the change was sent")
        with self._alone(link, account):
            fence()
            try:
                link.query(statement, self._deadline)
            except ServerRefusal as refusal:
                error = map_error(refusal, sent=True)
                if refusal.number not in _HISTORY or not self._is_present(account, candidate):
                    raise error from None
            except FAILURES as error:
                raise map_error(error, sent=True) from None
        self._changed(account.login, candidate.password, is_self=is_own)
        if is_own:
            self._elsewhere = {database: (link, None) for database, (link, _) in self._elsewhere.items()}
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in once, afresh, and see that it was the account that was reached."""
        if not credential.password:
            return NO_PASSWORD
        wanted = replace(credential, database=credential.database or self._database_of(account))
        try:
            checked_name(account.login)
            link = self._connector.login(self._target, wanted, self._deadline)
        except TargetError as error:
            return untried(error)
        except FAILURES as error:
            return self._why_refused(verdict_of(error))
        try:
            reached = str(link.query("SELECT ORIGINAL_LOGIN() AS login", self._deadline)[0][0])
        except FAILURES as error:
            return verdict_of(error)
        finally:
            link.close()
        if reached.casefold() != account.login.casefold():
            detail = f"the server took the login for {reached}"
            return Verdict(state=VerdictState.UNKNOWN, cause="other_account", detail=detail)
        return Verdict(state=VerdictState.ACCEPTED)

    def metadata(self, account: Account) -> AccountMetadata:
        """Return what the server tells of the login: locked, disabled, last set, expiry; of a contained user nothing."""
        try:
            found, _ = self._find(account)
        except (Forbidden, Unsupported):
            return AccountMetadata()
        if found.is_contained:
            return AccountMetadata()
        expires = datetime.now(UTC) + timedelta(days=found.days) if found.days is not None else None
        return AccountMetadata(
            last_set=found.last_set, locked=found.is_locked, disabled=found.is_disabled, expires=expires
        )

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the SQL logins of the server, and the users contained in the database that the resource names."""
        server, link = self._look(), self._require_link()
        with mapped(sent=False):
            found = logins(link, server, self._deadline)
        for each in found:
            facts: dict[str, str | bool | int] = {
                "disabled": each.is_disabled, "locked": each.is_locked, "policy": each.has_policy,
                "sysadmin": each.is_sysadmin,
            }  # fmt: skip
            yield Finding(kind="users", name=each.name, facts=facts)
        if not server.may_alter:
            yield Unseen(what="other logins", cause="not_permitted", detail="that takes ALTER ANY LOGIN")
        if self._target.database:
            link = self._link_to(self._target.database)
            with mapped(sent=False):
                names = contained_users(link, self._deadline)
            yield from (Finding(kind="users", name=name, facts={"database": self._target.database}) for name in names)

    def close(self) -> None:
        """Give the connections back to be kept, or close them; never raises."""
        links, self._elsewhere = self._elsewhere, {}
        for link, key in links.values():
            self._kept.put_back(key, link)
        super().close()

    def _log_in(self, rotator: Credential) -> Link:
        with mapped(sent=False):
            return self._connector.login(self._target, rotator, self._deadline)

    def _database_of(self, account: Account) -> str:
        return account.database or self._target.database or DEFAULT_DATABASE

    def _link_to(self, database: str) -> Link:
        """Return the rotator's connection to the database: one of this session, a kept one, or a new one.

        Raises:
            Unsupported: there is no rotator.
            NotApplied: with the cause; nothing on the target changed.
        """
        rotator = self._require_rotator()
        if database == rotator.database:
            return self._require_link()
        if database not in self._elsewhere:
            self._elsewhere[database] = self._taken(replace(rotator, database=database))
        return self._elsewhere[database][0]

    def _find(self, account: Account) -> tuple[Principal, bool]:
        """Return the account, and whether it is the rotator itself.

        Raises:
            Forbidden: the rotator may not change it.
            Unsupported: there is none, or its password is kept elsewhere.
        """
        name = checked_name(account.login)
        server = self._look()
        database = self._database_of(account)
        if database != DEFAULT_DATABASE:
            link = self._link_to(database)
            with mapped(sent=False):
                user = contained_user(link, name, self._deadline)
            if user is not None:
                return self._allowed_user(user, database)
        link = self._require_link()
        with mapped(sent=False):
            found = server_login(link, name, server, self._deadline)
        if found is None:
            if not server.may_alter:  # it sees only itself
                raise Forbidden(f"the rotator may not change login {name!r}", remedy=_RIGHTS)
            raise Unsupported(
                f"there is no login {name!r}", remedy="check login and connectDatabase of the user record"
            )
        if not found.has_password:
            raise Unsupported(
                f"login {name!r} is a {found.kind}, whose password this server does not keep",
                remedy="rotate it where its password is kept",
            )
        is_own = found.name.casefold() == server.login.casefold()
        if not (is_own or server.controls or (server.may_alter and not found.is_sysadmin)):
            raise Forbidden(f"the rotator may not change login {name!r}", remedy=_RIGHTS)
        if server.windows_only:
            raise Unsupported("the server takes Windows logins alone", remedy="allow SQL Server authentication")
        return found, is_own

    def _allowed_user(self, user: Principal, database: str) -> tuple[Principal, bool]:
        if user.is_read_only:
            raise Unsupported(f"the database {database!r} is read-only", remedy="point the record at the primary")
        if not (user.may_alter or user.is_own):
            raise Forbidden(f"the rotator may not change user {user.name!r} of {database!r}", remedy=_RIGHTS)
        return user, user.is_own

    def _statement(self, found: Principal, password: str, *, is_own: bool) -> str:
        """Return the statement; an account that has no right on others has to tell its present password."""
        server = self._look()
        tells_old = is_own and not (found.may_alter if found.is_contained else server.may_alter)
        old = self._require_rotator().password
        present = old.reveal() if tells_old and old else None
        if found.is_contained:
            return alter_user(found.name, password, old=present)
        unlocks = is_wanted(self._target.options, "Unlock") and server.may_alter
        return alter_login(found.name, password, old=present, unlocks=unlocks)

    def _check_private(self) -> None:
        """Make sure that the statement, which holds the secret, is encrypted or never leaves this machine.

        Raises:
            Unsupported: it would travel in clear without anybody having said so.
        """
        if not self._connector.is_private(self._target):
            raise Unsupported(
                "the password would cross the network in clear", remedy="remove sslmode from the resource record"
            )

    @contextlib.contextmanager
    def _alone(self, link: Link, account: Account) -> Iterator[None]:
        """Hold the lock on the account's name, so that of two attempts the later one waits, and none outlives its time."""
        name = "pam-jobs-" + hashlib.sha256(account.login.casefold().encode()).hexdigest()[:40]
        milliseconds = max(1, int((self._deadline.remaining() - 0.5) * 1000))
        with mapped(sent=False):
            held = link.query(lock_batch(name, milliseconds), self._deadline)
        if held[0][0] not in {0, 1}:
            raise NotApplied("another change of this account is under way", remedy="try again when it has ended")
        try:
            yield
        finally:
            with contextlib.suppress(*FAILURES):
                if link.is_open:
                    link.query(unlock_batch(name), Deadline(min(2.0, self._deadline.remaining())))

    def _is_present(self, account: Account, candidate: Candidate) -> bool:
        """Say whether the refused value is the account's already, as after an answer that was lost."""
        return self.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED

    def _why_refused(self, verdict: Verdict) -> Verdict:
        """Look whether the server refuses every SQL login, which it does by the same number."""
        if verdict.state is VerdictState.REFUSED and self._link is not None:
            with contextlib.suppress(TargetError):
                if self._look().windows_only:
                    return Verdict(state=VerdictState.UNKNOWN, cause="method_not_allowed", detail=verdict.detail)
        return verdict

    def _look(self) -> Server:
        """Return what the server says of itself, asked once in a session."""
        if self._server is None:
            link = self._require_link()
            with mapped(sent=False):
                self._server = look_at(link, self._deadline)
        return self._server

"""A session on one Oracle database: what it may change, the change, and logins that prove it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Self

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
from connectors.kept import KeptSession
from connectors.oracle.database import Database, User, find_user, look_at, shortest, users
from connectors.oracle.errors import FAILURES, ServerRefusal, map_error, mapped, verdict_of
from connectors.oracle.link import Link
from connectors.oracle.quoting import FORBIDDEN, alter_user, checked_password, stored_name
from connectors.passwords import password_of
from pam_jobs.errors import Effect, Forbidden, Locked, PamJobsError, TargetError, Unsupported
from pam_jobs.secret import SecretValue

if TYPE_CHECKING:
    from connectors.oracle.connector import OracleConnector

__all__ = ["OracleSession"]

_EXPIRED, _REUSED, _GRACE = 28001, 28007, 28002
_ROOT = "CDB$ROOT"
_SHORT = 30  # bytes of a password where nothing is known of the database


class OracleSession(KeptSession[Link]):
    """A session on one database."""

    def __init__(
        self, connector: OracleConnector, target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(connector.kept, target, rotator, deadline)
        self._connector = connector
        self._database: Database | None = None
        self._expired = False  # the rotator's own password: it logs in with a new one only

    def connect(self) -> Self:
        """Log in as the rotator, unless there is none, or its password has expired.

        Raises:
            NotApplied: with the cause.
        """
        try:
            super().connect()
        except ServerRefusal:
            self._expired = True
        return self

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed, and whether a login could prove it.

        Raises:
            Forbidden: the rotator may not change the user.
            Unsupported: there is no such user, its password is kept elsewhere, or this container cannot change it.
            Locked: the user is locked, so that no password would log in; or the rotator's own has expired.
            TargetError: anything else the database said.
        """
        if self._is_expired_self(account):
            return Preflight(
                server="Oracle Database, the password has expired", is_self=True, account_exists=True,
                max_length=_SHORT, forbidden_characters=FORBIDDEN,
            )  # fmt: skip
        found, database = self._find(account)
        if "LOCKED" in found.status and found.name != database.me:
            raise Locked(f"user {found.name!r} is {found.status}", remedy="ALTER USER … ACCOUNT UNLOCK")
        with mapped(sent=False):
            least = shortest(self._require_link(), found, self._deadline)
        return Preflight(
            server=database.title, is_self=found.name == database.me, account_exists=True, min_length=least,
            max_length=database.longest, forbidden_characters=FORBIDDEN,
        )  # fmt: skip

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the password.

        Effect on target: one ``ALTER USER``; of a rotator that has expired a login that brings the new password.

        Raises:
            NotApplied: the user is certainly as it was.
            EffectUnknown: the connection ended after the statement was sent.
        """
        secret = password_of(candidate)
        if self._is_expired_self(account):
            return self._renew(secret, fence)
        found, database = self._find(account)
        password = checked_password(secret.reveal(), database.longest)
        present = self._require_rotator().password
        tells_old = found.name == database.me and not database.may_alter
        statement = alter_user(found.name, password, present.reveal() if tells_old and present else None)
        self._connector.check_private(self._target)
        self._deadline.check("the change was sent")
        link = self._require_link()
        with mapped(sent=False):
            seconds = max(1, int(self._deadline.remaining() - 0.5))
            link.query(f"ALTER SESSION SET DDL_LOCK_TIMEOUT = {seconds}", (), self._deadline)
        fence()
        try:
            link.query(statement, (), self._deadline)
        except ServerRefusal as refusal:
            if refusal.code != _REUSED or not self._is_present(account, candidate):
                raise map_error(refusal, sent=True) from None
        except FAILURES as error:
            raise map_error(error, sent=True) from None
        self._changed(account.login, candidate.password, is_self=found.name == database.me)
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in once, afresh, and see that it was the user that was reached."""
        if not credential.password:
            return NO_PASSWORD
        try:
            wanted = stored_name(account.login)
            link = self._connector.login(self._target, credential, self._deadline)
        except TargetError as error:
            return untried(error)
        except FAILURES as error:
            return verdict_of(error)
        try:
            warned = link.warning
            reached = link.query("SELECT SYS_CONTEXT('USERENV', 'SESSION_USER') AS me FROM dual", (), self._deadline)[
                0
            ][0]
        except FAILURES as error:
            return verdict_of(error)
        finally:
            link.close()
        if reached != wanted:
            detail = f"the database took the login for {reached}"
            return Verdict(state=VerdictState.UNKNOWN, cause="other_account", detail=detail)
        return Verdict(state=VerdictState.ACCEPTED, cause="expired_in_grace" if warned == _GRACE else "")

    def metadata(self, account: Account) -> AccountMetadata:
        """Return what the database tells of the user: locked, last set, expiry."""
        try:
            found, _ = self._find(account)
        except (Forbidden, Unsupported):
            return AccountMetadata()
        return AccountMetadata(last_set=found.changed, locked="LOCKED" in found.status, expires=found.expires)

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the users that the database's administrators made."""
        link, database = self._require_link(), self._look()
        try:
            found = users(link, self._deadline)
        except ServerRefusal:
            yield Finding(kind="users", name=database.me, facts={})
            yield Unseen(what="other users", cause="not_permitted", detail="that takes SELECT_CATALOG_ROLE")
            return
        except FAILURES as error:
            raise map_error(error, sent=False) from None
        for each in found:
            facts: dict[str, str | bool | int] = {
                "status": each.status, "profile": each.profile, "common": each.is_common,
                "authentication": each.authentication,
            }  # fmt: skip
            yield Finding(kind="users", name=each.name, facts=facts)

    def _log_in(self, rotator: Credential) -> Link:
        """Return a new connection on which the rotator is logged in.

        Raises:
            ServerRefusal: the password has expired, and nothing else.
            NotApplied: with the cause.
        """
        try:
            return self._connector.login(self._target, rotator, self._deadline)
        except FAILURES as error:
            if isinstance(error, ServerRefusal) and error.code == _EXPIRED:
                raise
            raise map_error(error, sent=False) from None

    def _find(self, account: Account) -> tuple[User, Database]:
        """Return the user, which the rotator may change, and the database.

        Raises:
            Forbidden: the rotator may not change it.
            Unsupported: there is none, or this session cannot change it.
        """
        name = stored_name(account.login)
        database = self._look()
        link = self._require_link()
        if name != database.me and not database.may_alter:
            raise Forbidden(f"the rotator may not change user {name!r}", remedy="GRANT ALTER USER to the rotator")
        if not database.is_primary:
            raise Unsupported("the database is a standby", remedy="point the resource record at the primary")
        with mapped(sent=False):
            found = find_user(link, name, self._deadline)
        if found is None:
            remedy = "check the login in the user record, and that the rotator has SELECT_CATALOG_ROLE"
            raise Unsupported(f"there is no user {name!r} in container {database.container}", remedy=remedy)
        if found.authentication != "PASSWORD":
            raise Unsupported(
                f"user {name!r} is {found.authentication}: its password is not kept here",
                remedy="rotate it where its password is kept",
            )
        if found.is_common and database.container != _ROOT:
            raise Unsupported(
                f"user {name!r} is common to all containers",
                remedy="rotate it in the root: set connectDatabase of the resource to the root's service",
            )
        return found, database

    def _is_expired_self(self, account: Account) -> bool:
        """Say whether the account is the rotator, whose password has expired.

        Raises:
            Locked: the rotator has expired, and the account is another.
        """
        if not self._expired:
            return False
        if stored_name(account.login) != stored_name(self._require_rotator().login):
            raise Locked("the rotator's password has expired", remedy="rotate the rotator first")
        return True

    def _renew(self, password: SecretValue, fence: Fence) -> Effect:
        """Log in with old and new password at once, both encrypted by the protocol itself."""
        checked_password(password.reveal(), _SHORT)
        rotator = self._require_rotator()
        self._deadline.check("the change was sent")
        fence()
        try:
            link = self._connector.login(self._target, rotator, self._deadline, new_password=password)
        except FAILURES as error:
            raise map_error(error, sent=True) from None
        link.close()
        self._rotator, self._expired = replace(rotator, password=password), False
        with contextlib.suppress(PamJobsError):  # the password is set, whatever becomes of the next login
            self.connect()
        return Effect.APPLIED

    def _is_present(self, account: Account, candidate: Candidate) -> bool:
        """Say whether the refused value is the user's already, as after an answer that was lost."""
        return self.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED

    def _look(self) -> Database:
        """Return what the database says of itself, asked once in a session."""
        if self._database is None:
            link = self._require_link()
            with mapped(sent=False):
                self._database = look_at(link, self._deadline)
        return self._database

    def _require_link(self) -> Link:
        if self._expired:
            raise Locked("the rotator's password has expired", remedy="rotate the rotator first")
        return super()._require_link()

"""A session on one MySQL or MariaDB server: what it may change, the change, and logins that prove it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
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
from connectors.mysql.accounts import (
    Identity,
    check_plugin,
    discard_old,
    from_mariadb,
    from_mysql,
    lock_name,
    parse_login,
    reached_from,
)
from connectors.mysql.change import Change, Found, check_dual, keeps_old, planned
from connectors.mysql.errors import FAILURES, ServerRefusal, map_error, mapped, verdict_of
from connectors.mysql.link import Link, Row
from connectors.mysql.server import Server, look_at, name_of
from connectors.passwords import plain_password_of
from pam_jobs.errors import (
    Effect,
    Forbidden,
    NotApplied,
    TargetError,
    Unsupported,
)

if TYPE_CHECKING:
    from connectors.mysql.connector import MysqlConnector

__all__ = ["MysqlSession"]

_SETTINGS = "SET NAMES utf8mb4, autocommit = 1, sql_mode = ''"  # what the quoting relies on
_MARIADB_ACCOUNTS = "SELECT User, Host, Priv FROM mysql.global_priv"
_MYSQL_ACCOUNTS = (
    "SELECT user, host, plugin, ssl_type, account_locked, password_expired,"
    " UNIX_TIMESTAMP(password_last_changed), password_lifetime, {} FROM mysql.user"
)
_CANNOT_USER = 1396
_IDLE_SECONDS = (
    60  # after which the server ends a connection that holds the lock; the fence is all that happens meanwhile
)
_WITHIN = "SET STATEMENT max_statement_time = %s FOR "  # so that nothing happens after we have given up
_OF_USER = " WHERE user IN (%s, '')"
_PROTOCOL_PLUGINS = {
    "client_ed25519": "ed25519",
    "": "mysql_native_password",
}  # as the protocol, and as the server calls it


class MysqlSession(KeptSession[Link]):
    """A session on one server."""

    def __init__(
        self, connector: MysqlConnector, target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(connector.kept, target, rotator, deadline)
        self._connector = connector
        self._server: Server | None = None

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed, and whether a login from here could prove it.

        Raises:
            Forbidden: the rotator may not change the account.
            Unsupported: there is no such account, its password is kept elsewhere, no login from here reaches it, or the
                server takes no change.
            TargetError: anything else the server said.
        """
        found = self._find(account)
        server = self._look()
        if server.is_read_only:
            raise Unsupported("the server is read-only", remedy="point the resource record at the primary")
        for each in found.accounts:
            check_plugin(each)
        check_dual(self._target.options, found, server)
        self._check_ways_in(account, found, server)
        names = ", ".join(each.name for each in found.accounts)
        return Preflight(
            server=f"{server.title}, accounts {names}", is_self=found.is_own, account_exists=True,
            min_length=server.min_length, forbidden_characters="\0",
        )  # fmt: skip

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the password of every account that the login names.

        Effect on target: one ``ALTER USER``, or ``SET PASSWORD`` of the rotator itself, under a lock on the user's name.

        Raises:
            NotApplied: the accounts are certainly as they were.
            EffectUnknown: the connection ended after the statement was sent, or some of several accounts were refused.
        """
        password = plain_password_of(candidate).reveal().encode()
        found = self._find(account)
        change = self._plan(found, password)
        statement, values = change.statement, change.values
        self._deadline.check("the change was sent")
        with self._alone(account) as seconds:
            if self._look().is_mariadb:  # its ALTER USER waits for a backup's lock without regard to lock_wait_timeout
                statement, values = _WITHIN + statement, (seconds, *values)
            fence()
            try:
                self._require_link().query(statement, values, self._deadline)
            except ServerRefusal as refusal:
                raise map_error(self._reason(refusal), sent=True, several=len(found.accounts) > 1) from None
            except FAILURES as error:
                raise map_error(error, sent=True) from None  # the driver's text may quote what it was given
            if change.discards:
                with contextlib.suppress(*FAILURES):  # the change stands; the next one tries again
                    self._require_link().query(*discard_old(change.discards), self._deadline)
        user = parse_login(account.login).user
        self._changed(user, candidate.password, is_self=user == parse_login(self._require_rotator().login).user)
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in once, afresh, and see that it was the account that was reached."""
        if not credential.password:
            return NO_PASSWORD
        try:
            wanted = parse_login(account.login)
            link = self._connector.login(self._target, credential, self._deadline)
        except TargetError as error:
            return untried(error)
        except FAILURES as error:
            return self._why_refused(account, verdict_of(error))
        try:
            user, host = name_of(link.query("SELECT CURRENT_USER()", (), self._deadline)[0][0])
        except FAILURES as error:
            return verdict_of(error)
        finally:
            link.close()
        if user != wanted.user or (wanted.host is not None and host.casefold() != wanted.host.casefold()):
            detail = f"the server took the login for the account {user}@{host}"
            return Verdict(state=VerdictState.UNKNOWN, cause="other_account", detail=detail)
        return Verdict(state=VerdictState.ACCEPTED)

    def metadata(self, account: Account) -> AccountMetadata:
        """Return what the server tells of the accounts that the login names: locked, last set, expiry."""
        try:
            found = self._find(account)
        except (Forbidden, Unsupported):
            return AccountMetadata()
        if found.by_itself:
            return AccountMetadata()
        server = self._look()
        sets = [each.last_set for each in found.accounts if each.last_set]
        ends = []
        for each in found.accounts:
            days = server.lifetime_days if each.lifetime_days is None else each.lifetime_days
            if each.last_set and days:
                ends.append(each.last_set + timedelta(days=days))
        return AccountMetadata(
            last_set=min(sets, default=None), locked=any(each.is_locked for each in found.accounts),
            expires=min(ends, default=None),
        )  # fmt: skip

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the users of the server, each with its hosts."""
        try:
            accounts = self._accounts("", ())
        except Forbidden:
            own, _ = name_of(self._query("SELECT CURRENT_USER()", ())[0][0])
            yield Finding(kind="users", name=own, facts={})
            yield Unseen(what="other accounts", cause="not_permitted", detail="that takes SELECT ON mysql.*")
            return
        for user in sorted({each.user for each in accounts if each.user}):
            of_user = [each for each in accounts if each.user == user]
            facts: dict[str, str | bool | int] = {
                "hosts": ", ".join(sorted(each.host for each in of_user)),
                "plugin": ", ".join(sorted({plugin for each in of_user for plugin, _ in each.methods})),
                "locked": all(each.is_locked for each in of_user),
            }
            yield Finding(kind="users", name=user, facts=facts)

    def _log_in(self, rotator: Credential) -> Link:
        with mapped(sent=False):
            link = self._connector.login(self._target, rotator, self._deadline)
            try:
                link.query(_SETTINGS, (), self._deadline)
            except BaseException:
                link.close()
                raise
            return link

    def _key_of(self, rotator: Credential) -> KeptKey:
        return super()._key_of(replace(rotator, login=parse_login(rotator.login).user))

    def _find(self, account: Account) -> Found:
        """Return the accounts that the login names and that the rotator may change.

        Raises:
            Forbidden: the rotator may not change them.
            Unsupported: there is none.
        """
        wanted = parse_login(account.login)
        server = self._look()
        is_own_name = server.user == wanted.user and wanted.host in {None, server.host}
        if is_own_name and not server.may_create_users:
            plugin = self._require_link().plugin
            methods = ((_PROTOCOL_PLUGINS.get(plugin, plugin), ""),)
            own = Identity(user=server.user, host=server.host, methods=methods)
            return Found(accounts=(own,), is_own=True, by_itself=True)
        if not server.may_create_users:
            raise Forbidden(
                f"the rotator {server.user}@{server.host} may not change other accounts",
                remedy="give it CREATE USER ON *.* and SELECT ON mysql.*",
            )
        everybody = self._accounts(_OF_USER, (wanted.user,))
        of_user = [each for each in everybody if each.user == wanted.user]  # the server ignores spaces at the end
        chosen = tuple(
            each for each in of_user if wanted.host is None or each.host.casefold() == wanted.host.casefold()
        )
        if not chosen:
            others = ", ".join(each.name for each in of_user)
            remedy = f"use one of {others}" if others else "check the login in the user record"
            raise Unsupported(f"there is no account {account.login!r}", remedy=remedy)
        if wanted.host is None:  # of all hosts those with a password; a socket's or a directory's stay as they are
            chosen = tuple(each for each in chosen if each.has_password) or chosen
        is_own = any((each.user, each.host) == (server.user, server.host) for each in chosen)
        return Found(accounts=chosen, is_own=is_own, by_itself=False)

    def _accounts(self, condition: str, values: Sequence[str]) -> list[Identity]:
        if self._look().is_mariadb:
            made = [from_mariadb(*row) for row in self._query(_MARIADB_ACCOUNTS + condition, values)]
            return [each for each in made if each is not None]
        columns = _MYSQL_ACCOUNTS.format("user_attributes" if self._look().keeps_two else "NULL")
        return [from_mysql(row) for row in self._query(columns + condition, values)]

    def _check_ways_in(self, account: Account, found: Found, server: Server) -> None:
        """Make sure that a login from here would reach an account that is changed: nothing else proves the change.

        Raises:
            Unsupported: it would not.
        """
        if found.by_itself:
            return
        everybody = self._accounts(_OF_USER, (found.accounts[0].user,))
        mine = [each for each in everybody if each.user in {found.accounts[0].user, ""}]
        reached = reached_from(mine, server.seen_as)
        if isinstance(reached, str):
            return
        place = " or ".join(server.seen_as)
        if reached is None:
            raise Unsupported(
                f"no host of {account.login!r} lets the gateway in, which the server sees as {place}",
                remedy="create the account for that address too, so that a login can prove the password",
            )
        if (reached.user, reached.host) not in {(each.user, each.host) for each in found.accounts}:
            raise Unsupported(
                f"a login from the gateway reaches the account '{reached.name}', not {account.login!r}",
                remedy=f"set the login to {found.accounts[0].user!r} for all of its hosts, or drop the other account",
            )
        shows = bool(self._target.options.get("ssl_cert"))
        if (reached.ssl == "certificate" and not shows) or (reached.ssl and not self._require_link().is_encrypted):
            raise Unsupported(
                f"the account {reached.name!r} demands {'a client certificate' if reached.ssl != 'any' else 'TLS'}",
                remedy="turn TLS on, name a certificate in ssl_cert, or change what the account REQUIREs",
            )

    def _plan(self, found: Found, password: bytes) -> Change:
        """Return what to send; see ``planned``."""
        server, link, rotator = self._look(), self._require_link(), self._rotator
        check_dual(self._target.options, found, server)
        change = planned(
            found, password, server, current=rotator.password if rotator else None, is_private=link.is_private,
            keeps=keeps_old(self._target.options),
        )  # fmt: skip
        if change.in_clear:
            with contextlib.suppress(*FAILURES):  # few rotators may; MySQL leaves passwords out of its log anyway
                link.query("SET SESSION sql_log_off = 1", (), self._deadline)
        return change

    @contextlib.contextmanager
    def _alone(self, account: Account) -> Iterator[int]:
        """Hold the lock on the user's name, so that of two attempts the later one waits; yield the seconds for the change."""
        link = self._require_link()
        name = lock_name(parse_login(account.login).user)
        seconds = max(1, int(self._deadline.remaining() - 0.5))
        try:
            with mapped(sent=False):
                # The lock ends with its connection, and that of a gateway which died would live for hours.
                link.query("SET lock_wait_timeout = %s, wait_timeout = %s", (seconds, _IDLE_SECONDS), self._deadline)
                held = link.query("SELECT GET_LOCK(%s, %s)", (name, seconds), self._deadline)[0][0]
            if held != 1:
                raise NotApplied("another change of this account is under way", remedy="try again when it has ended")
            yield max(1, int(self._deadline.remaining() - 0.5))
        finally:
            with contextlib.suppress(*FAILURES):
                if link.is_idle():
                    soon = Deadline(min(2.0, self._deadline.remaining()))
                    link.query("DO RELEASE_LOCK(%s)", (name,), soon)
                    # An administrator that changed itself keeps this connection until its new password is durable.
                    link.query("SET wait_timeout = DEFAULT", (), soon)

    def _reason(self, refusal: ServerRefusal) -> ServerRefusal:
        """Return why the server refused: MariaDB keeps the reason of a failed ``ALTER USER`` among its warnings."""
        if refusal.code != _CANNOT_USER:
            return refusal
        with contextlib.suppress(*FAILURES):
            rows = self._require_link().query("SHOW WARNINGS", (), self._deadline)
            inner = [(int(code), str(text)) for _, code, text in rows if int(code) != _CANNOT_USER]
            if inner:
                return ServerRefusal(code=inner[0][0], text=inner[0][1])
        return refusal

    def _why_refused(self, account: Account, verdict: Verdict) -> Verdict:
        """Look whether the account is one that the server refuses with every password, by the same code."""
        if verdict.state is not VerdictState.REFUSED or self._link is None:
            return verdict
        with contextlib.suppress(TargetError):
            self._check_ways_in(account, self._find(account), self._look())
            return verdict
        return Verdict(state=VerdictState.UNKNOWN, cause="not_allowed_from_here", detail=verdict.detail)

    def _look(self) -> Server:
        """Return what the server says of itself, asked once in a session."""
        if self._server is None:
            link = self._require_link()
            with mapped(sent=False):
                self._server = look_at(link, self._deadline)
        return self._server

    def _query(self, statement: str, values: Sequence[object]) -> list[Row]:
        link = self._require_link()
        with mapped(sent=False):
            return link.query(statement, values, self._deadline)

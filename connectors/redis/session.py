"""A session on one Redis server and those that belong to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
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
from connectors.kept import KeptSession
from connectors.passwords import plain_password_of
from connectors.redis.errors import FAILURES, ServerRefusal, mapped, verdict_of
from connectors.redis.link import Link
from connectors.redis.nodes import Node, named, places_of, set_everywhere, told_by
from connectors.redis.users import Keeping, User, check_login, digest, find_user, list_users, look_at, may_set
from pam_jobs.errors import AmbiguousReply, Effect, Forbidden, NotApplied, PolicyRefused, TargetError, Unsupported
from pam_jobs.secret import SecretValue

if TYPE_CHECKING:
    from connectors.redis.connector import RedisConnector

__all__ = ["RedisSession"]

_DEFAULT = "default"
_LONGEST = 16384  # bytes that a client may send before it has logged in
_LONGEST_COMMON = 512  # of the one password before Redis 6
_PERSISTENCE = "persistence"
_MEMORY = "memory"


class RedisSession(KeptSession[Link]):
    """A session on one server and those that belong to it."""

    def __init__(
        self, connector: RedisConnector, target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(connector.kept, target, rotator, deadline)
        self._connector = connector
        self._nodes_known: list[Node] | None = None

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed on every server, and would outlive its restart.

        Raises:
            Forbidden: the rotator may not change the user.
            Unsupported: there is no such user, or the servers could not keep the change.
            TargetError: anything else a server said.
        """
        check_login(account.login)
        nodes = self._nodes()
        for node in nodes:
            self._check(node, account.login)
        first = nodes[0].server
        names = ", ".join(f"{node.place} ({node.server.keeping or 'in memory only'})" for node in nodes)
        return Preflight(
            server=f"{first.title}, {names}",
            is_self=self._is_self(account),
            account_exists=True,
            max_length=_LONGEST if first.has_users else _LONGEST_COMMON,
            forbidden_characters="\0",
        )

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Make the candidate the user's only password, on every server, and let each write it down.

        Effect on target: ``ACL SETUSER`` with a SHA-256, then ``ACL SAVE`` or ``CONFIG REWRITE``.

        Raises:
            NotApplied: every server has the user as it was.
            EffectUnknown: a server did not answer, or could not be set back.
        """
        password = plain_password_of(candidate, most_bytes=_LONGEST)
        check_login(account.login)
        found = [(node, self._check(node, account.login)) for node in self._nodes()]
        self._deadline.check("the change was sent")
        if all(node.server.has_users for node, _ in found):
            set_everywhere(found, account.login, digest(password), fence)
        else:
            self._set_common(found[0][0], password, fence)
        self._changed(account.login, password, is_self=self._is_self(account))
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in once, afresh, to each server that is known; one that is down proves nothing."""
        if not credential.password:
            return NO_PASSWORD
        verdict = self._try(account, credential, self._target)
        if verdict.state is not VerdictState.ACCEPTED:
            return verdict
        for host, port in self._others_to_probe():
            other = self._try(account, credential, replace(self._target, host=host, port=port))
            if other.state not in {VerdictState.ACCEPTED, VerdictState.UNKNOWN}:
                return replace(other, detail=f"{host}:{port}: {other.detail}")
        return verdict

    def metadata(self, account: Account) -> AccountMetadata:
        """Return whether the user is off."""
        with mapped(sent=False):
            try:
                user = find_user(self._require_link(), account.login)
            except ServerRefusal as refusal:
                if refusal.code != "NOPERM" and "unknown command" not in refusal.text:
                    raise
                user = None
        return AccountMetadata() if user is None else AccountMetadata(disabled=not user.is_on)

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the users."""
        try:
            with mapped(sent=False):
                users = list_users(self._require_link())
        except Forbidden:
            yield Unseen(what="users", cause="not_permitted", detail="that takes the right to ACL LIST")
            return
        except Unsupported:
            yield Finding(kind="users", name=_DEFAULT, facts={"shared_by_everybody": True})
            return
        for name, user in sorted(users.items()):
            facts: dict[str, str | bool | int] = {
                "disabled": not user.is_on, "passwords": len(user.digests), "any_password": user.takes_any_password,
            }  # fmt: skip
            yield Finding(kind="users", name=name, facts=facts)

    def close(self) -> None:
        """Give the connection back to be kept, or close it, and close those to the other servers; never raises."""
        for node in self._nodes_known or []:
            if node.link is not self._link:
                node.link.close()
        self._nodes_known = None
        super().close()

    def _log_in(self, rotator: Credential) -> Link:
        with mapped(sent=False):
            return self._connector.login(self._target, rotator, self._deadline)

    def _prepare(self, link: Link) -> None:
        link.use(self._deadline)

    def _nodes(self) -> list[Node]:
        """Return this server and the others that belong to it, with the rotator logged in to each.

        Raises:
            NotApplied: one cannot be reached, or is none whose users can be changed.
        """
        if self._nodes_known is not None:
            return self._nodes_known
        link = self._require_link()
        with mapped(sent=False):
            server = look_at(link)
            named_places = places_of(self._target)
            places = told_by(link, server) if named_places is None else named_places
        if server.mode == "sentinel":
            raise Unsupported("this is a Sentinel, which has no users of the data", remedy="name the primary")
        if server.is_replica and server.mode != "cluster" and named_places is None:
            raise Unsupported(
                "the server is a replica", remedy="name the primary, or set the custom field Nodes to this"
            )
        writes = self._target.options.get(_PERSISTENCE, "").strip().casefold() != _MEMORY
        nodes = [Node(place=f"{self._target.host}:{self._target.port}", link=link, server=server, writes=writes)]
        self._nodes_known = nodes  # grows, so that close() ends what was opened
        for host, port in places:
            nodes.append(self._joined(host, port, writes=writes))
        return nodes

    def _joined(self, host: str, port: int, *, writes: bool) -> Node:
        place = f"{host}:{port}"
        target, rotator = replace(self._target, host=host, port=port), self._require_rotator()
        try:
            with named(place, sent=False):
                link = self._connector.login(target, rotator, self._deadline)
                link.use(self._deadline)
                return Node(place=place, link=link, server=look_at(link), writes=writes)
        except NotApplied as error:
            raise type(error)(
                f"{error.message}; a password is set on all servers or none",
                remedy="list the other servers in the custom field Nodes as HOST:PORT, or write this for this one alone",
            ) from None

    def _check(self, node: Node, login: str) -> User:
        """Make sure that the user can be changed on a server for good, and return it.

        Raises:
            Forbidden: the rotator may not.
            Unsupported: there is no such user, or no way to keep the change.
        """
        server = node.server
        if node.writes and server.keeping is Keeping.NOWHERE:
            raise Unsupported(
                f"{node.place} has neither an aclfile nor a configuration file, so a restart brings the old password back",
                remedy="start it with a file, or set the custom field Persistence to memory and set it at each start",
            )
        if server.is_replica and (server.replicates_as or _DEFAULT) == login:
            raise Unsupported(
                f"{node.place} replicates as {login!r}, and would lose its primary",
                remedy="give replication a user of its own (masteruser, masterauth)",
            )
        if not server.has_users:
            if login != _DEFAULT:
                raise Unsupported("the server has one password for everybody", remedy=f"set the login to {_DEFAULT}")
            return User(is_on=True, takes_any_password=False, digests=())
        with named(node.place, sent=False):
            user = find_user(node.link, login)
            if user is None:
                raise Unsupported(f"there is no user {login!r}", remedy="check the login in the user record")
            if not may_set(node.link, login):
                raise Forbidden("the rotator may not change users", remedy="give it +acl|setuser")
        return user

    def _set_common(self, node: Node, password: SecretValue, fence: Fence) -> None:
        """Set the one password of a server without users; it travels as it is.

        Raises:
            NotApplied: it is as it was.
            EffectUnknown: no answer, or it could not be set back.
        """
        if len(password.reveal().encode()) > _LONGEST_COMMON:
            raise PolicyRefused(f"the server takes {_LONGEST_COMMON} bytes at most", remedy="generate a shorter one")
        fence()
        with mapped(sent=True):
            node.link.ask("CONFIG", "SET", "requirepass", password.reveal())
        try:
            with mapped(sent=True):
                node.keep()
        except NotApplied as error:
            old = self._rotator.password.reveal() if self._rotator and self._rotator.password else ""
            try:
                node.link.ask("CONFIG", "SET", "requirepass", old)
            except FAILURES:
                raise AmbiguousReply("the password could neither be written down nor set back") from None
            raise NotApplied(f"{node.place} cannot write its configuration down", remedy=error.remedy) from None

    def _others_to_probe(self) -> list[tuple[str, int]]:
        with contextlib.suppress(*FAILURES, TargetError):
            told = places_of(self._target)
            if told is not None:
                return told
            if self._nodes_known is not None:
                return [_place_of(node) for node in self._nodes_known[1:]]
            if self._link is not None:
                return told_by(self._link, look_at(self._link))
        return []

    def _try(self, account: Account, credential: Credential, target: Target) -> Verdict:
        try:
            self._connector.login(target, credential, self._deadline).close()
            verdict = Verdict(state=VerdictState.ACCEPTED)
        except TargetError as error:
            return untried(error)
        except FAILURES as error:
            verdict = verdict_of(error)
        return self._beside(account, verdict) if target is self._target else verdict

    def _beside(self, account: Account, verdict: Verdict) -> Verdict:
        """Look at the user, where an administrator is at hand: the server tells a login neither of these."""
        if self._link is None:
            return verdict
        user = None
        with contextlib.suppress(*FAILURES):
            user = find_user(self._link, account.login)
        if user is None:
            return verdict
        if verdict.state is VerdictState.REFUSED and not user.is_on:
            return Verdict(state=VerdictState.LOCKED, cause="disabled", detail="the user is off")
        if verdict.state is VerdictState.ACCEPTED and user.takes_any_password:
            return Verdict(state=VerdictState.UNKNOWN, cause="any_password", detail="the user takes any password")
        return verdict


def _place_of(node: Node) -> tuple[str, int]:
    host, _, port = node.place.rpartition(":")
    return host, int(port)

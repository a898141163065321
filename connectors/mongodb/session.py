"""A session on one MongoDB server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from connectors.base import (
    Account,
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
from connectors.mongodb.accounts import User, grants, user_of
from connectors.mongodb.errors import FAILURES, mapped, verdict_of
from connectors.mongodb.link import Link
from connectors.mongodb.scram import MECHANISMS, check_password
from connectors.passwords import password_of
from connectors.tls import tls_mode
from pam_jobs.errors import AmbiguousReply, Effect, Forbidden, TargetError, Unsupported
from pam_jobs.secret import SecretValue

if TYPE_CHECKING:
    from connectors.mongodb.connector import MongodbConnector

__all__ = ["MongodbSession"]

_CONTROL = "".join(map(chr, (*range(32), 127)))
_USERS = 10_000  # listed at most


class MongodbSession(KeptSession[Link]):
    """A session on one server."""

    def __init__(
        self, connector: MongodbConnector, target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(connector.kept, target, rotator, deadline)
        self._connector = connector

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed.

        Raises:
            Forbidden: the rotator may not change the user's password.
            Unsupported: there is no such user, it has no password here, or the server takes no change.
            TargetError: anything else the server said.
        """
        user = self._user(account)
        link = self._require_link()
        with mapped(sent=False):
            self._mechanisms(link, user)
            hello = link.hello()
            version = str(link.command("admin", {"buildInfo": 1}).get("version", ""))
            told = link.command("admin", {"connectionStatus": 1, "showPrivileges": True}).get("authInfo") or {}
        self._check_server(link, hello)
        privileges = told.get("authenticatedUserPrivileges")
        own = self._is_self(account)
        may = (
            not privileges
            or grants(privileges, "changePassword", user.database)
            or (own and grants(privileges, "changeOwnPassword", user.database))
        )
        if not may:
            raise Forbidden(
                f"the rotator may not change the password of {user}",
                remedy="give it the role userAdminAnyDatabase, or changePassword on the database",
            )
        return Preflight(
            server=f"MongoDB {version}, {hello.get('setName') or hello.get('msg') or 'standalone'}, user {user}",
            is_self=own,
            account_exists=True,
            forbidden_characters=_CONTROL,
        )

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the password; roles, restrictions and mechanisms of the user stay.

        Effect on target: one ``updateUser``, acknowledged by a majority of a replica set.

        Raises:
            NotApplied: the user is certainly as it was.
            EffectUnknown: no answer came, or none that tells.
        """
        password = password_of(candidate)
        check_password(password.reveal())
        user = self._user(account)
        link = self._require_link()
        with mapped(sent=False):
            mechanisms = self._mechanisms(link, user)
            self._check_server(link, link.hello())
        self._deadline.check("the change was sent")
        milliseconds = max(1, int(self._deadline.remaining() * 1000) - 200)
        content = self._update(user, password, mechanisms, milliseconds)
        fence()
        with mapped(sent=True):
            answer = link.command(user.database, content)
        if answer.get("writeConcernError"):
            raise AmbiguousReply("the primary took the change, and the majority of the set not in time")
        self._changed(account.login, password, is_self=self._is_self(account))
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:  # noqa: ARG002
        """Log in once, afresh."""
        if not credential.password:
            return NO_PASSWORD
        try:
            self._connector.login(self._target, credential, self._deadline).close()
        except TargetError as error:
            return untried(error)
        except FAILURES as error:
            return verdict_of(error)
        return Verdict(state=VerdictState.ACCEPTED)

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the users of all databases."""
        link = self._require_link()
        try:
            with mapped(sent=False):
                users = link.command("admin", {"usersInfo": {"forAllDBs": True}}).get("users")
                if not users:  # the rotator itself is one of them, so the server did not tell
                    listed = link.command("admin", {"find": "system.users", "batchSize": _USERS, "singleBatch": True})
                    users = (listed.get("cursor") or {}).get("firstBatch")
        except Forbidden:
            yield Unseen(what="users", cause="not_permitted", detail="that takes viewUser on every database")
            return
        for each in users or []:
            name, database = str(each.get("user", "")), str(each.get("db", ""))
            kept = each.get("mechanisms") or list(each.get("credentials") or {})
            roles = sorted(f"{role.get('role')}@{role.get('db')}" for role in each.get("roles") or [])
            facts: dict[str, str | bool | int] = {
                "database": database, "roles": ", ".join(roles), "mechanisms": ", ".join(sorted(map(str, kept))),
            }  # fmt: skip
            if database == "$external":
                facts["disabled"] = False
                yield Finding(kind="users", name=name, facts=facts)
            else:
                yield Finding(kind="users", name=str(User(name=name, database=database)), facts=facts)

    def _log_in(self, rotator: Credential) -> Link:
        with mapped(sent=False):
            return self._connector.login(self._target, rotator, self._deadline)

    def _prepare(self, link: Link) -> None:
        link.use(self._deadline)

    def _user(self, account: Account) -> User:
        return user_of(account.login, account.database, self._target)

    def _mechanisms(self, link: Link, user: User) -> list[str]:
        """Return how the user may log in by password.

        Raises:
            Unsupported: there is no such user, or it has no password here.
            ServerRefusal, Garbled, OSError: no answer.
        """
        found = link.command(user.database, {"usersInfo": user.identity, "showCredentials": False}).get("users")
        if not found:
            raise Unsupported(
                f"there is no user {user} of the database {user.database!r}",
                remedy="check login and connectDatabase of the user record",
            )
        told = [str(name) for name in found[0].get("mechanisms") or []]
        kept = [name for name in told if name in MECHANISMS]
        if told and not kept:
            raise Unsupported(
                f"user {user} logs in by {', '.join(told)}, without a password of this server",
                remedy="rotate it where its password is kept",
            )
        return kept

    def _update(self, user: User, password: SecretValue, mechanisms: list[str], milliseconds: int) -> dict[str, Any]:
        content: dict[str, Any] = {"updateUser": user.name, "pwd": password.reveal()}
        if mechanisms:
            content["mechanisms"] = mechanisms
        content["writeConcern"] = {"w": "majority", "wtimeout": milliseconds}
        return content

    def _check_server(self, link: Link, hello: dict[str, Any]) -> None:
        """Make sure that the server takes changes, and that the password would travel safely.

        Raises:
            Unsupported: it does not, or would not.
        """
        if not (hello.get("isWritablePrimary") or hello.get("ismaster")):
            primary = hello.get("primary")
            remedy = f"point the resource record at {primary}" if primary else "wait until the set has a primary"
            raise Unsupported("the server is not the primary of its replica set", remedy=remedy)
        if not link.is_private() and tls_mode(self._target) != "disable":
            raise Unsupported(
                "the new password would travel in clear: the connection has no TLS",
                remedy="turn TLS on, or set the custom field sslmode to disable",
            )

    def _is_self(self, account: Account) -> bool:
        rotator = self._rotator
        return rotator is not None and user_of(rotator.login, rotator.database, self._target) == self._user(account)

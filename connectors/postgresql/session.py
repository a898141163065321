"""One session on a PostgreSQL server: what is asked of it, the change of a role's password, and the logins that prove it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from psycopg import pq

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
from connectors.errors import NO_PASSWORD
from connectors.kept import KeptSession
from connectors.passwords import plain_password_of
from connectors.postgresql.errors import FAILURES, mapped, verdict_of
from connectors.postgresql.link import Link, Row
from connectors.postgresql.scram import (
    DEFAULT_ITERATIONS,
    ScramKeys,
    is_verifier_of,
    iterations_of,
    md5_verifier,
    scram_verifier,
)
from connectors.postgresql.statements import (
    PREFLIGHT,
    ROLE_STATE,
    ROLES,
    VERIFIERS,
    Standing,
    alter_role,
    lock_number,
)
from connectors.postgresql.way_in import Rules, Way, demand_pooler_as_server, refuse_other_proofs, stored_verifier
from connectors.postgresql.wire import CONNECT_SECONDS
from pam_jobs.errors import (
    AmbiguousReply,
    Effect,
    Forbidden,
    TargetError,
    Unsupported,
)
from pam_jobs.secret import SecretValue

if TYPE_CHECKING:
    from connectors.postgresql.connector import PostgresqlConnector

__all__ = ["PostgresqlSession"]

_LOGIN_BYTES = 63  # the server silently cuts longer names, and might then change another role
_FIRST_SCRAM_VERSION = 100000
_LIBPQ_TELLS_METHODS = 160000
_DEFAULT_DATABASE = "postgres"
_LIBPQ_TAKES_KEYS = 180000
_PASSWORDCHECK_LENGTH: Final = 8  # of the module, before PostgreSQL 18 let it be set
_STALE: Final = "the pooler before the server does not know the server's password: let it ask (auth_query)"


class PostgresqlSession(KeptSession[Link]):
    """A session on one server."""

    def __init__(
        self, connector: PostgresqlConnector, target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(connector.kept, target, rotator, deadline)
        self._connector = connector
        self._iterations = DEFAULT_ITERATIONS
        self._is_pooled: bool | None = None  # something stands before the server, and looks at passwords itself
        self._looked: tuple[Way, Rules] | None = (
            None  # at the way in of the account, and where nothing stands before it
        )
        self._made: dict[str, tuple[SecretValue, ScramKeys]] = {}  # by login: what this session set, ready to log in

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed, and whether the account could log in afterwards.

        Raises:
            Forbidden: the rotator may not change the role.
            Unsupported: there is no such role, it may not log in, or the server takes no change.
            Locked: the role's password has expired, so no new one would log in.
            TargetError: anything else the server said.
        """
        if len(account.login.encode()) > _LOGIN_BYTES or "\0" in account.login:
            raise Unsupported("the login is no name of a role", remedy=f"a role's name has 1 to {_LOGIN_BYTES} bytes")
        link, database = self._require_link(), self._database_of(account)
        told = Standing.of(self._query(PREFLIGHT, [account.login, database, str(link.backend_pid)])[0])
        self._iterations = iterations_of(self._target.options) or max(DEFAULT_ITERATIONS, int(told.iterations or 0))
        told.refuse_what_cannot_log_in(account.login)
        rules = Rules(started=told.started, loaded=float(told.loaded or "inf"), seen=float(told.seen or 0))
        self._look_at_way_in(account, rules, is_pooled=told.is_pooled, me=told.me)
        told.refuse_what_is_not_allowed(account.login, database, link.server_version)
        is_checked = "passwordcheck" in told.libraries
        server = f"PostgreSQL {told.version}, password_encryption={told.encryption}"
        return Preflight(
            server=f"{server}, by a pooler" if told.is_pooled else server,
            is_self=told.is_self, account_exists=True, forbidden_characters="\0",
            min_length=int(told.min_length or _PASSWORDCHECK_LENGTH) if is_checked else None,
            min_classes=3 if is_checked else None,  # a letter and something else
            forbidden_words=(account.login,) if is_checked else (),
        )  # fmt: skip

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the password.

        Effect on target: one ``ALTER ROLE`` in a transaction of its own, under an advisory lock on the role.

        Raises:
            NotApplied: the role is certainly as it was.
            EffectUnknown: the connection ended after the statement was sent.
        """
        verifier = self._verifier(account, candidate)
        link = self._require_link()
        before = self._kept_by_server(link, account)
        self._deadline.check("the change was sent")
        milliseconds = int(self._deadline.remaining() * 1000)
        try:
            with mapped(sent=False):
                link.script(
                    f"BEGIN; SET LOCAL lock_timeout = {milliseconds}; SET LOCAL statement_timeout = {milliseconds};"
                    f"SELECT pg_advisory_xact_lock({lock_number(account.login)})",
                    self._deadline,
                )
            fence()
            with mapped(sent=True):
                tags = link.script(alter_role(account.login, verifier) + b"; COMMIT", self._deadline)
        except BaseException:
            self._roll_back(link)
            raise
        if tags != ["ALTER ROLE", "COMMIT"]:
            raise AmbiguousReply(f"the server answered {', '.join(tags)} to the change")
        self._changed(account.login, candidate.password, is_self=self._is_self(account))
        if before is not None:
            self._demand_that_pooler_knows(account, candidate, before)
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in once, afresh; twice only when keys made here are refused, since another attempt may have salted anew."""
        if not credential.password:
            return NO_PASSWORD
        verdict = None
        keys = self._keys_of(account, credential.password)
        if keys is not None:
            verdict = self._try(account, credential, keys)
        if verdict is None or verdict.cause in {"wrong_password", "cut_during_login"}:
            keys, verdict = None, self._try(account, credential, None)
        if self._link is None:
            return verdict
        if credential.login == account.login:
            self._learn(account, verdict, is_challenged=keys is not None or not self._target.use_ssl)
        if verdict.state in {VerdictState.ACCEPTED, VerdictState.REFUSED}:
            verdict = self._compared(credential, verdict)
        return self._why_refused(account, verdict) if verdict.state is VerdictState.REFUSED else verdict

    def metadata(self, account: Account) -> AccountMetadata:
        """Return whether the role may log in, and until when its password is valid."""
        rows = self._query(ROLE_STATE, [account.login])
        if not rows:
            return AccountMetadata()
        expires = datetime.fromtimestamp(float(rows[0][2]), UTC) if rows[0][2] else None
        return AccountMetadata(disabled=rows[0][0] != "t", expires=expires)

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the roles that may log in."""
        verifiers: dict[str | None, str | None] = {}
        try:
            verifiers = {row[0]: row[1] for row in self._query(VERIFIERS, [])}
        except Forbidden:
            yield Unseen(what="kinds of stored passwords", cause="not_permitted", detail="only superusers read them")
        for name, is_super, creates, replicates, until in self._query(ROLES, []):
            facts: dict[str, str | bool | int] = {
                "superuser": is_super == "t", "create_role": creates == "t", "replication": replicates == "t",
            }  # fmt: skip
            if until:
                facts["valid_until"] = until
            if name in verifiers:
                facts["password"] = verifiers[name] or "none"
            yield Finding(kind="users", name=name or "", facts=facts)

    def close(self) -> None:
        """Give the connection back to be kept, or close it; never raises."""
        self._made.clear()
        super().close()

    def _log_in(self, rotator: Credential) -> Link:
        if rotator.password is None:
            raise Unsupported("the rotator has no password", remedy="add one to the admin's record")
        with mapped(sent=False):
            return self._connector.login(self._target, self._parameters(rotator, is_probe=False), self._deadline)

    def _look_at_way_in(self, account: Account, rules: Rules, *, is_pooled: bool, me: str) -> None:
        """Return where a login of the account proves the password that the server keeps.

        The server is asked only where it has not let the account in by that password under the same rules.

        Raises:
            Unsupported: it proves none, or the pooler before the server does not let it.
            Forbidden: that cannot be told.
            NotApplied: the server lets no such login begin.
        """
        self._is_pooled = is_pooled
        link, database = self._require_link(), self._database_of(account)
        with mapped(sent=False):
            if is_pooled:
                demand_pooler_as_server(link, me, self._rotator.login if self._rotator else me, self._deadline)
            else:
                self._looked = self._connector.way(self._target, account.login, database, self._deadline), rules
                if self._connector.ways.has(*self._looked):
                    return
            asked = self._connector.proof_asked(self._target, account.login, database, self._deadline)
        refuse_other_proofs(asked, link, account.login, database, self._deadline, is_pooled=is_pooled)

    def _learn(self, account: Account, verdict: Verdict, *, is_challenged: bool) -> None:
        """Take note of whose password a login proved.

        Args:
            account: that logged in where the preflight looked, or did not.
            verdict: of the login.
            is_challenged: only a server that keeps the role's password can have asked for this proof: it was never sent.
        """
        if self._looked is None or self._looked[0][3:] != (account.login, self._database_of(account)):
            return
        if verdict.state is not VerdictState.ACCEPTED:
            self._connector.ways.remove(self._looked[0])
        elif is_challenged and pq.version() >= _LIBPQ_TELLS_METHODS:
            self._connector.ways.add(*self._looked)

    def _kept_by_server(self, link: Link, account: Account) -> str | None:
        """Return the verifier that a change replaces, "" for none; None where nothing stands before the server."""
        if not self._is_behind_pooler():
            return None
        with mapped(sent=False):
            return stored_verifier(link, account.login, self._deadline)

    def _is_behind_pooler(self) -> bool:
        """Say whether what answers is another process than the one that the login named, which only the server knows."""
        if self._is_pooled is None:
            link = self._require_link()
            self._is_pooled = self._query("SELECT pg_backend_pid()::text", [])[0][0] != str(link.backend_pid)
        return self._is_pooled

    def _demand_that_pooler_knows(self, account: Account, candidate: Candidate, before: str) -> None:
        """Return when the pooler asks the server for verifiers; else take the change back, since nobody could log in with it.

        Raises:
            Unsupported: the pooler keeps a copy; the role is as it was.
            EffectUnknown: the old verifier could not be put back.
        """
        if self._try(account, candidate.credential(account), None).state is not VerdictState.REFUSED:
            return
        with mapped(sent=True):
            self._require_link().script(alter_role(account.login, before or None), self._deadline)
        raise Unsupported(
            f"the pooler before the server keeps a copy of the password of role {account.login!r}",
            remedy="remove it from the pooler's auth_file and let it ask (auth_query), or point the record at the server",
        )

    def _compared(self, credential: Credential, verdict: Verdict) -> Verdict:
        """Return what an answer proves, by a pooler's mouth: nothing where the server itself keeps another password."""
        with contextlib.suppress(TargetError, *FAILURES):
            if not self._is_behind_pooler():
                return verdict
            verifier = stored_verifier(self._require_link(), credential.login, self._deadline)
            password = credential.password.reveal() if credential.password else ""
            is_accepted = verdict.state is VerdictState.ACCEPTED
            if is_verifier_of(verifier, password, credential.login) != is_accepted:
                return Verdict(state=VerdictState.UNKNOWN, cause="stale_pooler", detail=_STALE)
        return verdict

    def _database_of(self, account: Account) -> str:
        return account.database or self._target.database or _DEFAULT_DATABASE

    def _verifier(self, account: Account, candidate: Candidate) -> str:
        """Return what to store.

        Raises:
            Unsupported: the candidate has no password.
            PolicyRefused: the password cannot be one here.
        """
        secret = plain_password_of(candidate)
        password = secret.reveal()
        is_old = self._require_link().server_version < _FIRST_SCRAM_VERSION
        if is_old or self._target.options.get("password_encryption") == "md5":
            return md5_verifier(password, account.login)
        verifier, keys = scram_verifier(password, iterations=self._iterations)
        self._made[account.login] = (secret, keys)
        return verifier

    def _keys_of(self, account: Account, password: SecretValue) -> ScramKeys | None:
        """Return the keys this session made of the password, which save a second hashing.

        Only of an ASCII one: beyond it a login with the password also proves that libpq prepares it as we did.
        """
        made_password, keys = self._made.get(account.login, (None, None))
        fits = made_password == password and password.reveal().isascii() and pq.version() >= _LIBPQ_TAKES_KEYS
        return keys if fits else None

    def _try(self, account: Account, credential: Credential, keys: ScramKeys | None) -> Verdict:
        """Log in once and out again."""
        wanted = Credential(
            login=credential.login, password=credential.password, database=credential.database or account.database
        )
        parameters = self._parameters(wanted, is_probe=True)
        if keys is not None:
            del parameters["password"]
            parameters["scram_client_key"] = keys.client_key_text()
            parameters["scram_server_key"] = keys.server_key_text()
        try:
            link = self._connector.login(self._target, parameters, self._deadline)
        except FAILURES as error:
            return verdict_of(error, credential.login)
        try:
            if link.is_surely_pooled:  # it lets in whom it knows, even when there is no server any more
                link.query("SELECT 1", [], Deadline(self._deadline.remaining(CONNECT_SECONDS)))
        except FAILURES:
            detail = "a pooler let the login in, and no server answered it"
            return Verdict(state=VerdictState.UNKNOWN, cause="unreachable", detail=detail)
        finally:
            link.close()
        return Verdict(state=VerdictState.ACCEPTED)

    def _why_refused(self, account: Account, verdict: Verdict) -> Verdict:
        """Look whether the role is expired: the server then refuses the right password too, with the same code."""
        with contextlib.suppress(TargetError):
            rows = self._query(ROLE_STATE, [account.login])
            if rows and rows[0][1] == "t":
                detail = "the role's VALID UNTIL has passed, so every password is refused"
                return Verdict(state=VerdictState.LOCKED, cause="expired", detail=detail)
        return verdict

    def _parameters(self, credential: Credential, *, is_probe: bool) -> dict[str, str]:
        """Return libpq's parameters; nothing is left for it to take from the environment or files of the user."""
        seconds = self._deadline.remaining(CONNECT_SECONDS)
        parameters = {
            "host": self._target.host, "port": str(self._target.port), "user": credential.login,
            "password": credential.password.reveal() if credential.password else "",
            "dbname": credential.database or self._target.database or _DEFAULT_DATABASE,
            "application_name": "pam-jobs", "client_encoding": "UTF8", "options": "", "gssencmode": "disable",
            "passfile": os.path.join(os.sep, "nonexistent", "pgpass"), "target_session_attrs": "any",  # noqa: PTH118
            "keepalives_idle": "15", "tcp_user_timeout": str(int(seconds * 1000)),
        }  # fmt: skip
        if self._target.use_ssl:
            parameters["sslrootcert"] = self._target.options.get("ssl_ca", "system")
        # A probe that was never asked for the password proves nothing; and no secret goes in the clear without TLS.
        of_probe, of_rotator = ("!none", None) if self._target.use_ssl else ("scram-sha-256,md5", "!password")
        methods = of_probe if is_probe else of_rotator
        if methods is not None and pq.version() >= _LIBPQ_TELLS_METHODS:
            parameters["require_auth"] = methods
        return parameters

    def _query(self, statement: str, parameters: list[str | None]) -> list[Row]:
        link = self._require_link()
        with mapped(sent=False):
            return link.query(statement, parameters, self._deadline)

    def _roll_back(self, link: Link) -> None:
        """Leave the transaction, or the connection when that fails: its end undoes the transaction too."""
        try:
            link.script("ROLLBACK", Deadline(min(2.0, self._deadline.remaining())))
        except FAILURES:
            link.close()

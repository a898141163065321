"""A session on one RabbitMQ broker: the management API changes, a login over AMQP proves."""

from __future__ import annotations

import contextlib
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
from connectors.passwords import plain_password_of
from connectors.rabbitmq.amqp import log_in
from connectors.rabbitmq.api import CONNECT_SECONDS, HASHES, Api, password_hash
from connectors.rabbitmq.errors import FAILURES, AmqpRefusal, ApiRefusal, mapped, verdict_of
from connectors.tls import tls_mode
from pam_jobs.errors import Effect, Forbidden, TargetError, Unreachable, Unsupported
from pam_jobs.secret import SecretValue

if TYPE_CHECKING:
    from connectors.rabbitmq.connector import RabbitmqConnector

__all__ = ["RabbitmqSession"]

_ADMINISTRATOR = "administrator"
_USUAL_HASH = "rabbit_password_hashing_sha256"
_VHOST_BYTES = 255
_LONGEST = 4096  # bytes of a password: what a login takes within one frame
_LOCAL_ONLY = "guest"
_PORT, _SECURE_PORT = 5672, 5671


class RabbitmqSession(KeptSession[Api]):
    """A session on one broker."""

    def __init__(
        self, connector: RabbitmqConnector, target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(connector.kept, target, rotator, deadline)
        self._connector = connector
        self._overview: dict[str, Any] | None = None

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed.

        Raises:
            Forbidden: the rotator is no administrator.
            Unsupported: the broker itself keeps no password of such a user.
            TargetError: anything else the broker said.
        """
        _check_login(account.login)
        self._user(account.login)
        overview = self._look()
        port = self._amqp_port()
        return Preflight(
            server=f"RabbitMQ {overview.get('rabbitmq_version', '')}, AMQP on port {port}",
            is_self=self._is_self(account),
            account_exists=True,
            max_length=_LONGEST,
            forbidden_characters="\0",
        )

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Replace the hash that the broker keeps; the user's tags and its algorithm stay.

        Effect on target: one ``PUT /api/users/NAME``, which a cluster carries to all of its nodes.

        Raises:
            NotApplied: the user is certainly as it was.
            EffectUnknown: no answer came, or none that tells.
        """
        password = plain_password_of(candidate, most_bytes=_LONGEST)
        _check_login(account.login)
        user = self._user(account.login)
        tags = user.get("tags") or []
        algorithm = str(user.get("hashing_algorithm"))
        if algorithm not in HASHES:
            algorithm = _USUAL_HASH  # MD5, of brokers before 3.6
        content = {
            "password_hash": password_hash(password, algorithm),
            "hashing_algorithm": algorithm,
            "tags": tags if isinstance(tags, str) else ",".join(map(str, tags)),
        }
        self._deadline.check("the change was sent")
        api = self._require_link()
        fence()
        with mapped(sent=True):
            api.put("users", account.login, content=content)
        is_self = self._is_self(account)
        self._changed(account.login, password, is_self=is_self)
        if is_self:
            api.close()  # every request on it carries what is now the old password
            with contextlib.suppress(*FAILURES, TargetError):
                self._link = self._connector.connect(self._target, self._require_rotator(), self._deadline)
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:  # noqa: ARG002
        """Log in once over AMQP; to the management API where the gateway does not reach AMQP."""
        if not credential.password:
            return NO_PASSWORD
        try:
            _check_login(credential.login)
            verdict = self._over_amqp(credential, credential.password)
            if verdict is None or (verdict.state is VerdictState.REFUSED and credential.login == _LOCAL_ONLY):
                verdict = self._over_http(credential)  # which tells that this one may log in on its own machine only
        except TargetError as error:
            return untried(error)
        except FAILURES as error:
            return verdict_of(error)
        return verdict

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the broker's own users."""
        try:
            with mapped(sent=False):
                users = self._require_link().get("users")
        except Forbidden:
            yield Unseen(what="users", cause="not_permitted", detail="that takes the tag administrator")
            return
        for user in users if isinstance(users, list) else []:
            tags = user.get("tags") or []
            names = tags if isinstance(tags, str) else ",".join(map(str, tags))
            facts: dict[str, str | bool | int] = {
                "tags": names, "administrator": _ADMINISTRATOR in names.split(","),
                "disabled": not user.get("password_hash"),
            }  # fmt: skip
            yield Finding(kind="users", name=str(user.get("name", "")), facts=facts)

    def _log_in(self, rotator: Credential) -> Api:
        if not rotator.password:
            raise Unsupported("the rotator has no password", remedy="add one to the admin's record")
        _check_login(rotator.login)
        if ":" in rotator.login:
            raise Unsupported("a rotator's name has no colon here", remedy="give the resource another administrator")
        with mapped(sent=False):
            api = self._connector.connect(self._target, rotator, self._deadline)
            try:
                api.get("whoami")
            except BaseException:
                api.close()
                raise
            return api

    def _prepare(self, link: Api) -> None:
        link.use(self._deadline)

    def _user(self, login: str) -> dict[str, Any]:
        """Return a user of the broker's own.

        Raises:
            Forbidden: the rotator may not ask, which is who may not change either.
            Unsupported: there is none.
        """
        try:
            with mapped(sent=False):
                user = self._require_link().get("users", login)
        except Unsupported as error:
            if self._link is None:
                raise
            raise Unsupported(
                f"the broker keeps no user {login!r}",
                remedy=error.remedy or "check the login; users of a directory are rotated there",
            ) from None
        if not isinstance(user, dict) or user.get("name") != login:
            raise Unreachable("what listens there is not RabbitMQ", remedy="check the record's port")
        return user

    def _look(self) -> dict[str, Any]:
        """Return what the broker says of itself, asked once in a session."""
        if self._overview is None:
            with mapped(sent=False):
                told = self._require_link().get("overview")
            self._overview = told if isinstance(told, dict) else {}
        return self._overview

    def _amqp_port(self) -> int:
        """Return where logins are tried: as the record says, as the broker tells, or the usual port.

        Raises:
            Unsupported: the record's field is no port.
        """
        text = self._target.options.get("amqp_port", "").strip()
        if text:
            if not text.isdigit() or not 1 <= int(text) <= 65535:
                raise Unsupported(f"{text!r} is no port", remedy="correct the custom field AMQP Port")
            return int(text)
        mode = tls_mode(self._target)
        told: dict[str, int] = {}
        if self._link is not None:
            with contextlib.suppress(TargetError):
                listeners = self._look().get("listeners") or []
                told = {str(each.get("protocol")): int(each.get("port", 0)) for each in listeners}
        if mode != "disable" and "amqp/ssl" in told:
            return told["amqp/ssl"]
        return _SECURE_PORT if mode not in {"", "disable"} else told.get("amqp", _PORT)

    def _over_amqp(self, credential: Credential, password: SecretValue) -> Verdict | None:
        """Log in over AMQP; None when nobody listens there, or the password would travel in clear."""
        port = self._amqp_port()
        vhost = self._target.options.get("virtual_host", "").strip() or "/"
        if len(vhost.encode()) > _VHOST_BYTES:
            raise Unsupported("the virtual host's name is too long", remedy="correct the custom field Virtual Host")
        deadline = Deadline(self._deadline.remaining(CONNECT_SECONDS))
        try:
            context = self._connector.context(self._target, port, deadline)
        except OSError as error:
            return None if isinstance(error, ConnectionRefusedError) else verdict_of(error)
        if context is None and not self._connector.may_be_clear(self._target):
            return None
        try:
            log_in(self._target.host, port, context, credential.login, password, vhost, deadline)
        except ConnectionRefusedError:
            return None
        except FAILURES as error:
            return verdict_of(error)
        return Verdict(state=VerdictState.ACCEPTED)

    def _over_http(self, credential: Credential) -> Verdict:
        if ":" in credential.login:
            return Verdict(
                state=VerdictState.UNKNOWN, cause="unreachable",
                detail="nobody listens on the AMQP port, and the management API takes no name with a colon",
            )  # fmt: skip
        api = self._connector.connect(self._target, credential, self._deadline)
        try:
            api.get("whoami")
        except (ApiRefusal, AmqpRefusal) as refusal:
            return verdict_of(refusal)
        finally:
            api.close()
        return Verdict(state=VerdictState.ACCEPTED)


def _check_login(login: str) -> None:
    """Make sure that the broker could have a user of this name.

    Raises:
        Unsupported: it could not.
    """
    if not login or "\0" in login:
        raise Unsupported("the login is no name of a user", remedy="a user's name here is not empty and has no NUL")

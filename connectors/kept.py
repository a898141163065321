"""Idle connections of rotators, kept for the next session with the same credential, and the session that takes one.

Logging in costs a target far more than the change itself, so a rotator's connection outlives its session. Nothing here
runs in the background: what is too old is closed when somebody takes, gives, or calls ``close_idle()``.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

from connectors.base import Account, Connector, Credential, Deadline, Session, Target
from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["KeepingConnector", "KeptConnections", "KeptKey", "KeptSession", "kept_key"]

C = TypeVar("C")

_PROCESS_KEY = secrets.token_bytes(32)  # digests of secrets mean nothing outside this process


@dataclass(frozen=True, kw_only=True)
class KeptKey:
    """Who is logged in where; two sessions share a connection only when all of it is equal."""

    host: str
    port: int
    login: str
    secret_digest: bytes
    how: tuple[object, ...]  # whatever else target and credential say: database, TLS, accepted host keys, options


def kept_key(target: Target, credential: Credential) -> KeptKey:
    """Return the key under which the credential's connection to the target is kept."""
    parts = [part.reveal() if part is not None else "" for part in (credential.password, credential.private_key)]
    digest = hmac.digest(_PROCESS_KEY, "\0".join(parts).encode(errors="surrogatepass"), "sha256")
    how = (
        target.protocol, target.use_ssl, target.database, target.host_keys, tuple(sorted(target.options.items())),
        credential.database, credential.distinguished_name,
    )  # fmt: skip
    return KeptKey(host=target.host, port=target.port, login=credential.login, secret_digest=digest, how=how)


@dataclass(frozen=True, kw_only=True)
class _Kept(Generic[C]):
    connection: C
    born: float
    idle_since: float


class KeptConnections(Generic[C]):
    """A bounded, thread-safe store of idle connections."""

    def __init__(
        self,
        *,
        is_usable: Callable[[C], bool],
        close: Callable[[C], None],
        max_total: int = 64,
        max_per_key: int = 16,
        idle_seconds: float = 120.0,
        age_seconds: float = 900.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty.

        Args:
            is_usable: a cheap check that the connection still lives; must not raise.
            close: ends a connection; must not raise.
            max_total: connections kept at most; 0 keeps none.
            max_per_key: connections kept at most for one rotator on one target.
            idle_seconds: how long an unused connection is kept.
            age_seconds: how long any connection lives, so that a withdrawn right takes effect.
            monotonic: the clock, in seconds.
        """
        self._is_usable = is_usable
        self._close = close
        self._max_total = max_total
        self._max_per_key = max_per_key
        self._idle_seconds = idle_seconds
        self._age_seconds = age_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: dict[KeptKey, list[_Kept[C]]] = {}
        self._born: dict[int, float] = {}

    def take(self, key: KeptKey) -> C | None:
        """Return a living connection, now the caller's alone, or None."""
        while True:
            with self._lock:
                gone = self._expired()
                shelf = self._kept.get(key)
                found = shelf.pop() if shelf else None  # the one used last is the warmest
                if shelf is not None and not shelf:
                    del self._kept[key]
                if found is not None:
                    self._born[id(found.connection)] = found.born
            self._end(gone)
            if found is None or self._is_usable(found.connection):
                return found.connection if found is not None else None
            self.discard(found.connection)

    def give(self, key: KeptKey, connection: C) -> None:
        """Keep a connection that its session no longer needs, or close it when there is no room."""
        now = self._monotonic()
        with self._lock:
            gone = self._expired()
            born = self._born.pop(id(connection), now)
            shelf = self._kept.setdefault(key, [])
            shelf.append(_Kept(connection=connection, born=born, idle_since=now))
            if len(shelf) > self._max_per_key:
                gone.append(shelf.pop(0).connection)
            if sum(len(each) for each in self._kept.values()) > self._max_total:
                gone.append(self._pop_oldest())
        self._end(gone)

    def put_back(self, key: KeptKey | None, connection: C) -> None:
        """Keep a connection while it lives and may be another session's, or close it; never raises.

        Args:
            key: whose it is; None where nobody may have it any more, since it changed its own login's credential.
            connection: that a session ends with.
        """
        with contextlib.suppress(Exception):
            if key is not None and self._is_usable(connection):
                self.give(key, connection)
            else:
                self.discard(connection)

    def discard(self, connection: C) -> None:
        """Close a connection that was taken and must not be used again."""
        with self._lock:
            self._born.pop(id(connection), None)
        self._close(connection)

    def forget(self, host: str, port: int, login: str) -> None:
        """Close the idle connections of a login whose credential changed."""
        with self._lock:
            keys = [key for key in self._kept if (key.host, key.port, key.login) == (host, port, login)]
            gone = [kept.connection for key in keys for kept in self._kept.pop(key)]
        self._end(gone)

    def close_idle(self) -> None:
        """Close everything that is kept, as at shutdown."""
        with self._lock:
            gone = [kept.connection for shelf in self._kept.values() for kept in shelf]
            self._kept.clear()
        self._end(gone)

    def __len__(self) -> int:
        with self._lock:
            return sum(len(shelf) for shelf in self._kept.values())

    def _expired(self) -> list[C]:
        now = self._monotonic()
        gone: list[C] = []
        for key, shelf in list(self._kept.items()):
            fresh = [kept for kept in shelf if self._is_fresh(kept, now)]
            gone.extend(kept.connection for kept in shelf if not self._is_fresh(kept, now))
            if fresh:
                self._kept[key] = fresh
            else:
                del self._kept[key]
        return gone

    def _is_fresh(self, kept: _Kept[C], now: float) -> bool:
        return now - kept.idle_since <= self._idle_seconds and now - kept.born <= self._age_seconds

    def _pop_oldest(self) -> C:
        key = min((key for key, shelf in self._kept.items() if shelf), key=lambda key: self._kept[key][0].idle_since)
        oldest = self._kept[key].pop(0)
        if not self._kept[key]:
            del self._kept[key]
        return oldest.connection

    def _end(self, connections: list[C]) -> None:
        """Close outside the lock: closing may wait for the network."""
        for connection in connections:
            self._close(connection)


class KeepingConnector(Connector, Generic[C]):
    """A connector that keeps the idle connections of its rotators.

    Its sessions enter ``Credential.logging_in()`` around each new login, as ``KeptSession`` does; around ``open`` of every
    other connector the engine does it.
    """

    kept: KeptConnections[C]

    def close_idle(self) -> None:
        """Close the kept connections, as at shutdown."""
        self.kept.close_idle()


class KeptSession(Session, Generic[C]):
    """A session that begins with a kept connection of its rotator, or a new one, and gives it back when it closes."""

    def __init__(
        self, kept: KeptConnections[C], target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        self._kept = kept
        self._target = target
        self._rotator = rotator
        self._deadline = deadline
        self._link: C | None = None  # the rotator's
        self._key: KeptKey | None = None  # whose the connection is; None once nobody else may have it

    def connect(self) -> Self:
        """Log in as the rotator, unless there is none.

        Raises:
            NotApplied: with the cause.
        """
        if self._rotator is not None:
            self._link, self._key = self._taken(self._rotator)
            self._prepare(self._link)
        return self

    def close(self) -> None:
        """Give the connection back to be kept, or close it; never raises."""
        link, self._link = self._link, None
        if link is not None:
            self._kept.put_back(self._key, link)

    @abstractmethod
    def _log_in(self, rotator: Credential) -> C:
        """Return a new connection on which the rotator is logged in.

        Raises:
            AuthRejected: the target refused the rotator; it counts against its lockout budget.
            NotApplied: with the cause.
        """

    def _prepare(self, link: C) -> None:
        """Make the connection ready for this session, whether it was kept or is new."""

    def _key_of(self, rotator: Credential) -> KeptKey:
        return kept_key(self._target, rotator)

    def _taken(self, rotator: Credential) -> tuple[C, KeptKey]:
        """Return a connection on which the rotator is logged in, and the key to give it back with.

        Raises:
            NotApplied: with the cause.
        """
        key = self._key_of(rotator)
        link = self._kept.take(key)
        if link is None:
            self._deadline.check("the connection was made")
            with rotator.logging_in():
                link = self._log_in(rotator)
        return link, key

    def _changed(self, login: str, password: SecretValue | None, *, is_self: bool) -> None:
        """Let nobody else have a connection that logged in with what is now an old credential.

        Args:
            login: whose credential changed, as the keys name it.
            password: the new one; None where it was not the password.
            is_self: the rotator itself was changed.
        """
        self._kept.forget(self._target.host, self._target.port, login)
        if is_self:
            self._key = None
            if password is not None:
                self._rotator = replace(self._require_rotator(), password=password)

    def _is_self(self, account: Account) -> bool:
        return self._rotator is not None and self._rotator.login == account.login

    def _require_rotator(self) -> Credential:
        if self._rotator is None:
            raise _no_rotator()
        return self._rotator

    def _require_link(self) -> C:
        if self._link is None:
            raise _no_rotator()
        return self._link


def _no_rotator() -> Unsupported:
    return Unsupported("this session has no rotator, so it can only probe", remedy="give the resource an admin")

"""Idle connections of rotators, kept for the next session with the same credential.

Logging in costs a target far more than the change itself, so a rotator's connection outlives its session. Nothing here
runs in the background: what is too old is closed when somebody takes, gives, or calls ``close_idle()``.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from connectors.base import Credential, Target

__all__ = ["KeptConnections", "KeptKey", "kept_key"]

C = TypeVar("C")

_PROCESS_KEY = secrets.token_bytes(32)  # digests of secrets mean nothing outside this process


@dataclass(frozen=True, kw_only=True)
class KeptKey:
    """Who is logged in where; two sessions share a connection only when all of it is equal."""

    host: str
    port: int
    login: str
    secret_digest: bytes
    transport: tuple[str, ...] = ()  # what else must be equal: database, TLS, accepted host keys


def kept_key(target: Target, credential: Credential, *transport: str) -> KeptKey:
    """Return the key under which the credential's connection to the target is kept."""
    parts = [part.reveal() if part is not None else "" for part in (credential.password, credential.private_key)]
    digest = hmac.digest(_PROCESS_KEY, "\0".join(parts).encode(errors="surrogatepass"), "sha256")
    return KeptKey(
        host=target.host, port=target.port, login=credential.login, secret_digest=digest, transport=transport
    )


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

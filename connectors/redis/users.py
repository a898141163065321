"""What one Redis server says of itself and of its users, and how a user's passwords are set there.

Source: redis.io documentation, "ACL" and the commands ``ACL SETUSER``, ``ACL GETUSER``, ``ACL SAVE``, ``CONFIG REWRITE``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from connectors.redis.errors import Garbled, ServerRefusal
from connectors.redis.link import Link
from connectors.redis.wire import Reply, text_of
from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["Keeping", "Server", "User", "check_login", "digest", "find_user", "keep", "list_users", "look_at"]

_NOTHING = (
    "+no-such-command-of-pam-jobs"  # no rule: the server checks the right first, then refuses this and does nothing
)
_SPACES = frozenset(" \t\n\v\f\r\0")


class Keeping(StrEnum):
    """How a server remembers its users beyond a restart."""

    ACL_FILE = "ACL SAVE"  # a file of users of its own
    CONFIG_FILE = "CONFIG REWRITE"  # lines of its configuration file
    NOWHERE = ""  # it has no file to write


@dataclass(frozen=True, kw_only=True)
class Server:
    """What was learned at the beginning of a session."""

    title: str  # software and version
    mode: str  # standalone, cluster or sentinel
    is_replica: bool
    keeping: Keeping
    has_users: bool  # False before Redis 6, and where ACL was renamed away: one password for everybody
    replicas: tuple[tuple[str, int], ...] = ()  # as they announce themselves to this primary
    replicates_as: str = ""  # the user that a replica logs in to its primary with; "" is default


@dataclass(frozen=True, kw_only=True)
class User:
    """A user's state, as the server tells it."""

    is_on: bool
    takes_any_password: bool
    digests: tuple[str, ...]  # SHA-256 of each password, in hexadecimal

    def __repr__(self) -> str:
        return f"User(is_on={self.is_on}, passwords={len(self.digests)})"


def check_login(login: str) -> None:
    """Make sure that the server could have a user of this name.

    Raises:
        Unsupported: it could not.
    """
    if not login or _SPACES & set(login):
        raise Unsupported("the login is no name of a user", remedy="a user's name here has no spaces and no NUL")


def digest(password: SecretValue) -> str:
    """Return what the server keeps of a password."""
    return hashlib.sha256(password.reveal().encode()).hexdigest()


def look_at(link: Link) -> Server:
    """Ask the server; changes nothing.

    Raises:
        ServerRefusal: it does not tell.
        Garbled, OSError: no answer.
    """
    facts = dict(_facts(text_of(link.ask("INFO", "server")) + "\n" + text_of(link.ask("INFO", "replication"))))
    name = "Valkey" if facts.get("valkey_version") else "Redis"
    version = facts.get("valkey_version") or facts.get("redis_version", "")
    has_users = True
    try:
        link.ask("ACL", "WHOAMI")
    except ServerRefusal as refusal:
        if refusal.code == "NOPERM":
            raise
        has_users = False
    settings = _settings(link, "aclfile") | _settings(link, "masteruser")
    return Server(
        title=f"{name} {version}".strip(), mode=facts.get("redis_mode") or facts.get("server_mode", "standalone"),
        is_replica=facts.get("role") in {"slave", "replica"}, has_users=has_users,
        keeping=Keeping.ACL_FILE if has_users and settings.get("aclfile") else
        Keeping.CONFIG_FILE if facts.get("config_file") else Keeping.NOWHERE,
        replicas=tuple(_replica(value) for key, value in facts.items() if key.startswith("slave") and "ip=" in value),
        replicates_as=settings.get("masteruser", ""),
    )  # fmt: skip


def find_user(link: Link, login: str) -> User | None:
    """Return the user, or None when there is none.

    Raises:
        ServerRefusal: the rotator may not ask.
        Garbled, OSError: no answer.
    """
    reply = link.ask("ACL", "GETUSER", login)
    if reply is None:
        return None
    if not isinstance(reply, list) or len(reply) % 2:
        raise Garbled
    told = {text_of(key): value for key, value in zip(reply[::2], reply[1::2], strict=True)}
    flags = _texts(told.get("flags"))
    return User(is_on="on" in flags, takes_any_password="nopass" in flags, digests=tuple(_texts(told.get("passwords"))))


def list_users(link: Link) -> dict[str, User]:
    """Return all users by name.

    Raises:
        ServerRefusal: the rotator may not ask.
        Garbled, OSError: no answer.
    """
    found = {}
    for line in _texts(link.ask("ACL", "LIST")):
        words = line.split(" ")
        if len(words) > 2 and words[0] == "user":
            digests = tuple(word[1:] for word in words[2:] if word.startswith("#"))
            found[words[1]] = User(is_on="on" in words[2:], takes_any_password="nopass" in words[2:], digests=digests)
    return found


def may_set(link: Link, login: str) -> bool:
    """Say whether the rotator may change the user, by a rule that the server refuses for what it says.

    Raises:
        ServerRefusal, Garbled, OSError: neither a yes nor a no.
    """
    try:
        link.ask("ACL", "SETUSER", login, _NOTHING)
    except ServerRefusal as refusal:
        if refusal.code == "NOPERM":
            return False
        if refusal.code == "ERR" and "modifier" in refusal.text:
            return True
        raise
    raise Garbled


def keep(link: Link, server: Server) -> None:
    """Let the server write down its users, so that a restart does not bring an old password back.

    Raises:
        ServerRefusal: it could not write.
        Garbled, OSError: no answer.
    """
    if server.keeping is not Keeping.NOWHERE:
        link.ask(*server.keeping.value.split())


def _facts(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            yield key, value.strip()


def _settings(link: Link, name: str) -> dict[str, str]:
    """Return a setting; nothing where the server does not know it.

    Raises:
        ServerRefusal: the rotator may not ask.
        Garbled, OSError: no answer.
    """
    reply = link.ask("CONFIG", "GET", name)
    texts = _texts(reply)
    return dict(zip(texts[::2], texts[1::2], strict=False))


def _texts(reply: Reply) -> list[str]:
    return [text_of(each) for each in reply] if isinstance(reply, list) else []


def _replica(value: str) -> tuple[str, int]:
    told = dict(part.partition("=")[::2] for part in value.split(","))
    port = told.get("port", "0")
    return told.get("ip", ""), int(port) if port.isdigit() else 0

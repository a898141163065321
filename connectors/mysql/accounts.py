"""Accounts of MySQL and MariaDB: their names, which of them a login reaches, and the statement that changes them."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from connectors.mysql.hashes import ed25519_hash, native_hash
from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

__all__ = [
    "HASHES",
    "Identity",
    "Login",
    "alter_user",
    "check_plugin",
    "discard_old",
    "from_mariadb",
    "from_mysql",
    "lock_name",
    "parse_login",
    "reached_from",
    "set_own",
]

HASHES: dict[str, Callable[[bytes], str]] = {"mysql_native_password": native_hash, "ed25519": ed25519_hash}
"""Plugins whose stored form is computed here."""

_IN_CLEAR = frozenset({"caching_sha2_password", "sha256_password"})
_NEVER = frozenset({"mysql_no_login", "mysql_old_password", "parsec"})
_RETAINED = " RETAIN CURRENT PASSWORD"
_NAME_CHARACTERS = 128  # of MariaDB; MySQL has 32


@dataclass(frozen=True, kw_only=True)
class Login:
    """The login of a record: a user on all of its hosts, or on one."""

    user: str
    host: str | None = None  # None: every host of the user


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One account of the server."""

    user: str
    host: str
    methods: tuple[tuple[str, str], ...] = ()  # plugin and what it stores, the one tried first in front
    ssl: str = ""  # "any", or "certificate" when the client has to have one
    is_locked: bool = False
    is_expired: bool = False
    has_second: bool = False  # MySQL keeps a former password beside the present one
    last_set: datetime | None = None
    lifetime_days: int | None = None  # None: the server's own; 0: for ever

    @property
    def name(self) -> str:
        """Return the account as a person writes it."""
        return f"{self.user}@{self.host}"

    @property
    def plugin(self) -> str | None:
        """Return the plugin whose password can be set and tried; None when the account has none."""
        known = (plugin for plugin, _ in self.methods if plugin in HASHES or plugin in _IN_CLEAR)
        return next(known, None)

    @property
    def has_password(self) -> bool:
        """Say whether this server keeps a password of the account that can be set and tried."""
        return self.plugin is not None and self.methods[0][0] not in _NEVER

    def __repr__(self) -> str:
        return f"Identity({self.name})"


def parse_login(text: str) -> Login:
    """Return what a record's login names: ``user`` or ``user@host``, split at the last ``@``.

    Raises:
        Unsupported: it is no name of an account.
    """
    user, at, host = text.rpartition("@")
    login = Login(user=user, host=host) if at else Login(user=text)
    if not login.user or len(login.user) > _NAME_CHARACTERS or login.host == "" or "\0" in text:
        raise Unsupported(
            "the login is no name of an account",
            remedy="write user, or user@host; a user that contains @ needs its host",
        )
    return login


def from_mariadb(user: str, host: str, privileges: str) -> Identity | None:
    """Return the account of a row of ``mysql.global_priv``; None when it is a role."""
    data: dict[str, Any] = json.loads(privileges or "{}")
    if data.get("is_role"):
        return None
    parts = [part or data for part in data.get("auth_or") or [{}]]
    methods = tuple((_plugin(part), str(part.get("authentication_string") or "")) for part in parts)
    changed, lifetime = data.get("password_last_changed"), int(data.get("password_lifetime", -1))
    return Identity(
        user=user, host=host, methods=methods, ssl=_ssl(int(data.get("ssl_type", 0))),
        is_locked=bool(data.get("account_locked")), is_expired=changed == 0,
        last_set=datetime.fromtimestamp(int(changed), UTC) if changed else None,
        lifetime_days=None if lifetime < 0 else lifetime,
    )  # fmt: skip


def from_mysql(row: Sequence[Any]) -> Identity:
    """Return the account of a row of ``mysql.user``: user, host, plugin, ssl_type, account_locked, password_expired,
    seconds since 1970 of the last change, password_lifetime, user_attributes.
    """  # noqa: D205 - one list
    user, host, plugin, ssl, locked, expired, changed, lifetime, attributes = row
    return Identity(
        user=user, host=host, methods=((plugin or "mysql_native_password", ""),),
        ssl={"": "", "ANY": "any"}.get(ssl or "", "certificate"), is_locked=locked == "Y", is_expired=expired == "Y",
        last_set=datetime.fromtimestamp(int(changed), UTC) if changed else None,
        lifetime_days=None if lifetime is None else int(lifetime), has_second="additional_password" in str(attributes),
    )  # fmt: skip


def _plugin(part: dict[str, Any]) -> str:
    return str(part.get("plugin") or "mysql_native_password")


def _ssl(number: int) -> str:
    return {0: "", 1: "any"}.get(number, "certificate")


def alter_user(
    accounts: Sequence[Identity], password: bytes, *, is_mariadb: bool, in_clear: bool, keeps: bool = False
) -> tuple[str, list[str]]:
    """Return the one statement that sets the password of all accounts, and its values for the driver to quote.

    Every account keeps its plugins; what is no password stays as it is.

    Args:
        accounts: at least one.
        password: UTF-8.
        is_mariadb: the server is MariaDB, which writes authentication in its own way.
        in_clear: send the password itself, because the server has rules for it.
        keeps: MySQL goes on accepting the old password, too.

    Raises:
        Unsupported: an account has no password that could be set and tried.
    """
    retained = _RETAINED if keeps else ""
    parts, values = [], list[str]()
    for account in accounts:
        words, more = _identified(account, password, is_mariadb=is_mariadb, in_clear=in_clear)
        parts.append("%s@%s IDENTIFIED " + words + retained)
        values += [account.user, account.host, *more]
    return "ALTER USER " + ", ".join(parts), values


def set_own(
    account: Identity,
    password: bytes,
    current: SecretValue | None,
    *,
    is_mariadb: bool,
    in_clear: bool,
    keeps: bool = False,
) -> tuple[str, list[str]]:
    """Return the statement with which a login without rights on others sets its own password, and its values.

    Args:
        account: its own, with the plugin that it logged in by.
        password: UTF-8.
        current: what it logged in with, which MySQL may ask for.
        is_mariadb: the server is MariaDB.
        in_clear: send the password itself.
        keeps: MySQL goes on accepting the old password, too.
    """
    check_plugin(account)
    plugin = account.plugin or ""
    if is_mariadb:  # keeps the account's plugins
        return ("SET PASSWORD = PASSWORD(%s)", [password.decode()]) if in_clear else (
            "SET PASSWORD = %s", [HASHES[plugin](password)]
        )  # fmt: skip
    values = [password.decode(), *([current.reveal()] if current else [])]
    more = (" REPLACE %s" if current else "") + (_RETAINED if keeps else "")
    return "ALTER USER USER() IDENTIFIED BY %s" + more, values


def discard_old(accounts: Sequence[Identity]) -> tuple[str, list[str]]:
    """Return the statement after which MySQL accepts the accounts' present passwords alone, and its values."""
    names = [name for account in accounts for name in (account.user, account.host)]
    return "ALTER USER " + ", ".join("%s@%s DISCARD OLD PASSWORD" for _ in accounts), names


def _identified(account: Identity, password: bytes, *, is_mariadb: bool, in_clear: bool) -> tuple[str, list[str]]:
    check_plugin(account)
    if not is_mariadb:
        plugin = account.plugin or ""
        if plugin in HASHES and not in_clear:
            return f"WITH {plugin} AS %s", [HASHES[plugin](password)]
        return f"WITH {plugin} BY %s", [password.decode()]
    words, values = [], list[str]()
    for plugin, stored in account.methods:
        if not re.fullmatch(r"\w{1,64}", plugin):
            raise Unsupported(f"account {account.name!r} logs in by the unknown plugin {plugin!r}")
        if plugin in HASHES or plugin in _IN_CLEAR:
            is_hash = plugin in HASHES and not in_clear
            words.append(f"{plugin} USING {'%s' if is_hash else 'PASSWORD(%s)'}")
            values.append(HASHES[plugin](password) if is_hash else password.decode())
        elif stored:
            words.append(f"{plugin} USING %s")
            values.append(stored)
        else:
            words.append(plugin)
    return "VIA " + " OR ".join(words), values


def check_plugin(account: Identity) -> None:
    """Make sure that the account has a password of its own.

    Raises:
        Unsupported: something else than the server looks at its password, or it has none.
    """
    if not account.has_password:
        plugins = ", ".join(plugin for plugin, _ in account.methods)
        raise Unsupported(
            f"account {account.name!r} logs in by {plugins}, which keeps no password on this server",
            remedy="rotate it where its password is kept, or give the account a password plugin",
        )


def reached_from(accounts: Iterable[Identity], addresses: Sequence[str]) -> Identity | str | None:
    """Return the account that a login from these addresses reaches.

    The server takes the most exact host first, and of equal hosts a named user before the anonymous one.

    Args:
        accounts: those of one user and the anonymous ones.
        addresses: how the server sees the gateway: its address, and its name where the server looks names up.

    Returns:
        The account; None when no host fits; "unsure" when a host name decides that only the server can look up.
    """
    ordered = sorted(accounts, key=lambda each: (_breadth(each.host), each.user == ""))
    for account in ordered:
        fits = [_fits(account.host, address) for address in addresses]
        if any(fit is True for fit in fits):
            return account
        if any(fit is None for fit in fits):
            return "unsure"
    return None


def _breadth(host: str) -> tuple[int, int]:
    """Return how much a host pattern matches: exact ones first, then those whose fixed beginning is the longest."""
    wild = re.search(r"[%_]", host)
    if "/" in host:
        return 1, 0
    return (0, 0) if wild is None else (2, -wild.start())


def _fits(host: str, address: str) -> bool | None:
    """Say whether a host pattern matches an address; None when only the server can tell."""
    if _like(host, address):
        return True
    try:
        here = ipaddress.ip_address(address)
        if "/" in host:
            return here in ipaddress.ip_network(host, strict=False)
    except ValueError:
        return False if "/" not in host else None
    names = host == "localhost" and here.is_loopback
    return None if names or (host != "localhost" and re.search(r"[A-Za-z]", host) and ":" not in host) else False


def _like(pattern: str, text: str) -> bool:
    """Match as LIKE does, without regard to case."""
    words = re.split(r"(\\.|[%_])", pattern)
    made = "".join({"%": ".*", "_": "."}.get(word, re.escape(word.removeprefix("\\"))) for word in words)
    return re.fullmatch(made, text, re.IGNORECASE | re.DOTALL) is not None


def lock_name(user: str) -> str:
    """Return the name of the lock of a user: it holds 64 characters at most, and no secret."""
    return "pam-jobs-" + hashlib.sha256(user.encode()).hexdigest()[:40]

"""What is sent to change a password, worked out from what was learned of accounts and server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from connectors.mysql.accounts import HASHES, Identity, alter_user, check_plugin, set_own
from connectors.mysql.server import Server
from connectors.options import is_wanted
from pam_jobs.errors import Forbidden, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["Change", "Found", "check_dual", "keeps_old", "planned"]

_DUAL = "Dual Password"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a record's login stands for on the server."""

    accounts: tuple[Identity, ...]  # to change, all of them
    is_own: bool  # the rotator is one of them
    by_itself: bool  # the rotator may change nothing but itself


@dataclass(frozen=True, kw_only=True)
class Change:
    """One statement, with the values that the driver quotes."""

    statement: str
    values: tuple[object, ...]
    in_clear: bool  # it holds the secret itself
    discards: tuple[Identity, ...] = ()  # afterwards: accounts that still have a second password from an earlier change

    def __repr__(self) -> str:
        return f"Change({self.statement!r})"


def keeps_old(options: Mapping[str, str]) -> bool:
    """Say whether the resource record wants the old password to be accepted beside the new one.

    Raises:
        Unsupported: its field says neither yes nor no.
    """
    return is_wanted(options, _DUAL)


def check_dual(options: Mapping[str, str], found: Found, server: Server) -> None:
    """Make sure that the server can keep the old password, where the record wants that.

    Raises:
        Unsupported: it has no such thing.
        Forbidden: the rotator may not do it.
    """
    if not keeps_old(options):
        return
    if not server.keeps_two:
        raise Unsupported(f"{server.title} keeps one password alone", remedy=f"remove the custom field {_DUAL}")
    if found.by_itself and not server.may_keep_own:
        raise Forbidden(
            "the account may not keep its own old password", remedy="give it APPLICATION_PASSWORD_ADMIN ON *.*"
        )


def planned(
    found: Found, password: bytes, server: Server, *, current: SecretValue | None, is_private: bool, keeps: bool
) -> Change:
    """Return what to send.

    Args:
        found: the accounts.
        password: UTF-8.
        server: theirs.
        current: what the rotator logged in with.
        is_private: the connection is encrypted, or never leaves this machine.
        keeps: the old password stays valid beside the new one; see ``check_dual``.

    Raises:
        Unsupported: the password would have to travel in clear without TLS, or an account has none.
    """
    for each in found.accounts:
        check_plugin(each)
    needs_clear = keeps or not all(each.plugin in HASHES for each in found.accounts)
    needs_clear = needs_clear or (found.by_itself and not server.is_mariadb)
    in_clear = needs_clear or (server.has_rules and (server.refuses_hashes or is_private))
    if in_clear and not is_private:
        raise Unsupported(
            "the server takes this password in clear only, and the connection has no TLS",
            remedy="turn TLS on in the resource record",
        )
    if found.by_itself:
        own, mariadb = found.accounts[0], server.is_mariadb
        statement, values = set_own(own, password, current, is_mariadb=mariadb, in_clear=in_clear, keeps=keeps)
    else:
        statement, values = alter_user(
            found.accounts, password, is_mariadb=server.is_mariadb, in_clear=in_clear, keeps=keeps
        )
    second = () if keeps or found.by_itself else tuple(each for each in found.accounts if each.has_second)
    return Change(statement=statement, values=tuple(values), in_clear=in_clear, discards=second)

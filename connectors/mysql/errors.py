"""What MySQL, MariaDB and the driver say, as what is known of the target. Every mapping of this connector is here."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pymysql import err

from connectors.base import Verdict, VerdictState
from connectors.errors import mapping, refused, unanswered, unproven
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    Forbidden,
    Locked,
    NotApplied,
    PolicyRefused,
    TargetError,
    Unreachable,
    Unsupported,
)

__all__ = ["BY_CODE", "BY_DRIVER_TYPE", "FAILURES", "ServerRefusal", "map_error", "mapped", "verdict_of"]


@dataclass(kw_only=True, eq=False)
class ServerRefusal(Exception):
    """The server answered with an error."""

    code: int  # of the server, 1000 to 1999 or from 3000 on
    text: str = ""  # the server's sentence; of a syntax error it would quote the statement, so that one is left out
    plugin: str = ""  # during a login: how the server wanted the password
    without_tls: bool = False  # during a login: it went without TLS although the server speaks it

    def __str__(self) -> str:
        return f"{self.text} ({self.code})" if self.text else f"error {self.code}"


FAILURES = (
    *(ServerRefusal, TimeoutError, err.MySQLError, OSError, UnicodeError),
    *(ValueError, LookupError, struct.error, AssertionError, RuntimeError, TypeError),
)
"""Whatever the link raises; the second line is what the driver makes of bytes that are no MySQL."""

_RIGHTS = "give the rotator CREATE USER ON *.* and SELECT ON mysql.*"
_FULL = "raise max_connections or the account's limit, or lower the load"

BY_CODE: dict[int, tuple[type[NotApplied], str | None]] = {
    1045: (AuthRejected, "check the rotator's password, and that its account may log in from the gateway's address"),
    1698: (AuthRejected, "give the rotator an account that logs in with a password"),
    3891: (AuthRejected, "check the account's password in its record"),
    1044: (Forbidden, _RIGHTS), 1131: (Forbidden, _RIGHTS), 1132: (Forbidden, _RIGHTS), 1141: (Forbidden, _RIGHTS),
    1142: (Forbidden, _RIGHTS), 1143: (Forbidden, _RIGHTS), 1227: (Forbidden, _RIGHTS),
    1130: (Forbidden, "create the account for the gateway's address"),
    1064: (Unsupported, "use MySQL 5.7 or newer, or MariaDB 10.4 or newer"),
    1133: (Unsupported, "check the login in the user record"),
    1146: (Unsupported, "use MySQL 5.7 or newer, or MariaDB 10.4 or newer"),
    1193: (Unsupported, "use MySQL 5.7 or newer, or MariaDB 10.4 or newer"),
    1290: (Unsupported, "point the resource record at the primary, or change the option that the server names"),
    1372: (Unsupported, "check the account's authentication plugin"),
    1396: (Unsupported, "check the login in the user record"),
    1524: (Unsupported, "load the account's authentication plugin on the server"),
    1792: (Unsupported, "point the resource record at the primary"),
    1836: (Unsupported, "point the resource record at the primary"),
    3892: (Unsupported, "give the resource record an administrator"),
    1819: (PolicyRefused, "raise the complexity of the record's password rules"),
    3638: (PolicyRefused, "set another value; the server keeps a password history"),
    1820: (Locked, "let an administrator set a password, its own or another's"),
    1862: (Locked, "let an administrator set a password, its own or another's"),
    3118: (Locked, "ALTER USER … ACCOUNT UNLOCK"), 4151: (Locked, "ALTER USER … ACCOUNT UNLOCK"),
    3955: (Locked, "ALTER USER … ACCOUNT UNLOCK"), 4150: (Locked, "FLUSH PRIVILEGES"),
    1040: (Unreachable, _FULL), 1203: (Unreachable, _FULL), 1226: (Unreachable, _FULL),
    1129: (Unreachable, "run mysqladmin flush-hosts on the server"),
    1047: (Unreachable, "wait until the cluster's node is ready"),
    1053: (Unreachable, "wait until the server has started"),
    1043: (Unreachable, "check what stands between gateway and server"),
    1251: (Unreachable, "check the account's authentication plugin"),
    1275: (Unreachable, "check the account's authentication plugin"),
    3159: (Unreachable, "turn TLS on in the resource record"),
    1205: (NotApplied, "another session holds the grant tables; try again when it has ended"),
    1213: (NotApplied, "try again"),
    1223: (NotApplied, "try again when the backup that holds the read lock has ended"),
}  # fmt: skip
"""Codes with a meaning of their own, and the remedy. Once the change was sent, these alone say that nothing changed."""

_CANNOT_USER = 1396
_END_MIDWAY = frozenset({1047, 1053})  # they may come after the change took effect
_OTHER_PLUGINS = frozenset({"dialog", "mysql_clear_password"})  # a directory or PAM behind it looks at the password

BY_DRIVER_TYPE: dict[type[Exception], type[NotApplied]] = {
    err.DataError: Unsupported,
    err.IntegrityError: NotApplied,
    err.NotSupportedError: Unsupported,
    err.ProgrammingError: Unsupported,
    err.OperationalError: Unreachable,
    err.InternalError: Unreachable,
    err.DatabaseError: NotApplied,
    err.InterfaceError: Unreachable,
    err.Error: NotApplied,
    err.Warning: NotApplied,
    err.MySQLError: NotApplied,
    UnicodeError: Unsupported,
    OSError: Unreachable,
    ValueError: Unreachable,
    LookupError: Unreachable,
    struct.error: Unreachable,
    AssertionError: Unreachable,
    RuntimeError: Unreachable,
    TypeError: Unreachable,
}
"""What the driver's own failures mean before anything was sent; the first class that fits, from the most special on."""


def map_error(error: Exception, *, sent: bool, several: bool = False) -> TargetError:
    """Return our error for whatever the driver or the server said.

    Args:
        error: from the link: ``ServerRefusal``, ``TimeoutError``, or an exception of the driver.
        sent: the change was on its way, so that silence proves nothing.
        several: the change is one of several accounts, which the server changes one by one.
    """
    if isinstance(error, TargetError):
        return error
    if isinstance(error, ServerRefusal):
        if sent and several and error.code == _CANNOT_USER:  # some of them may have been changed
            return AmbiguousReply(f"the server answered the change with: {error}")
        return refused(error, error.code, BY_CODE, sent=sent, ended=error.code in _END_MIDWAY)
    if sent:
        return unanswered(error)
    if isinstance(error, TimeoutError):
        return Unreachable("the server did not answer in time")
    kind = next((ours for theirs, ours in BY_DRIVER_TYPE.items() if isinstance(error, theirs)), Unreachable)
    return kind(f"the driver could not go on ({_told(error)})", remedy="check host, port and TLS settings")


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


_STATES = {
    1045: (VerdictState.REFUSED, "wrong_password"),
    1820: (VerdictState.ACCEPTED, "expired"),
    1862: (VerdictState.ACCEPTED, "expired"),  # the server says so only after it has accepted the password
    3118: (VerdictState.LOCKED, "account_locked"),
    4151: (VerdictState.LOCKED, "account_locked"),
    3955: (VerdictState.LOCKED, "too_many_failures"),
    4150: (VerdictState.LOCKED, "too_many_failures"),
    1040: (VerdictState.UNKNOWN, "too_many_connections"),
    1203: (VerdictState.UNKNOWN, "too_many_connections"),
    1226: (VerdictState.UNKNOWN, "too_many_connections"),
    1129: (VerdictState.UNKNOWN, "host_blocked"),
    1130: (VerdictState.UNKNOWN, "not_allowed_from_here"),
    1053: (VerdictState.UNKNOWN, "starting_up"),
    1047: (VerdictState.UNKNOWN, "starting_up"),
    1698: (VerdictState.UNKNOWN, "external_authentication"),
    3159: (VerdictState.UNKNOWN, "needs_tls"),
}


def verdict_of(error: Exception) -> Verdict:
    """Return what a failed login proves of the credential: only a refusal after the password was looked at does."""
    if isinstance(error, ServerRefusal):
        state, cause = _STATES.get(error.code, (VerdictState.UNKNOWN, "refused_login"))
        if state is VerdictState.REFUSED and error.plugin in _OTHER_PLUGINS:
            state, cause = VerdictState.UNKNOWN, "external_authentication"
        if state is VerdictState.REFUSED and error.without_tls:  # so the server answers for an account with REQUIRE SSL
            state, cause = VerdictState.UNKNOWN, "refused_without_tls"
        return Verdict(state=state, cause=cause, detail=str(error))
    return unproven(error, map_error)


def _told(error: Exception) -> str:
    """Return what a person needs of the driver's own failure: its text holds host and reason, never a statement."""
    text = str(error.args[1]) if isinstance(error, err.OperationalError) and len(error.args) > 1 else ""
    return text[:200] or type(error).__name__

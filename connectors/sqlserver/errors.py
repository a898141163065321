"""What SQL Server and FreeTDS say, as what is known of the target. Every mapping of this connector is here.

Source: Microsoft documentation, "Database Engine events and errors".
"""

from __future__ import annotations

from dataclasses import dataclass

from connectors.base import Verdict, VerdictState
from connectors.errors import mapping, refused, unanswered, unproven
from pam_jobs.errors import (
    AuthRejected,
    Forbidden,
    Locked,
    NotApplied,
    PolicyRefused,
    TargetError,
    Unreachable,
    Unsupported,
)

__all__ = ["BY_NUMBER", "FAILURES", "DriverFailure", "ServerRefusal", "map_error", "mapped", "refusal_of", "verdict_of"]


@dataclass(kw_only=True, eq=False)
class ServerRefusal(Exception):
    """The server answered with an error."""

    number: int
    state: int = 1
    severity: int = 16  # from 20 on the server ends the connection
    text: str = ""  # the server's sentence; of a syntax error it would quote the statement, so that one is left out

    def __str__(self) -> str:
        return f"{self.text} ({self.number})" if self.text else f"error {self.number}"


@dataclass(kw_only=True, eq=False)
class DriverFailure(Exception):
    """FreeTDS, or the process around it, failed on its own; its text names host and reason, never a statement."""

    kind: str = ""  # class of the driver's exception; empty when the process ended
    text: str = ""

    def __str__(self) -> str:
        return self.text or self.kind or "the driver's process ended"


FAILURES = (ServerRefusal, DriverFailure, TimeoutError, OSError, UnicodeError)
"""Whatever the link raises."""

_RIGHTS = (
    "give the rotator ALTER ANY LOGIN; for members of sysadmin CONTROL SERVER; in a contained database ALTER ANY USER"
)
_POLICY = "raise the complexity of the record's password rules"
_UNLOCK = "unlock it on the server, or set the custom field Unlock of the resource to TRUE"
_BUSY = "lower the load on the server, or try again later"
_DATABASE = "check connectDatabase of the user and of the resource record"
_LOGIN_FAILED = 18456

BY_NUMBER: dict[int, tuple[type[NotApplied], str | None]] = {
    18456: (AuthRejected, "check the rotator's password, and that the server allows SQL Server authentication"),
    15211: (AuthRejected, "check the account's password in its record"),
    18452: (Unsupported, "use a SQL login: this is a Windows login, or the server takes Windows logins alone"),
    18470: (Locked, "ALTER LOGIN … ENABLE"),
    18486: (Locked, _UNLOCK), 15113: (Locked, _UNLOCK),
    18487: (Locked, "let an administrator set a password"), 18488: (Locked, "let an administrator set a password"),
    15151: (Forbidden, _RIGHTS), 15247: (Forbidden, _RIGHTS), 15165: (Forbidden, _RIGHTS),
    229: (Forbidden, _RIGHTS), 230: (Forbidden, _RIGHTS), 297: (Forbidden, _RIGHTS), 300: (Forbidden, _RIGHTS),
    262: (Forbidden, _RIGHTS), 916: (Forbidden, _RIGHTS), 17892: (Forbidden, "change the server's logon trigger"),
    40615: (Forbidden, "let the gateway's address through the server's firewall"),
    15114: (PolicyRefused, "wait until the password's minimum age has passed, or rotate by an administrator"),
    15115: (PolicyRefused, _POLICY), 15116: (PolicyRefused, _POLICY), 15117: (PolicyRefused, _POLICY),
    15118: (PolicyRefused, _POLICY), 15119: (PolicyRefused, _POLICY), 40632: (PolicyRefused, _POLICY),
    15128: (Unsupported, "let the login's owner change its password first"),
    15007: (Unsupported, "check the login in the user record"),
    33233: (Unsupported, _DATABASE), 33234: (Unsupported, _DATABASE), 33262: (Unsupported, _DATABASE),
    102: (Unsupported, "use SQL Server 2012 or newer"), 156: (Unsupported, "use SQL Server 2012 or newer"),
    208: (Unsupported, "use SQL Server 2012 or newer"), 2812: (Unsupported, "use SQL Server 2012 or newer"),
    911: (Unsupported, _DATABASE), 942: (Unsupported, "bring the database on-line"), 4060: (Unsupported, _DATABASE),
    4063: (Unsupported, _DATABASE), 4064: (Unsupported, _DATABASE),
    3906: (Unsupported, "point the resource record at the primary"),
    976: (Unsupported, "point the resource record at the primary replica"),
    978: (Unsupported, "point the resource record at the primary replica"),
    1205: (NotApplied, "try again"),
    1222: (NotApplied, "another session holds the login; try again when it has ended"),
    6005: (Unreachable, "wait until the server has started"), 17142: (Unreachable, "resume the server"),
    17187: (Unreachable, "wait until the server has started"), 18401: (Unreachable, "wait until the upgrade has ended"),
    18461: (Unreachable, "wait until the server leaves single-user mode"),
    17809: (Unreachable, _BUSY), 17810: (Unreachable, _BUSY), 10928: (Unreachable, _BUSY), 10929: (Unreachable, _BUSY),
    40197: (Unreachable, _BUSY), 40501: (Unreachable, _BUSY), 40613: (Unreachable, _BUSY), 701: (Unreachable, _BUSY),
}  # fmt: skip
"""Numbers with a meaning of their own, and the remedy. Once the change was sent, these alone say that nothing changed."""

_FATAL = 20  # severity from which on the server ends the connection
_END_MIDWAY = frozenset({6005, 40197, 40613, 701})  # they may come after the change took effect
_QUOTES_STATEMENT = frozenset({102, 103, 105, 156, 319})  # "Incorrect syntax near …"


def map_error(error: Exception, *, sent: bool) -> TargetError:
    """Return our error for whatever the driver or the server said.

    Args:
        error: from the link: ``ServerRefusal``, ``DriverFailure``, ``TimeoutError`` …
        sent: the change was on its way, so that silence proves nothing.
    """
    if isinstance(error, TargetError):
        return error
    if isinstance(error, ServerRefusal):
        ended = error.number in _END_MIDWAY or error.severity >= _FATAL
        return refused(error, error.number, BY_NUMBER, sent=sent, ended=ended)
    if sent:
        return unanswered(error)
    if isinstance(error, TimeoutError):
        return Unreachable("the server did not answer in time")
    if isinstance(error, UnicodeError):
        return Unsupported("a value is no text that the driver can send", remedy="correct the user record")
    return Unreachable(f"no connection to the server: {error}", remedy="check host, port and TLS settings")


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


def refusal_of(messages: list[tuple[int, int, int, str]]) -> ServerRefusal | None:
    """Return what the server's messages refuse; None when they are only news.

    A login that fails for another reason than its password ends with 18456 too: the message before it tells.
    """
    errors = [message for message in messages if message[2] > 10]  # up to 10 they only inform
    if not errors:
        return None
    reasons = [message for message in errors if message[0] != _LOGIN_FAILED] or errors
    number, state, severity, text = reasons[0]
    return ServerRefusal(
        number=number, state=state, severity=severity, text="" if number in _QUOTES_STATEMENT else text[:300]
    )


_STATES = {
    18456: (VerdictState.REFUSED, "wrong_password"),
    18487: (VerdictState.ACCEPTED, "expired"),  # the server says so only after it has accepted the password
    18488: (VerdictState.ACCEPTED, "change_after_reset"),
    18470: (VerdictState.LOCKED, "disabled"),
    18486: (VerdictState.LOCKED, "account_locked"),
    15113: (VerdictState.LOCKED, "account_locked"),
    18452: (VerdictState.UNKNOWN, "method_not_allowed"),
    4060: (VerdictState.UNKNOWN, "no_database"), 4063: (VerdictState.UNKNOWN, "no_database"),
    4064: (VerdictState.UNKNOWN, "no_database"), 916: (VerdictState.UNKNOWN, "no_database"),
    17809: (VerdictState.UNKNOWN, "too_many_connections"), 17810: (VerdictState.UNKNOWN, "too_many_connections"),
    10928: (VerdictState.UNKNOWN, "too_many_connections"), 10929: (VerdictState.UNKNOWN, "too_many_connections"),
    17142: (VerdictState.UNKNOWN, "starting_up"), 17187: (VerdictState.UNKNOWN, "starting_up"),
    18401: (VerdictState.UNKNOWN, "starting_up"), 6005: (VerdictState.UNKNOWN, "starting_up"),
    18461: (VerdictState.UNKNOWN, "starting_up"), 40613: (VerdictState.UNKNOWN, "starting_up"),
    17892: (VerdictState.UNKNOWN, "not_allowed_from_here"), 40615: (VerdictState.UNKNOWN, "not_allowed_from_here"),
}  # fmt: skip


def verdict_of(error: Exception) -> Verdict:
    """Return what a failed login proves of the credential: only a refusal after the password was looked at does."""
    if isinstance(error, ServerRefusal):
        state, cause = _STATES.get(error.number, (VerdictState.UNKNOWN, "refused_login"))
        return Verdict(state=state, cause=cause, detail=str(error))
    return unproven(error, map_error)

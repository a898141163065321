"""What Oracle and its driver say, as what is known of the target. Every mapping of this connector is here.

Source: Oracle Database Error Messages Reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import oracledb

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

__all__ = ["BY_CODE", "FAILURES", "DriverFailure", "ServerRefusal", "map_error", "mapped", "refusal_of", "verdict_of"]


@dataclass(kw_only=True, eq=False)
class ServerRefusal(Exception):
    """The database, or its listener, answered with an error."""

    code: int  # of ORA-
    text: str = ""  # the server's sentence; never a statement

    def __str__(self) -> str:
        return self.text or f"ORA-{self.code:05}"


@dataclass(kw_only=True, eq=False)
class DriverFailure(Exception):
    """The driver failed on its own; its text names host and reason, never a statement."""

    code: str = ""  # of DPY-
    text: str = ""

    def __str__(self) -> str:
        return self.text or self.code or "the connection ended"


FAILURES = (ServerRefusal, DriverFailure, TimeoutError, OSError, UnicodeError)
"""Whatever the link raises."""

_RIGHTS = "GRANT ALTER USER and SELECT_CATALOG_ROLE to the rotator"
_POLICY = "raise the complexity of the record's password rules; the profile's verify function has its own"
_BUSY = "raise PROCESSES and SESSIONS, or lower the load"
_SERVICE = "check connectDatabase of the resource record: it is the service's name"
_START = "wait until the database is open"
_ROOT = "rotate a common user in the root container: set connectDatabase to the root's service"

BY_CODE: dict[int, tuple[type[NotApplied], str | None]] = {
    1017: (AuthRejected, "check the rotator's password"), 28008: (AuthRejected, "check the password in the user record"),
    28000: (Locked, "ALTER USER … ACCOUNT UNLOCK"), 28001: (Locked, "rotate the user by itself or by an administrator"),
    1031: (Forbidden, _RIGHTS), 942: (Forbidden, _RIGHTS), 41900: (Forbidden, _RIGHTS),
    1045: (Forbidden, "GRANT CREATE SESSION"), 28221: (Forbidden, "let the user change itself, or GRANT ALTER USER"),
    28009: (Unsupported, "use another administrator than SYS"),
    1918: (Unsupported, "check the login in the user record"), 1935: (Unsupported, "check the login in the user record"),
    28003: (PolicyRefused, _POLICY), 28007: (PolicyRefused, "set another value; the profile limits reuse"),
    28219: (PolicyRefused, _POLICY), 20000: (PolicyRefused, _POLICY), 20001: (PolicyRefused, _POLICY),
    988: (PolicyRefused, "change the record's complexity"), 972: (PolicyRefused, "shorten the record's passwords"),
    1740: (PolicyRefused, "change the record's complexity"),
    65040: (Unsupported, _ROOT), 65066: (Unsupported, _ROOT), 65096: (Unsupported, _ROOT),
    16000: (Unsupported, "point the resource record at the primary"), 28040: (Unsupported, "allow logins by a 12c verifier"),
    28046: (Unsupported, "set the password once by hand, so that it has a 12c verifier"),
    12514: (Unsupported, _SERVICE), 12505: (Unsupported, _SERVICE), 12504: (Unsupported, _SERVICE),
    54: (NotApplied, "try again"), 60: (NotApplied, "try again"), 4021: (NotApplied, "try again"),
    18: (Unreachable, _BUSY), 20: (Unreachable, _BUSY), 2391: (Unreachable, _BUSY),
    12516: (Unreachable, _BUSY), 12519: (Unreachable, _BUSY), 12520: (Unreachable, _BUSY),
    1033: (Unreachable, _START), 1034: (Unreachable, _START), 1089: (Unreachable, _START), 1090: (Unreachable, _START),
    1109: (Unreachable, _START), 12528: (Unreachable, _START), 12526: (Unreachable, _START), 1035: (Unreachable, _START),
}  # fmt: skip
"""Codes with a meaning of their own, and the remedy. Once the change was sent, these alone say that nothing changed."""

_END_MIDWAY = frozenset({28, 1012, 1033, 1034, 1089, 1090, 2396, 3113, 3114, 3135, 12537, 12547, 12570})

_BY_DRIVER: dict[str, type[NotApplied]] = {
    "DPY-6001": Unsupported, "DPY-6003": Unsupported,  # the listener knows no such service
    "DPY-3001": Unsupported, "DPY-3010": Unsupported, "DPY-3015": Unsupported,  # encryption, version, verifier
}  # fmt: skip


def refusal_of(error: oracledb.Error) -> ServerRefusal | DriverFailure:
    """Return what the driver's exception holds."""
    told = error.args[0] if error.args else None
    full = str(getattr(told, "full_code", ""))
    text = str(getattr(told, "message", "")).splitlines()[:1]
    sentence = text[0][:300] if text else ""
    inner = re.search(r"DPY-600[0-46-9]", str(getattr(told, "message", "")))  # "cannot connect" tells why further on
    if full == "DPY-6005" and inner:
        full = inner[0]
    code = int(getattr(told, "code", 0))  # stays the database's where the driver puts words of its own over it
    if full.startswith("ORA-") or code in BY_CODE:
        return ServerRefusal(code=code, text=sentence)
    return DriverFailure(code=full, text=sentence)


def map_error(error: Exception, *, sent: bool) -> TargetError:
    """Return our error for whatever the driver or the database said.

    Args:
        error: from the link.
        sent: the change was on its way, so that silence proves nothing.
    """
    if isinstance(error, TargetError):
        return error
    if isinstance(error, oracledb.Error):
        return map_error(refusal_of(error), sent=sent)
    if isinstance(error, ServerRefusal):
        ended = error.code in _END_MIDWAY
        return refused(error, error.code, BY_CODE, sent=sent, ended=ended, who="database")
    if sent:
        return unanswered(error)
    if isinstance(error, TimeoutError):
        return Unreachable("the server did not answer in time")
    kind = _BY_DRIVER.get(error.code, Unreachable) if isinstance(error, DriverFailure) else Unreachable
    return kind(f"no connection to the database: {error}", remedy="check host, port, service and TLS settings")


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


_STATES = {
    1017: (VerdictState.REFUSED, "wrong_password"),
    28001: (VerdictState.ACCEPTED, "expired"),  # said only after the password was accepted
    28000: (VerdictState.LOCKED, "account_locked"),
    1045: (VerdictState.UNKNOWN, "no_connect_right"),
    28040: (VerdictState.UNKNOWN, "method_not_allowed"), 28009: (VerdictState.UNKNOWN, "method_not_allowed"),
    12514: (VerdictState.UNKNOWN, "no_database"), 12505: (VerdictState.UNKNOWN, "no_database"),
    18: (VerdictState.UNKNOWN, "too_many_connections"), 20: (VerdictState.UNKNOWN, "too_many_connections"),
    2391: (VerdictState.UNKNOWN, "too_many_connections"), 12516: (VerdictState.UNKNOWN, "too_many_connections"),
    12519: (VerdictState.UNKNOWN, "too_many_connections"), 12520: (VerdictState.UNKNOWN, "too_many_connections"),
    1033: (VerdictState.UNKNOWN, "starting_up"), 1034: (VerdictState.UNKNOWN, "starting_up"),
    1089: (VerdictState.UNKNOWN, "starting_up"), 1109: (VerdictState.UNKNOWN, "starting_up"),
    12528: (VerdictState.UNKNOWN, "starting_up"), 1035: (VerdictState.UNKNOWN, "starting_up"),
}  # fmt: skip


def verdict_of(error: Exception) -> Verdict:
    """Return what a failed login proves of the credential: only a refusal after the password was looked at does."""
    if isinstance(error, ServerRefusal):
        state, cause = _STATES.get(error.code, (VerdictState.UNKNOWN, "refused_login"))
        return Verdict(state=state, cause=cause, detail=str(error))
    if isinstance(error, DriverFailure) and error.code in {"DPY-6001", "DPY-6003"}:
        return Verdict(state=VerdictState.UNKNOWN, cause="no_database", detail=str(error))
    return unproven(error, map_error)

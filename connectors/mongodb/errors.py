"""What MongoDB and the network say, as what is known of the target. Every mapping of this connector is here."""

from __future__ import annotations

from dataclasses import dataclass

from bson.errors import BSONError

from connectors.base import Verdict, VerdictState
from connectors.errors import mapping, of_connection, refused, unanswered, unproven
from pam_jobs.errors import (
    AuthRejected,
    Forbidden,
    NotApplied,
    PolicyRefused,
    TargetError,
    Unreachable,
    Unsupported,
)

__all__ = ["BY_CODE", "FAILURES", "Garbled", "ServerRefusal", "map_error", "mapped", "verdict_of"]


@dataclass(kw_only=True, eq=False)
class ServerRefusal(Exception):
    """The server answered with an error."""

    code: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.code})" if self.text else f"error {self.code}"


class Garbled(Exception):
    """What came is no answer of MongoDB."""


FAILURES = (ServerRefusal, Garbled, BSONError, TimeoutError, OSError)
"""Whatever the link raises."""

_RIGHTS = "give the rotator the role userAdminAnyDatabase, or changePassword and viewUser on the database"
_PRIMARY = "point the resource record at the primary"

BY_CODE: dict[int, tuple[type[NotApplied], str | None]] = {
    2: (PolicyRefused, "change the record's complexity"),  # BadValue
    9: (Unsupported, "use MongoDB 4.2 or newer"),  # FailedToParse
    11: (Unsupported, "check the login and its database in the user record"),  # UserNotFound
    13: (Forbidden, _RIGHTS),  # Unauthorized
    18: (AuthRejected, "check the password, and the database of the login (connectDatabase)"),
    20: (Unsupported, None),  # IllegalOperation
    59: (Unsupported, "use MongoDB 4.2 or newer"),  # CommandNotFound
    72: (Unsupported, "use MongoDB 4.2 or newer"),  # InvalidOptions
    115: (Unsupported, "use the API of whoever runs the server"),  # CommandNotSupported
    334: (Unsupported, "enable SCRAM-SHA-256 or SCRAM-SHA-1 on the server"),  # MechanismUnavailable
    8000: (AuthRejected, "check the password; users of Atlas are changed by its API"),  # AtlasError
    10107: (Unsupported, _PRIMARY), 13435: (Unsupported, _PRIMARY), 13436: (Unsupported, _PRIMARY),
}  # fmt: skip
"""Codes that say that nothing was changed, and the remedy. Others may come after the change took effect."""

_STARTING = frozenset({91, 189, 11600, 11602, 13436})  # shutting down, stepping down, recovering


def map_error(error: Exception, *, sent: bool) -> TargetError:
    """Return our error for whatever the server or the network said.

    Args:
        error: from the link.
        sent: the change was on its way, so that silence proves nothing.
    """
    if isinstance(error, TargetError):
        return error
    if isinstance(error, ServerRefusal):
        if sent or error.code in BY_CODE:
            return refused(error, error.code, BY_CODE, sent=sent)
        kind = Unreachable if error.code in _STARTING else NotApplied
        return kind(f"the server refused: {error}", remedy="look at the server's log")
    if sent:
        return unanswered(error)
    if isinstance(error, (Garbled, BSONError)):
        return Unreachable("what listens there does not speak MongoDB's protocol", remedy="check the record's port")
    return of_connection(error)


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


def verdict_of(error: Exception) -> Verdict:
    """Return what a failed login proves of the credential: AuthenticationFailed does, which a missing user gets too."""
    state, cause = VerdictState.UNKNOWN, "unreachable"
    if isinstance(error, ServerRefusal):
        cause = "starting_up" if error.code in _STARTING else "refused_login"
        if error.code == 18 or (error.code == 8000 and "bad auth" in error.text):
            state, cause = VerdictState.REFUSED, "wrong_password"
        return Verdict(state=state, cause=cause, detail=str(error))
    return unproven(error, map_error)

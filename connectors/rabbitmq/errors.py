"""What RabbitMQ's management API, its AMQP and the network say, as what is known of the target. Every mapping is here."""

from __future__ import annotations

import http.client
from dataclasses import dataclass

from connectors.base import Verdict, VerdictState
from connectors.errors import mapping, of_connection, unanswered, unproven
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    Forbidden,
    NotApplied,
    PolicyRefused,
    TargetError,
    Unreachable,
    Unsupported,
)

__all__ = ["BY_STATUS", "FAILURES", "AmqpRefusal", "ApiRefusal", "Garbled", "map_error", "mapped", "verdict_of"]

LOGIN_FAILED = "Login failed"
NOT_MANAGEMENT = "Not management user"
_LOCAL_ONLY = "localhost"


@dataclass(kw_only=True, eq=False)
class ApiRefusal(Exception):
    """The management API answered with an error."""

    status: int
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.status} {self.reason}".strip()


@dataclass(kw_only=True, eq=False)
class AmqpRefusal(Exception):
    """The broker ended a login over AMQP with a code."""

    code: int  # 403 ACCESS_REFUSED, 530 NOT_ALLOWED, 320 CONNECTION_FORCED …
    text: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip()


class Garbled(Exception):
    """What came is neither the management API nor AMQP."""


FAILURES = (ApiRefusal, AmqpRefusal, Garbled, http.client.HTTPException, TimeoutError, OSError)
"""Whatever the links raise."""

BY_STATUS: dict[int, tuple[type[NotApplied], str]] = {
    400: (PolicyRefused, "look at the broker's log"),
    401: (AuthRejected, "check the rotator's password"),
    403: (Forbidden, "give the rotator the tag administrator"),
    404: (Unsupported, "check the login in the user record"),
    405: (Unsupported, "point the port at RabbitMQ's management API"),
    429: (Unreachable, "lower the load"),
    503: (Unreachable, "wait until the broker is up"),
}
"""Answers that say that nothing was changed, and the remedy. Others of 500 on say nothing once the change was sent."""

_NO_RIGHT = "give the rotator the tag administrator"


def map_error(error: Exception, *, sent: bool) -> TargetError:
    """Return our error for whatever the broker or the network said.

    Args:
        error: from a link.
        sent: the change was on its way, so that silence proves nothing.
    """
    if isinstance(error, TargetError):
        return error
    if isinstance(error, ApiRefusal):
        if error.status in BY_STATUS:
            kind, remedy = BY_STATUS[error.status]
            if error.status == 401 and error.reason and error.reason != LOGIN_FAILED:
                kind, remedy = Forbidden, _NO_RIGHT
            return kind(f"the management API answered: {error}", remedy=remedy)
        if sent:
            return AmbiguousReply(f"the management API answered the change with: {error}")
        return Unreachable(
            f"the management API answered: {error}", remedy="point the port at RabbitMQ's management API"
        )
    return unanswered(error) if sent else _of_links(error)


def _of_links(error: Exception) -> NotApplied:
    """Return what a failure before anything was sent means."""
    if isinstance(error, AmqpRefusal):
        return AuthRejected(f"the broker refused: {error}", remedy="check the login's password")
    if isinstance(error, (Garbled, http.client.HTTPException)):
        return Unreachable(
            "what listens there is not RabbitMQ", remedy="set the record's port to that of the management API"
        )
    return of_connection(error, "broker")


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


def verdict_of(error: Exception) -> Verdict:
    """Return what a failed login proves of the credential.

    Over AMQP 403 refuses it; the broker says the same of a user that is not there. The API says ``Login failed`` for a
    refused password, and something else where it took the password and misses a tag.
    """
    state, cause = VerdictState.UNKNOWN, "unreachable"
    if isinstance(error, ApiRefusal) and error.status == 401:
        if error.reason == NOT_MANAGEMENT:
            return Verdict(state=VerdictState.ACCEPTED)
        if _LOCAL_ONLY in error.reason:
            cause = "not_allowed_from_here"
        elif error.reason == LOGIN_FAILED:
            state, cause = VerdictState.REFUSED, "wrong_password"
        else:
            cause = "refused_login"
        return Verdict(state=state, cause=cause, detail=str(error))
    if isinstance(error, AmqpRefusal):
        if error.code == 403:
            state, cause = VerdictState.REFUSED, "wrong_password"
        else:
            cause = "starting_up" if error.code == 320 else "refused_login"
        return Verdict(state=state, cause=cause, detail=str(error))
    return unproven(error, map_error)

"""What Redis, Valkey and the network say, as what is known of the target. Every mapping of this connector is here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from connectors.base import Verdict, VerdictState
from connectors.errors import mapping, of_connection, unanswered, unproven
from pam_jobs.errors import (
    AuthRejected,
    Forbidden,
    NotApplied,
    TargetError,
    Unreachable,
    Unsupported,
)

__all__ = ["BY_CODE", "FAILURES", "Garbled", "ServerRefusal", "map_error", "mapped", "verdict_of"]


@dataclass(kw_only=True, eq=False)
class ServerRefusal(Exception):
    """The server answered with an error."""

    code: str  # the first word, such as WRONGPASS; ERR for most
    text: str = ""  # the sentence up to the first quoted word: what follows repeats what was sent

    @classmethod
    def of(cls, line: str) -> ServerRefusal:
        """Return what an error's line says."""
        code, _, text = line.partition(" ")
        if not re.fullmatch(r"[A-Z]{2,20}", code):
            code, text = "ERR", line
        return cls(code=code, text=re.split(r"['\"`]|, with args", text, maxsplit=1)[0].strip()[:200])

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip()


class Garbled(Exception):
    """What came is no answer of Redis."""


FAILURES = (ServerRefusal, Garbled, TimeoutError, OSError, UnicodeError)
"""Whatever the link raises."""

_RIGHTS = "give the rotator the rights that connectors/redis/README.md names"

BY_CODE: dict[str, tuple[type[NotApplied], str]] = {
    "WRONGPASS": (AuthRejected, "check the rotator's password, and that its user is on"),
    "NOAUTH": (AuthRejected, "give the resource record an administrator with a password"),
    "NOPERM": (Forbidden, _RIGHTS),
    "DENIED": (Forbidden, "turn protected mode off, or let the gateway's address in"),
    "LOADING": (Unreachable, "wait until the server has read its data"),
    "BUSY": (Unreachable, "wait until the script that holds the server has ended"),
    "MASTERDOWN": (Unreachable, "wait until the replica has found its primary"),
    "CLUSTERDOWN": (Unreachable, "wait until the cluster is up"),
    "OOM": (NotApplied, "give the server more memory"),
    "MISCONF": (NotApplied, "repair the server's disk, which its log tells of"),
    "READONLY": (Unsupported, "point the resource record at the primary"),
    "MOVED": (Unsupported, "point the resource record at the server itself"),
    "ERR": (NotApplied, "look at the server's log"),
}
"""Codes with a meaning of their own, and the remedy. An error says that the command did nothing: commands are atomic."""

_SENTENCES: tuple[tuple[str, type[NotApplied], str], ...] = (
    ("unknown command", Unsupported, "use Redis 6 or newer, and do not rename ACL, CONFIG or INFO"),
    ("unknown subcommand", Unsupported, "use Redis 6 or newer"),
    ("max number of clients", Unreachable, "raise maxclients, or lower the load"),
    ("invalid password", AuthRejected, "check the rotator's password"),
    ("without any password configured", AuthRejected, "give the server a password first"),
    ("operation not permitted", AuthRejected, "give the resource record an administrator with a password"),
    ("usernames can", Unsupported, "a user's name here has no spaces"),
)


def map_error(error: Exception, *, sent: bool) -> TargetError:
    """Return our error for whatever the server or the network said.

    Args:
        error: from the link.
        sent: the change was on its way, so that silence proves nothing.
    """
    if isinstance(error, TargetError):
        return error
    if isinstance(error, ServerRefusal):
        kind, remedy = _kind_of(error)
        return kind(f"the server refused: {error}", remedy=remedy)
    if sent:
        return unanswered(error)
    if isinstance(error, Garbled):
        return Unreachable("what listens there does not speak Redis", remedy="check port and TLS of the record")
    if isinstance(error, UnicodeError):
        return Unsupported("a value is no text", remedy="correct the record")
    return of_connection(error)


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


def verdict_of(error: Exception) -> Verdict:
    """Return what a failed login proves of the credential: only WRONGPASS, or its older sentence, does.

    The server says the same of a user that is off, or not there; the session asks the administrator which it is.
    """
    if isinstance(error, ServerRefusal):
        state, cause = VerdictState.UNKNOWN, "refused_login"
        if error.code == "WRONGPASS" or "invalid password" in error.text:
            state, cause = VerdictState.REFUSED, "wrong_password"
        elif error.code == "DENIED":
            cause = "not_allowed_from_here"
        elif error.code in {"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN"}:
            cause = "starting_up"
        elif "max number of clients" in error.text:
            cause = "too_many_connections"
        elif "without any password configured" in error.text:
            cause = "any_password"
        return Verdict(state=state, cause=cause, detail=str(error))
    return unproven(error, map_error)


def _kind_of(error: ServerRefusal) -> tuple[type[NotApplied], str]:
    for words, kind, remedy in _SENTENCES:
        if words in error.text.casefold():
            return kind, remedy
    return BY_CODE.get(error.code, BY_CODE["ERR"])

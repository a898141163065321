"""What PostgreSQL and its driver say, as what is known of the target. Every mapping of this connector is here."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg

from connectors.base import Verdict, VerdictState
from connectors.errors import mapping, unanswered, unproven
from pam_jobs.errors import (
    AuthRejected,
    ConnectionLost,
    EffectUnknown,
    Forbidden,
    NotApplied,
    PolicyRefused,
    TargetError,
    Unreachable,
    Unsupported,
)

__all__ = [
    "BY_CLASS",
    "BY_DRIVER_TYPE",
    "BY_SQLSTATE",
    "FAILURES",
    "ServerRefusal",
    "last_words",
    "map_error",
    "mapped",
    "read_login_failure",
    "verdict_of",
]


@dataclass(kw_only=True, eq=False)
class ServerRefusal(Exception):
    """The server, or libpq in its place, answered with an error."""

    sqlstate: str | None  # None: the driver failed on its own, so the server refused nothing
    severity: str = "ERROR"  # untranslated; FATAL and PANIC end the connection
    text: str = ""  # the server's sentence, in the server's language; never a statement
    routine: str = ""  # the server's function, which tells apart what shares a code
    used_password: bool = False  # the server had asked for a password, so it did look at the login

    def __str__(self) -> str:
        return f"{self.text} ({self.sqlstate})" if self.sqlstate else self.text


FAILURES = (ServerRefusal, TimeoutError, psycopg.Error, OSError, UnicodeError)
"""Whatever the link raises."""

BY_SQLSTATE: dict[str, tuple[type[NotApplied], str | None]] = {
    "28P01": (AuthRejected, "check the rotator's password"),
    "28000": (AuthRejected, "check pg_hba.conf and that the role may log in"),
    "42501": (Forbidden, "make the rotator a superuser, or give it CREATEROLE and ADMIN OPTION on the role"),
    "42704": (Unsupported, "check the login in the user record"),
    "3D000": (Unsupported, "check the database in the resource record"),
    "22023": (PolicyRefused, "raise the complexity of the record's password rules"),
    "23514": (PolicyRefused, "raise the complexity of the record's password rules"),
    "25006": (Unsupported, "point the resource record at the primary, not at a read-only standby"),
    "53300": (Unreachable, "raise max_connections or lower the load"),
    "55P03": (NotApplied, "another change of this role is under way; try again when it has ended"),
    "57P03": (Unreachable, "wait until the server has started"),
    "57014": (NotApplied, "raise the job's time limit or look at the server's load"),
}
"""Codes with a meaning of their own, and the remedy."""

BY_CLASS: dict[str, type[NotApplied]] = {
    "02": NotApplied, "03": NotApplied, "08": Unreachable, "09": NotApplied, "0A": Unsupported, "0B": NotApplied,
    "0F": NotApplied, "0L": Forbidden, "0P": Forbidden, "0Z": NotApplied, "10": NotApplied, "20": NotApplied,
    "21": NotApplied, "22": NotApplied, "23": NotApplied, "24": NotApplied, "25": NotApplied, "26": NotApplied,
    "27": NotApplied, "28": AuthRejected, "2B": NotApplied, "2D": NotApplied, "2F": NotApplied, "34": NotApplied,
    "38": NotApplied, "39": NotApplied, "3B": NotApplied, "3D": Unsupported, "3F": NotApplied, "40": NotApplied,
    "42": NotApplied, "44": NotApplied, "53": Unreachable, "54": Unsupported, "55": NotApplied, "57": Unreachable,
    "58": Unreachable, "72": NotApplied, "F0": Unreachable, "HV": NotApplied, "P0": PolicyRefused, "XX": NotApplied,
}  # fmt: skip
"""What an ERROR means by its class: the transaction is undone, so the target is unchanged; the type says why."""

BY_DRIVER_TYPE: dict[type[Exception], type[NotApplied]] = {
    psycopg.errors.CancellationTimeout: Unreachable,
    psycopg.errors.ConnectionTimeout: Unreachable,
    psycopg.errors.PipelineAborted: NotApplied,
    psycopg.OperationalError: Unreachable,
    psycopg.InterfaceError: Unreachable,
    psycopg.InternalError: Unreachable,
    psycopg.DataError: Unsupported,
    psycopg.IntegrityError: NotApplied,
    psycopg.NotSupportedError: Unsupported,
    psycopg.ProgrammingError: Unsupported,
    psycopg.DatabaseError: NotApplied,
    psycopg.Error: NotApplied,
    UnicodeError: Unsupported,
    OSError: Unreachable,
}
"""What the driver's own failures mean before anything was sent; the first class that fits, from the most special on."""


def map_error(error: Exception, *, sent: bool) -> TargetError:
    """Return our error for whatever the driver or the server said.

    Args:
        error: from the link: ``ServerRefusal``, ``TimeoutError``, or an exception of psycopg.
        sent: the change was on its way, so that silence proves nothing.
    """
    if isinstance(error, TargetError):
        return error
    if isinstance(error, ServerRefusal):
        return _map_refusal(error, sent=sent)
    if sent:
        return unanswered(error)
    if isinstance(error, TimeoutError):
        return Unreachable("the server did not answer in time")
    kind = next((ours for theirs, ours in BY_DRIVER_TYPE.items() if isinstance(error, theirs)), Unreachable)
    return kind(f"the driver could not go on ({type(error).__name__})", remedy="check host, port and TLS settings")


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


def _map_refusal(error: ServerRefusal, *, sent: bool) -> NotApplied | EffectUnknown:
    if sent and (error.sqlstate is None or error.severity in {"FATAL", "PANIC"}):
        return ConnectionLost(f"the server ended the connection: {error}")
    if error.sqlstate is None:
        return Unreachable(f"no connection to the server: {error}", remedy="check host, port and TLS settings")
    if error.sqlstate == "28000" and not error.used_password:
        return Forbidden(f"the server does not let this login in from here: {error}", remedy="add it to pg_hba.conf")
    if error.sqlstate == "0A000" and _WANTS_PLAIN.search(error.text):
        return Unsupported(
            f"the server's rules want to see the password itself: {error}",
            remedy="let it take verifiers (credcheck.encrypted_password_allowed), since the password itself is not sent",
        )
    kind, remedy = BY_SQLSTATE.get(error.sqlstate, (BY_CLASS.get(error.sqlstate[:2], NotApplied), None))
    return kind(f"the server refused: {error}", remedy=remedy)


_UNKNOWN_CAUSES = {
    "28000": "not_allowed_from_here",
    "3D000": "no_database",
    "42501": "no_connect_right",
    "53300": "too_many_connections",
    "57P03": "starting_up",
}


def verdict_of(error: Exception, login: str = "") -> Verdict:
    """Return what a failed login proves of the credential: only a refusal after the password was looked at does.

    Args:
        error: of the link.
        login: that was tried; a pooler passes on that its own login to the server was refused, of whatever name.
    """
    if isinstance(error, ServerRefusal) and login and not error.routine:
        of = _OF_ROLE.match(error.text)
        if of is not None and of["name"] != login:
            return Verdict(state=VerdictState.UNKNOWN, cause="stale_pooler", detail=f"of the pooler: {error.text}")
    if isinstance(error, ServerRefusal) and error.sqlstate == "28P01":
        return Verdict(state=VerdictState.REFUSED, cause="wrong_password", detail="the server refused the password")
    if isinstance(error, ServerRefusal) and error.sqlstate == "28000" and error.routine == "InitializeSessionUserId":
        return Verdict(state=VerdictState.LOCKED, cause="no_login", detail="the role is not permitted to log in")
    if isinstance(error, ServerRefusal):
        cause = _UNKNOWN_CAUSES.get(error.sqlstate or "", "refused_login")
        if error.sqlstate is None:
            cause = "cut_during_login" if error.used_password else "unreachable"
        if error.sqlstate == "28000" and error.used_password:  # LDAP, PAM …: a wrong password or a sick directory
            cause = "external_authentication"
        return Verdict(state=VerdictState.UNKNOWN, cause=cause, detail=str(error))
    return unproven(error, map_error)


_VERBOSE = re.compile(r":  (?P<sqlstate>(?=[A-Z]*\d)[0-9A-Z]{5}): (?P<text>.*)")
_POOLERS = (  # pgbouncer has one code for all it says itself, always in English
    ("server login failed", "08P01"),  # of the pooler, with whatever it had: says nothing of this credential
    ("SASL authentication failed", "28P01"),
    ("password authentication failed", "28P01"),
    ("no such database", "3D000"),
    ("no more connections allowed", "53300"),
)
_WANTS_PLAIN = re.compile(r"not a plain ?text|plain ?text password|pre-?hashed|encrypted password", re.IGNORECASE)
_OF_ROLE = re.compile(r'password authentication failed for user "(?P<name>.*)"', re.DOTALL)
_LOCATION = re.compile(r"^\S+:\s+(?P<routine>\w+), \S+:\d+$", re.MULTILINE)
_ENGLISH = (  # a libpq that could not be made verbose; a server that speaks another language then yields no code
    ("password authentication failed", "28P01", ""),
    ("is not permitted to log in", "28000", "InitializeSessionUserId"),
    ("no pg_hba.conf entry", "28000", ""),
    ("the database system is", "57P03", ""),
    ("too many c", "53300", ""),
    ("remaining connection slots", "53300", ""),
)


def read_login_failure(message: str, *, used_password: bool) -> ServerRefusal:
    """Return what libpq's text of a failed login tells; its last line counts, earlier ones are other addresses.

    libpq keeps the code of such a failure to itself. A verbose one prints it, whatever the server's language.
    """
    verbose = list(_VERBOSE.finditer(message))
    if verbose:
        routines = [*_LOCATION.findall(message)] or [""]
        return ServerRefusal(
            sqlstate=_code(verbose[-1]), severity="FATAL", text=verbose[-1]["text"],
            routine=str(routines[-1]), used_password=used_password,
        )  # fmt: skip
    lines = message.strip().splitlines() or [""]
    text = lines[-1].partition(" failed: ")[2] or lines[-1]
    for words, sqlstate, routine in _ENGLISH:
        if words in text:
            return ServerRefusal(
                sqlstate=sqlstate, severity="FATAL", text=text, routine=routine, used_password=used_password
            )
    return ServerRefusal(sqlstate=None, severity="FATAL", text=text, used_password=used_password)


def last_words(message: str) -> ServerRefusal | None:
    """Return why the other side ended a connection, of libpq's text on its end; None where it did not say."""
    said = _VERBOSE.search(message)
    return said and ServerRefusal(sqlstate=said["sqlstate"], severity="FATAL", text=said["text"])


def _code(verbose: re.Match[str]) -> str:
    """Return what the failure means: its code, or what a pooler has in place of one."""
    meant = (code for words, code in _POOLERS if words in verbose["text"])
    return next(meant, verbose["sqlstate"]) if verbose["sqlstate"] == "08P01" else verbose["sqlstate"]

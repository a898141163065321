"""Who looks at a role's password: the server itself, a pooler before it, or somebody else, whom no ``ALTER ROLE`` reaches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from connectors.base import Deadline
from connectors.postgresql.errors import ServerRefusal, mapped
from connectors.postgresql.link import Link
from pam_jobs.errors import Forbidden, NotApplied, Unsupported

__all__ = ["METHOD", "KnownWays", "Rules", "Way", "demand_pooler_as_server", "refuse_other_proofs", "stored_verifier"]

METHOD: Final = """
SELECT auth_method FROM pg_hba_file_rules
WHERE error IS NULL AND type <> 'local' AND auth_method IN ('password', 'ldap', 'pam', 'radius', 'bsd')
  AND ('all' = ANY (database) OR $2 = ANY (database) OR 'sameuser' = ANY (database) AND $1::text = $2)
  AND EXISTS (SELECT FROM unnest(user_name) AS named WHERE named IN ('all', $1::text)
              OR named LIKE '+%' AND substr(named, 2) IN (SELECT rolname FROM pg_roles WHERE pg_has_role($1::name, oid, 'MEMBER')))
  AND CASE WHEN netmask IS NULL THEN true WHEN family(netmask::inet) <> family(inet_client_addr()) THEN false
           ELSE address::inet & netmask::inet = set_masklen(inet_client_addr(), masklen(address::inet)) & netmask::inet END
ORDER BY line_number LIMIT 1
"""
"""The first line that asks for the password itself of this role, in this database, from our address."""

_STORED: Final = "SELECT rolpassword FROM pg_authid WHERE rolname = $1"
_NONE, _CLEAR, _GSSAPI, _SSPI = 0, 3, 7, 9
_DIRECTLY: Final = "point the resource record at the server itself"
_ELSEWHERE: Final = "change the password where it is kept, or give the role the method scram-sha-256 in pg_hba.conf"


Way = tuple[str, int, str, str, str]
"""Host, port, sslmode, login and database: all of a login that pg_hba.conf goes by, beside the gateway's own address."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which rules a server goes by; its own clock counts, in seconds."""

    started: str  # the server; another one that takes its place has rules of its own
    loaded: float
    seen: float


class KnownWays:
    """The logins that a server was seen to check by the role's own password; shared between threads.

    So it need not be asked before each change. What pg_hba.conf says of a login stays until the server reads it anew, and
    a server tells when that was. Where the answer differs all the same (a role in another group), a change is
    followed by a login that is not accepted, as when the rules change between the two: nothing is lost, and it is asked again.
    """

    def __init__(self, most: int = 8192) -> None:
        """Know none; of more than ``most`` the one longest unused is forgotten."""
        self._most = most
        self._known: OrderedDict[Way, Rules] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, way: Way, rules: Rules) -> None:
        """Take note of a login that was let in for knowing the role's own password.

        Args:
            way: the login.
            rules: as they were seen before it.
        """
        with self._lock:
            self._known[way] = rules
            self._known.move_to_end(way)
            if len(self._known) > self._most:
                self._known.popitem(last=False)

    def remove(self, way: Way) -> None:
        """Forget a login."""
        with self._lock:
            self._known.pop(way, None)

    def has(self, way: Way, now: Rules) -> bool:
        """Say whether the login was seen under the rules that hold now; a backend may date them late, never early."""
        with self._lock:
            then = self._known.get(way)
        return then is not None and then.started == now.started and now.loaded <= then.seen


def refuse_other_proofs(
    asked: int, link: Link, login: str, database: str, deadline: Deadline, *, is_pooled: bool
) -> None:
    """Return where the server compares the password with the role's own.

    Args:
        asked: what the server wants of the role's login; see ``wire.proof_asked``.
        link: of the rotator.
        login: of the role.
        database: that it logs in to.
        deadline: bounds every wait.
        is_pooled: a pooler asks, in the server's place.

    Raises:
        Unsupported: it does not; a new password of the role would prove nothing, and change no login.
        Forbidden: it cannot be told.
    """
    if asked == _NONE:
        raise Unsupported(
            f"role {login!r} is let in without a password from here (trust, peer, ident or cert)",
            remedy="give it the method scram-sha-256 in pg_hba.conf, or remove the rotation",
        )
    if asked in {_GSSAPI, _SSPI}:
        raise Unsupported(f"role {login!r} logs in by Kerberos (gss or sspi), not by a password", remedy=_ELSEWHERE)
    if asked != _CLEAR:
        return
    if is_pooled:
        raise Unsupported(
            "the pooler before the server wants the password itself, and may pass it on",
            remedy="set its auth_type to scram-sha-256, or point the resource record at the server itself",
        )
    try:
        with mapped(sent=False):
            rows = link.query(METHOD, [login, database], deadline)
    except NotApplied:
        raise Forbidden(
            f"the server wants the password of role {login!r} itself and may pass it on (ldap, pam, radius)",
            remedy="let the rotator read pg_hba_file_rules, or give the role the method scram-sha-256 in pg_hba.conf",
        ) from None
    method = rows[0][0] if rows else "another method"
    if method != "password":
        raise Unsupported(
            f"the password of role {login!r} is kept elsewhere (pg_hba.conf: {method})", remedy=_ELSEWHERE
        )


def demand_pooler_as_server(link: Link, me: str, rotator: str, deadline: Deadline) -> None:
    """Return where a pooler passes on what a rotation needs: the rotator's name, transactions, the right to read verifiers.

    Args:
        link: of the rotator.
        me: the role that the server sees.
        rotator: login of the rotator.
        deadline: bounds every wait.

    Raises:
        Unsupported: it does not.
        Forbidden: the rotator is no superuser, so nobody could tell what a login by the pooler proves.
        ServerRefusal: anything else that was said.
    """
    if me != rotator:
        raise Unsupported(f"the pooler before the server logs in as role {me!r}, not as the rotator", remedy=_DIRECTLY)
    try:
        link.script("BEGIN", deadline)
        link.script("ROLLBACK", deadline)
    except ServerRefusal as refusal:
        if "statement pooling" not in refusal.text:
            raise
        raise Unsupported(
            "the pooler before the server pools by statement, so no change can be one transaction",
            remedy="point the resource record at the server itself, or at a pool by session or transaction",
        ) from None
    try:
        stored_verifier(link, rotator, deadline)
    except ServerRefusal as refusal:
        if refusal.sqlstate != "42501":
            raise
        raise Forbidden(
            "a pooler stands before the server, and only a superuser can tell whether it knows a new password",
            remedy=_DIRECTLY,
        ) from None


def stored_verifier(link: Link, login: str, deadline: Deadline) -> str:
    """Return what the server itself keeps of the role's password; "" for none.

    Raises:
        ServerRefusal: the rotator may not read it (42501), or anything else that was said.
        TimeoutError: no answer in time.
    """
    rows = link.query(_STORED, [login], deadline)
    return (rows[0][0] or "") if rows else ""

"""What domain controllers say, as what is known of the target; what all directories say is in ``connectors.ldap.errors``."""

from __future__ import annotations

import re
from typing import Final

from connectors.base import Verdict, VerdictState
from connectors.errors import mapping
from connectors.ldap import errors as ldap
from connectors.ldap.errors import FAILURES, INSUFFICIENT_ACCESS, INVALID_CREDENTIALS, LdapRefusal
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

__all__ = ["BY_ERROR", "BY_LOGIN", "map_error", "mapped", "policy_refused", "verdict_of"]

_RULES = (
    "raise length and complexity of the record's password rules; an account that changes itself waits for minPwdAge"
)
_OLD = "the record's password is not the account's any more: correct it, or rotate the account by an admin"
_WRITABLE = "name a controller of the account's own domain that takes writes"
_RIGHTS = 'give the rotator the right "Reset password" on the account'
_TLS = "use port 636 (ldaps), or leave StartTLS on"
_UNLOCK = "unlock the account, or set the custom field Unlock Account of the resource to true"

_POLICY: Final = 0x52D

BY_ERROR: dict[int, tuple[type[NotApplied], str | None]] = {
    0x5: (Forbidden, _RIGHTS),
    0x1F: (Unsupported, _TLS),
    0x56: (AuthRejected, _OLD),
    0x52D: (PolicyRefused, _RULES),
    0x52E: (AuthRejected, _OLD),
    0x533: (Locked, "enable the account"),
    0x775: (Locked, _UNLOCK),
    0x2020: (AuthRejected, "nobody is logged in: check the rotator's name and password"),
    0x2028: (Forbidden, _TLS),
    0x202B: (Unsupported, _WRITABLE),
    0x2030: (Unsupported, "check login, distinguishedName and domain of the user record"),
    0x2077: (Unsupported, "the controller takes no such change of this account"),
    0x2098: (Forbidden, _RIGHTS),
    0x200E: (Unreachable, "look at the controller's load"),
    0x200F: (Unreachable, "look at the controller's load"),
    0x202C: (Unreachable, "look at the controller's log"),
}
"""Error codes of Windows, with which a controller's answer to a change begins, and the remedy."""

BY_LOGIN: dict[int, tuple[VerdictState, str, str]] = {
    0x525: (VerdictState.UNKNOWN, "not_found", "the domain knows no such account"),
    0x52E: (VerdictState.REFUSED, "wrong_password", "the domain refused the password"),
    0x52F: (VerdictState.UNKNOWN, "method_not_allowed", "the account may not log in this way, as Protected Users may not"),
    0x530: (VerdictState.ACCEPTED, "not_at_this_hour", "the password is right, and the account may not log in at this hour"),
    0x531: (VerdictState.ACCEPTED, "not_allowed_from_here", "the password is right, and the account has other workstations"),
    0x532: (VerdictState.ACCEPTED, "expired", "the password is right, and has expired"),
    0x533: (VerdictState.LOCKED, "disabled", "the account is disabled"),
    0x569: (VerdictState.UNKNOWN, "method_not_allowed", "the account lacks the right to log in over the network"),
    0x701: (VerdictState.LOCKED, "account_expired", "the account has expired"),
    0x773: (VerdictState.ACCEPTED, "change_after_reset", "the password is right, and must be changed at the next logon"),
    0x775: (VerdictState.LOCKED, "locked", "the account is locked"),
}  # fmt: skip
"""What the data of a refused login means. All but 52e, 525, 52f and 775 are told only to who has the right password.

Source: MS-ADTS 5.1.1.1 and the Win32 error codes; a disabled or expired account counts as locked all the same, since
nobody can log in to it.
"""

_ROTATOR: dict[VerdictState, type[NotApplied]] = {
    VerdictState.REFUSED: AuthRejected,
    VerdictState.UNKNOWN: Forbidden,
    VerdictState.LOCKED: Locked,
    VerdictState.ACCEPTED: Locked,  # it is right, and lets nobody in
}


def map_error(error: BaseException, *, sent: bool) -> TargetError:
    """Return our error for whatever the driver or the controller said.

    Args:
        error: from the link.
        sent: the change was on its way, so that silence proves nothing.
    """
    if not isinstance(error, LdapRefusal):
        return ldap.map_error(error, sent=sent)
    if error.is_login and error.code == INVALID_CREDENTIALS:
        state, _, sentence = BY_LOGIN.get(_data(error), (VerdictState.REFUSED, "", "the domain refused the login"))
        kind = AuthRejected if _data(error) == 0x525 else _ROTATOR[state]
        return kind(f"{sentence} ({error})", remedy="check the rotator's name, password and account")
    known = BY_ERROR.get(_number(error))
    if known is None and error.code == INSUFFICIENT_ACCESS:
        known = BY_ERROR[0x5]
    ours = ldap.map_error(error, sent=sent)
    if known is None or isinstance(ours, AmbiguousReply):
        return ours
    return known[0](f"the domain controller refused: {error}", remedy=known[1])


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


def policy_refused(error: BaseException) -> bool:
    """Say whether the controller took the old password, where it was given one, and objects to the new one."""
    return isinstance(error, LdapRefusal) and _number(error) == _POLICY


def verdict_of(error: BaseException) -> Verdict:
    """Return what a failed login proves of the credential."""
    if isinstance(error, LdapRefusal) and error.code == INVALID_CREDENTIALS:
        unknown = (VerdictState.UNKNOWN, "refused_login", str(error))
        state, cause, detail = BY_LOGIN.get(_data(error), unknown)
        return Verdict(state=state, cause=cause, detail=detail)
    return ldap.verdict_of(error)


def _number(error: LdapRefusal) -> int:
    """Return the error code that the text begins with; -1 where it has none."""
    found = re.match(r"\s*([0-9A-Fa-f]{8})\b", error.text)
    return int(found[1], 16) if found else -1


def _data(error: LdapRefusal) -> int:
    """Return the code of a refused login; -1 where the text has none."""
    found = re.search(r"\bdata ([0-9a-fA-F]{1,8})\b", error.text)
    return int(found[1], 16) if found else -1

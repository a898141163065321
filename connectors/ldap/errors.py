"""What LDAP servers and ldap3 say, as what is known of the target. Every mapping of this connector is here."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from ldap3.core import exceptions as driver

from connectors.base import Verdict, VerdictState
from connectors.errors import mapping, unanswered
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    Forbidden,
    HostKeyMismatch,
    Locked,
    NotApplied,
    PolicyRefused,
    TargetError,
    Unreachable,
    Unsupported,
)

__all__ = [
    "BY_CODE",
    "BY_DRIVER_TYPE",
    "BY_POLICY",
    "FAILURES",
    "Garbled",
    "LdapRefusal",
    "PolicyAnswer",
    "PolicyError",
    "map_error",
    "mapped",
    "read_policy_answer",
    "verdict_of",
]

SIZE_LIMIT, TIME_LIMIT, REFERRAL, ADMIN_LIMIT, NO_SUCH_ATTRIBUTE = 4, 3, 10, 11, 16
NO_SUCH_OBJECT, INVALID_CREDENTIALS, INSUFFICIENT_ACCESS = 32, 49, 50


class PolicyError(IntEnum):
    """What the server's password policy objects to (draft-behera-ldap-password-policy)."""

    PASSWORD_EXPIRED = 0
    ACCOUNT_LOCKED = 1
    CHANGE_AFTER_RESET = 2
    PASSWORD_MOD_NOT_ALLOWED = 3
    MUST_SUPPLY_OLD_PASSWORD = 4
    INSUFFICIENT_PASSWORD_QUALITY = 5
    PASSWORD_TOO_SHORT = 6
    PASSWORD_TOO_YOUNG = 7
    PASSWORD_IN_HISTORY = 8
    PASSWORD_TOO_LONG = 9


@dataclass(frozen=True, kw_only=True)
class PolicyAnswer:
    """The password policy response control; all empty where the server sent none."""

    error: PolicyError | None = None
    expires_seconds: int | None = None
    grace_logins: int | None = None


@dataclass(kw_only=True, eq=False)
class LdapRefusal(Exception):
    """The server answered with another result than success."""

    code: int
    name: str = ""  # of the code, as RFC 4511 has it
    text: str = ""  # the server's diagnostic message
    policy: PolicyAnswer = PolicyAnswer()
    is_login: bool = False  # the answer to a bind

    @property
    def may_be_the_same(self) -> bool:
        """Say whether it may only mean that the account has this password already, as after a lost answer."""
        return self.policy.error in {PolicyError.PASSWORD_IN_HISTORY, PolicyError.PASSWORD_TOO_YOUNG}

    def __str__(self) -> str:
        told = f"{self.name or 'result'} ({self.code})"
        if self.policy.error is not None:
            told += f", {self.policy.error.name.lower().replace('_', ' ')}"
        return f"{told}: {self.text}" if self.text else told


class Garbled(Exception):
    """The server's answer is no LDAP message that can be read."""


FAILURES = (LdapRefusal, Garbled, TimeoutError, driver.LDAPException, OSError, UnicodeError)
"""Whatever the link raises."""

_PRIMARY = "point the resource record at the server that takes writes"
_RULES = "raise the complexity of the record's password rules"
_RIGHTS = "give the rotator write access to userPassword of the account"
_TLS = "use port 636 (ldaps), or leave StartTLS on"

BY_CODE: dict[int, tuple[type[NotApplied], str | None]] = {
    1: (NotApplied, "look at the server's log"),
    2: (Unsupported, "the server does not understand the request: look at its log"),
    3: (Unreachable, "look at the server's load"),
    4: (NotApplied, "raise the server's size limit for the rotator"),
    5: (NotApplied, None),
    6: (NotApplied, None),
    7: (AuthRejected, "let the server take simple binds over TLS"),
    8: (Forbidden, _TLS),
    9: (NotApplied, None),
    10: (Unsupported, _PRIMARY),
    11: (Unreachable, "raise the server's limits for the rotator"),
    12: (Unsupported, "load the overlay or module that the request needs"),
    13: (Forbidden, _TLS),
    14: (AuthRejected, None),
    16: (NotApplied, None),
    17: (Unsupported, "the server has no attribute userPassword for this entry"),
    18: (NotApplied, None),
    19: (PolicyRefused, _RULES),
    20: (NotApplied, None),
    21: (PolicyRefused, _RULES),
    32: (Unsupported, "check login, distinguishedName and base DN"),
    33: (Unsupported, "name the account's own entry, not an alias"),
    34: (Unsupported, "correct the distinguished name in the record"),
    36: (Unsupported, "name the account's own entry, not an alias"),
    48: (AuthRejected, "check that the rotator's entry has a password"),
    49: (AuthRejected, "check the rotator's name and password"),
    50: (Forbidden, _RIGHTS),
    51: (Unreachable, "look at the server's load"),
    52: (Unreachable, "look at the server's log"),
    53: (NotApplied, "the server is unwilling: look at its message and its restrictions"),
    54: (Unsupported, "correct the server's aliases or referrals"),
    64: (NotApplied, None),
    65: (Unsupported, "give the entry an object class that has userPassword"),
    66: (NotApplied, None),
    67: (Unsupported, "the password is part of the entry's name: rename the entry"),
    68: (NotApplied, None),
    69: (NotApplied, None),
    71: (Unsupported, _PRIMARY),
    80: (NotApplied, "look at the server's log"),
    113: (NotApplied, None),
    114: (NotApplied, None),
    115: (NotApplied, None),
    116: (NotApplied, None),
    117: (NotApplied, None),
    118: (NotApplied, None),
    119: (NotApplied, None),
    120: (NotApplied, None),
    121: (NotApplied, None),
    122: (NotApplied, None),
    123: (Forbidden, _RIGHTS),
    4096: (NotApplied, None),
}
"""What a result of the server means, and the remedy; a code that is not here is ``NotApplied``."""

_UNSURE = frozenset({3, 11, 52, 80})
"""Answers that a proxy or a failing backend also gives for a change that was passed on already."""

BY_POLICY: dict[PolicyError, tuple[type[NotApplied], str]] = {
    PolicyError.PASSWORD_EXPIRED: (Locked, "the password has expired: set a new one as administrator"),
    PolicyError.ACCOUNT_LOCKED: (Locked, "unlock the account: delete pwdAccountLockedTime of its entry"),
    PolicyError.CHANGE_AFTER_RESET: (Forbidden, "the rotator must first change its own password"),
    PolicyError.PASSWORD_MOD_NOT_ALLOWED: (Forbidden, "allow it: pwdAllowUserChange of the policy, or use an admin"),
    PolicyError.MUST_SUPPLY_OLD_PASSWORD: (Forbidden, "the policy has pwdSafeModify: let the account rotate itself"),
    PolicyError.INSUFFICIENT_PASSWORD_QUALITY: (PolicyRefused, _RULES),
    PolicyError.PASSWORD_TOO_SHORT: (PolicyRefused, "raise the length in the record's password rules"),
    PolicyError.PASSWORD_TOO_YOUNG: (PolicyRefused, "wait until pwdMinAge has passed, or use an admin"),
    PolicyError.PASSWORD_IN_HISTORY: (PolicyRefused, "the account had this password before: rotate to a new one"),
    PolicyError.PASSWORD_TOO_LONG: (PolicyRefused, "lower the length in the record's password rules"),
}
"""What the password policy's own word means; it goes before the code, which many reasons share."""

_ADDRESS = "check host, port and firewall"
_OURS = "look at the connector's options of the resource record"

BY_DRIVER_TYPE: dict[type[BaseException], tuple[type[NotApplied], str, str | None]] = {
    ssl.SSLCertVerificationError: (
        HostKeyMismatch, "the server's certificate is not trusted",
        "name the CA's file in the custom field ssl_ca, and the host as the certificate does",
    ),
    ssl.SSLError: (Unreachable, "TLS could not be set up", "check that the port speaks what the port mapping says"),
    socket.gaierror: (Unreachable, "the host's name was not found", "check the host"),
    ConnectionRefusedError: (Unreachable, "nobody listens there", _ADDRESS),
    TimeoutError: (Unreachable, "the server did not answer in time", None),
    Garbled: (Unreachable, "what listens there does not speak LDAP", "check the port and the port mapping"),
    driver.LDAPCommunicationError: (Unreachable, "the server ended the connection", _ADDRESS),
    driver.LDAPBindError: (Unreachable, "the login was not finished", None),
    driver.LDAPStartTLSError: (Unreachable, "the server does not begin TLS", _TLS),
    driver.LDAPResponseTimeoutError: (Unreachable, "the server did not answer in time", None),
    driver.LDAPTransactionError: (Unreachable, "the server ended the transaction", None),
    driver.LDAPMaximumRetriesError: (Unreachable, "the server could not be reached", _ADDRESS),
    driver.LDAPServerPoolError: (Unreachable, "no server could be reached", _ADDRESS),
    driver.LDAPServerPoolExhaustedError: (Unreachable, "no server could be reached", _ADDRESS),
    driver.LDAPConnectionPoolNameIsMandatoryError: (Unreachable, "no server could be reached", _ADDRESS),
    driver.LDAPConnectionPoolNotStartedError: (Unreachable, "no server could be reached", _ADDRESS),
    driver.LDAPSASLBindInProgressError: (Unreachable, "the login was not finished", None),
    driver.LDAPSignatureVerificationFailedError: (Unreachable, "somebody tampers with the connection", None),
    driver.LDAPConfigurationError: (Unsupported, "the driver cannot do this", _OURS),
    driver.LDAPSSLNotSupportedError: (Unsupported, "the driver cannot do TLS here", _OURS),
    driver.LDAPInvalidTlsSpecificationError: (Unsupported, "the TLS settings are wrong", _OURS),
    driver.LDAPCertificateError: (HostKeyMismatch, "the server's certificate is not trusted", _OURS),
    driver.LDAPInvalidServerError: (Unsupported, "the server's name is wrong", _ADDRESS),
    driver.LDAPInvalidPortError: (Unsupported, "the port is wrong", _ADDRESS),
    driver.LDAPSASLMechanismNotSupportedError: (Unsupported, "the server takes no such login", None),
    driver.LDAPUserNameNotAllowedError: (Unsupported, "the login has no name", "set login or distinguishedName"),
    driver.LDAPUserNameIsMandatoryError: (Unsupported, "the login has no name", "set login or distinguishedName"),
    driver.LDAPPasswordIsMandatoryError: (Unsupported, "the login has no password", "set the record's password"),
    driver.LDAPInvalidDnError: (Unsupported, "the distinguished name is wrong", "correct it in the record"),
    driver.LDAPInvalidFilterError: (Unsupported, "the search filter is wrong", _OURS),
    driver.LDAPExtensionError: (Unreachable, "the server's answers are out of order", None),
    driver.LDAPControlError: (Unreachable, "the server's answer cannot be read", None),
    driver.LDAPKeyError: (NotApplied, "the driver could not go on", None),
    driver.LDAPObjectError: (NotApplied, "the driver could not go on", None),
    driver.LDAPAttributeError: (NotApplied, "the driver could not go on", None),
    driver.LDAPCursorError: (NotApplied, "the driver could not go on", None),
    driver.LDAPObjectDereferenceError: (NotApplied, "the driver could not go on", None),
    driver.LDAPInvalidHashAlgorithmError: (NotApplied, "the driver could not go on", None),
    driver.LDAPConnectionIsReadOnlyError: (NotApplied, "the driver could not go on", None),
    driver.LDAPChangeError: (NotApplied, "the driver could not go on", None),
    driver.LDAPInvalidScopeError: (NotApplied, "the driver could not go on", None),
    driver.LDAPInvalidDereferenceAliasesError: (NotApplied, "the driver could not go on", None),
    driver.LDAPInvalidValueError: (NotApplied, "the driver could not go on", None),
    driver.LDAPLDIFError: (NotApplied, "the driver could not go on", None),
    driver.LDAPSchemaError: (NotApplied, "the driver could not go on", None),
    driver.LDAPSASLPrepError: (NotApplied, "the driver could not go on", None),
    driver.LDAPMetricsError: (NotApplied, "the driver could not go on", None),
    driver.LDAPObjectClassError: (NotApplied, "the driver could not go on", None),
    driver.LDAPInfoError: (NotApplied, "the driver could not go on", None),
    driver.LDAPOperationResult: (NotApplied, "the server refused", None),
    driver.LDAPException: (NotApplied, "the driver could not go on", None),
    UnicodeError: (Unsupported, "a name or value is no text", "correct it in the record"),
    OSError: (Unreachable, "the connection failed", _ADDRESS),
}  # fmt: skip
"""What a failure before anything was sent means: our error, sentence, remedy. A class without an entry takes its parent's."""


def map_error(error: BaseException, *, sent: bool) -> TargetError:
    """Return our error for whatever the driver or the server said.

    Args:
        error: from the link.
        sent: the change was on its way, so that silence proves nothing.
    """
    if isinstance(error, TargetError):
        return error
    if isinstance(error, LdapRefusal):
        return _map_refusal(error, sent=sent)
    if sent:
        return unanswered(error)
    for kind in type(error).__mro__:
        if kind in BY_DRIVER_TYPE:
            ours, sentence, remedy = BY_DRIVER_TYPE[kind]
            return ours(sentence, remedy=remedy)
    return Unreachable(f"the connection failed ({type(error).__name__})", remedy=_ADDRESS)


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


def _map_refusal(error: LdapRefusal, *, sent: bool) -> TargetError:
    if sent and error.code in _UNSURE:
        return AmbiguousReply(f"the server answered the change with {error}")
    kind, remedy = BY_CODE.get(error.code, (NotApplied, None))
    if error.policy.error is not None:
        kind, remedy = BY_POLICY[error.policy.error]
    return kind(f"the server refused: {error}", remedy=remedy)


_UNKNOWN_CAUSES = {
    3: "timed_out", 8: "tls_required", 10: "referral", 11: "too_busy", 13: "tls_required", 48: "no_password_there",
    51: "busy", 52: "unavailable", 53: "unwilling",
}  # fmt: skip


def verdict_of(error: BaseException) -> Verdict:
    """Return what a failed login proves of the credential; all but a plain refusal of it proves nothing."""
    if isinstance(error, LdapRefusal):
        if error.policy.error is PolicyError.ACCOUNT_LOCKED:
            return Verdict(state=VerdictState.LOCKED, cause="locked", detail="the account is locked by the policy")
        if error.policy.error is PolicyError.PASSWORD_EXPIRED:
            detail = "the password is the right one, and has expired"
            return Verdict(state=VerdictState.LOCKED, cause="expired", detail=detail)
        if error.code == INVALID_CREDENTIALS and error.policy.error is None:
            detail = "the server refused the password"
            return Verdict(state=VerdictState.REFUSED, cause="wrong_password", detail=detail)
        cause = _UNKNOWN_CAUSES.get(error.code, "refused_login")
        return Verdict(state=VerdictState.UNKNOWN, cause=cause, detail=str(error))
    ours = map_error(error, sent=False)
    cause = "timed_out" if isinstance(error, TimeoutError) else ours.code
    return Verdict(state=VerdictState.UNKNOWN, cause=cause, detail=ours.message)


def read_policy_answer(value: bytes | None) -> PolicyAnswer:
    """Return what the password policy response control says; what cannot be read says nothing.

    Source: draft-behera-ldap-password-policy-10, section 6.2: ``SEQUENCE { warning [0] CHOICE { timeBeforeExpiration
    [0], graceAuthNsRemaining [1] } OPTIONAL, error [1] ENUMERATED OPTIONAL }``.
    """
    found: dict[int, bytes] = dict(_parts(_body(value or b"")))
    warning = dict(_parts(found.get(0xA0, b"")))
    error = found.get(0x81)
    number = int.from_bytes(error) if error else -1
    known = {each.value for each in PolicyError}
    return PolicyAnswer(
        error=PolicyError(number) if number in known and error != b"" and error is not None else None,
        expires_seconds=int.from_bytes(warning[0x80]) if 0x80 in warning else None,
        grace_logins=int.from_bytes(warning[0x81]) if 0x81 in warning else None,
    )


def _body(value: bytes) -> bytes:
    return next((content for tag, content in _parts(value) if tag == 0x30), b"")


def _parts(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element; all of them are far shorter than 128 bytes."""
    while len(content) >= 2 and content[1] < 0x80:
        end = 2 + content[1]
        yield content[0], content[2:end]
        content = content[end:]

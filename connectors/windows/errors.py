"""What WinRM, its driver and Windows itself say, as what is known of the target. Every mapping of Windows is here."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Final

import requests
import spnego.exceptions
import urllib3.exceptions
import winrm.exceptions as driver

from connectors.base import Verdict, VerdictState
from connectors.errors import mapping
from connectors.kerberos.errors import (
    KdcAwayError,
    KdcCode,
    KdcRefusedError,
    KerberosError,
    NotTrustedError,
    TicketRefusedError,
)
from connectors.ssh import errors as ssh_errors
from connectors.windows.programs import Answer
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    ConnectionLost,
    Forbidden,
    HostKeyMismatch,
    Locked,
    NotApplied,
    PolicyRefused,
    TargetError,
    TimedOutAfterSend,
    Unreachable,
    Unsupported,
)
from pam_jobs.secret import SecretValue

__all__ = [
    "BY_CODE",
    "BY_DRIVER_TYPE",
    "BY_KDC_CODE",
    "BY_LOGON_CODE",
    "FAILURES",
    "LoginRefused",
    "NoAnswer",
    "map_error",
    "map_refusal",
    "mapped",
    "verdict_of",
    "verdict_of_logon",
]

ACCESS_DENIED: Final = 5


class LoginRefused(Exception):
    """The machine answered the login with "unauthorized"."""


class NoAnswer(Exception):
    """A program ended and said nothing that could be read; its own words are kept for the message."""

    def __init__(self, exit_code: int, said: str) -> None:
        self.exit_code = exit_code
        self.said = " ".join(said.split())[-300:]
        super().__init__(f"code {exit_code}")


FAILURES: Final = (
    *ssh_errors.FAILURES, LoginRefused, NoAnswer, driver.WinRMError, driver.WinRMTransportError, driver.WinRMOperationTimeoutError,
    requests.RequestException, urllib3.exceptions.HTTPError, spnego.exceptions.SpnegoError, KerberosError, ET.ParseError,
    StopIteration, AssertionError, ValueError, LookupError, PermissionError,
)  # fmt: skip
"""Whatever a link raises. pywinrm lets plain errors of Python through where an answer is not what it expects."""

_Meaning = tuple[type[NotApplied], str, str | None]
_PORT = "check host, port and firewall, and that WinRM listens there (winrm enumerate winrm/config/listener)"
_NO_WINRM = "check that the port is one of WinRM"
_KDC = "name the controllers in the custom field 'Kerberos KDC', and open TCP port 88 to them"
_TICKET = (
    "check the clocks, that the service HTTP of this host is the machine's own (setspn -Q), and the account's rights"
)
_CA = "name the CA's file in the custom field ssl_ca, and the host as the certificate does"

BY_DRIVER_TYPE: Final[dict[type[BaseException], _Meaning]] = {
    LoginRefused: (AuthRejected, "the machine refused the login", "check the rotator's login and password"),
    NoAnswer: (Unsupported, "PowerShell did not run there", "look at the execution of PowerShell on the machine"),
    driver.InvalidCredentialsError: (AuthRejected, "the machine refused the login", "check the rotator's login and password"),
    driver.BasicAuthDisabledError: (Unsupported, "the machine takes no Basic login", "let it offer Negotiate"),
    driver.AuthenticationError: (AuthRejected, "the machine refused the login", "check the rotator's login and password"),
    driver.WSManFaultError: (NotApplied, "WinRM refused the request", "look at WinRM's event log on the machine"),
    driver.WinRMTransportError: (Unreachable, "the machine did not answer as WinRM does", _NO_WINRM),
    driver.WinRMOperationTimeoutError: (Unreachable, "the machine did not answer in time", None),
    driver.WinRMError: (Unsupported, "the WinRM driver cannot do this", None),
    spnego.exceptions.SpnegoError: (Unreachable, "the login was not finished", _NO_WINRM),
    KdcAwayError: (Unreachable, "no domain controller answered on Kerberos' port", _KDC),
    KdcRefusedError: (Unreachable, "the domain controller gave no ticket", "look at the domain controller's event log"),
    TicketRefusedError: (Forbidden, "the machine did not take the domain's ticket", _TICKET),
    NotTrustedError: (HostKeyMismatch, "who answered did not prove to be the machine or its domain", _TICKET),
    KerberosError: (Unreachable, "the login was not finished", None),
    requests.exceptions.SSLError: (HostKeyMismatch, "the machine's certificate is not trusted", _CA),
    requests.exceptions.ConnectTimeout: (Unreachable, "the machine did not answer in time", _PORT),
    requests.exceptions.ReadTimeout: (Unreachable, "the machine did not answer in time", None),
    requests.exceptions.Timeout: (Unreachable, "the machine did not answer in time", None),
    requests.exceptions.ProxyError: (Unreachable, "a proxy stands in between", None),
    requests.exceptions.ConnectionError: (Unreachable, "the connection failed", _PORT),
    requests.exceptions.RequestException: (Unreachable, "the machine did not answer as WinRM does", _NO_WINRM),
    urllib3.exceptions.HTTPError: (Unreachable, "the machine did not answer as WinRM does", _NO_WINRM),
    ET.ParseError: (Unsupported, "the machine's answer cannot be read", _NO_WINRM),
    StopIteration: (Unsupported, "the machine's answer cannot be read", _NO_WINRM),
    AssertionError: (Unsupported, "the machine's answer cannot be read", _NO_WINRM),
    LookupError: (Unsupported, "the machine's answer cannot be read", _NO_WINRM),
    ValueError: (Unsupported, "the machine's answer cannot be read", _NO_WINRM),
    PermissionError: (Unsupported, "the machine offers no login that can be made here", "let it offer Negotiate"),
}  # fmt: skip
"""What a failure before anything was sent means: our error, sentence, remedy. A class without an entry takes its parent's."""

_SHELL_REMEDY = (
    "make the rotator a member of Administrators, and for a local one set LocalAccountTokenFilterPolicy to 1"
)
_BUSY: Final = frozenset({2150859173, 2150859174, 2150859175, 2150858996, 2150858793})  # quotas of WinRM, time-outs


def map_error(error: BaseException, *, sent: bool) -> TargetError:
    """Return our error for whatever a link raised.

    Args:
        error: from the link.
        sent: the change was on its way, so that silence proves nothing.
    """
    if isinstance(error, TargetError):
        return error
    if sent:
        return _after_sending(error)
    if by_code := _by_code(error):
        return by_code
    for kind in type(error).__mro__:
        if kind in BY_DRIVER_TYPE:
            ours, sentence, remedy = BY_DRIVER_TYPE[kind]
            return ours(sentence, remedy=remedy)
    return ssh_errors.map_error(error, sent=False)


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


def _by_code(error: BaseException) -> NotApplied | None:
    """Return our error for one that tells more than its class does; None for any other."""
    if isinstance(error, driver.WSManFaultError):
        return _of_fault(error)
    if isinstance(error, KdcRefusedError | TicketRefusedError):
        return _of_kerberos(error)
    if isinstance(error, NoAnswer):
        return Unsupported(
            f"PowerShell did not run there (code {error.exit_code}): {error.said}",
            remedy="check PowerShell 3 or later on the machine, and the custom field 'Shell'",
        )
    return None


_CLOCKS: Final[_Meaning] = (
    Unreachable,
    "the clocks of gateway and domain are more than five minutes apart",
    "let both take the time from one source",
)

BY_KDC_CODE: Final[Mapping[int, _Meaning]] = {
    KdcCode.CLIENT_UNKNOWN: (AuthRejected, "the domain knows no such account", "check the login, and its domain"),
    KdcCode.SERVICE_UNKNOWN: (
        Unsupported,
        "the domain knows no service HTTP of this host",
        "name the machine as its domain does (custom field 'Kerberos Host'), or register it: setspn -S HTTP/HOST MACHINE",
    ),
    KdcCode.POLICY: (Locked, "the domain's rules keep the account from logging in", "look at its hours and workstations"),
    KdcCode.NO_COMMON_ENCRYPTION: (
        Unsupported,
        "the domain has no AES key of the account or of the machine",
        "set a password again, and let msDS-SupportedEncryptionTypes allow AES: RC4 and DES are not spoken",
    ),
    KdcCode.REVOKED: (Locked, "the account is locked, disabled or expired", "look at it in the domain"),
    KdcCode.KEY_EXPIRED: (Locked, "the password has expired or must be changed", "set a new one in the domain"),
    KdcCode.PREAUTH_FAILED: (AuthRejected, "the domain refused the password", "check the rotator's login and password"),
    KdcCode.SKEW: _CLOCKS,
    KdcCode.WRONG_REALM: (Unsupported, "the account is of another domain", "name its domain: custom field 'Kerberos Realm'"),
}  # fmt: skip
"""What a domain controller's answer means."""

_KDC_VERDICTS: Final[Mapping[int, tuple[VerdictState, str]]] = {
    KdcCode.PREAUTH_FAILED: (VerdictState.REFUSED, "wrong_password"),
    KdcCode.CLIENT_UNKNOWN: (VerdictState.UNKNOWN, "not_found"),
    KdcCode.POLICY: (VerdictState.LOCKED, "account_restriction"),
    KdcCode.REVOKED: (VerdictState.LOCKED, "account_restriction"),
    KdcCode.KEY_EXPIRED: (VerdictState.LOCKED, "expired"),
}


def _of_kerberos(error: KdcRefusedError | TicketRefusedError) -> NotApplied:
    if isinstance(error, TicketRefusedError):
        if error.code == KdcCode.SKEW:
            return Unreachable(_CLOCKS[1], remedy=_CLOCKS[2])
        ours, sentence, remedy = BY_DRIVER_TYPE[TicketRefusedError]
        return ours(f"{sentence} (code {error.code})" if error.code else sentence, remedy=remedy)
    ours, sentence, remedy = BY_KDC_CODE.get(error.code, BY_DRIVER_TYPE[KdcRefusedError])
    return ours(f"{sentence} (Kerberos code {error.code})", remedy=remedy)


def _after_sending(error: BaseException) -> TargetError:
    late = (TimeoutError, requests.exceptions.Timeout, driver.WinRMOperationTimeoutError)
    if isinstance(error, late):
        return TimedOutAfterSend()
    answered = (
        NoAnswer,
        KerberosError,
        driver.WSManFaultError,
        driver.WinRMTransportError,
        LoginRefused,
        driver.AuthenticationError,
    )
    return AmbiguousReply() if isinstance(error, answered) else ConnectionLost()


def _of_fault(error: driver.WSManFaultError) -> NotApplied:
    if error.wsman_fault_code == ACCESS_DENIED:
        return Forbidden("WinRM gives this account no shell", remedy=_SHELL_REMEDY)
    if error.wsman_fault_code in _BUSY:
        return Unreachable(
            "WinRM is busy", remedy="raise MaxShellsPerUser and MaxConcurrentUsers of winrm/config/winrs"
        )
    code = f" (code {error.wsman_fault_code})" if error.wsman_fault_code else ""
    return NotApplied(f"WinRM refused the request{code}", remedy="look at WinRM's event log on the machine")


_RULES: Final = "change the record's complexity to the machine's rules (net accounts, secpol.msc)"
_POLICY: Final[_Meaning] = (
    PolicyRefused,
    "the machine's rules for length, complexity, age or history refused the password",
    _RULES,
)
_DENIED: Final[_Meaning] = (Forbidden, "access is denied", "make the rotator a member of Administrators")
_NOBODY: Final[_Meaning] = (
    Unsupported,
    "there is no such account on the machine",
    "check the login in the user record",
)

BY_CODE: Final[Mapping[int, _Meaning]] = {
    5: _DENIED,
    86: (AuthRejected, "the present password was refused", "check the user's record"),
    1314: _DENIED,  # a privilege is not held
    1317: _NOBODY,
    1323: _POLICY, 1324: _POLICY, 1325: _POLICY,  # ill-formed, characters, rules
    1326: (AuthRejected, "the present password was refused", "check the user's record"),
    1379: _NOBODY,
    1908: (Unreachable, "no domain controller could be reached", "look at the machine's network"),
    1355: (Unreachable, "the domain could not be reached", "look at the machine's network"),
    2221: _NOBODY,
    2245: _POLICY,
    2226: (NotApplied, "this is done on the primary domain controller only", "set the resource to that controller"),
}  # fmt: skip
"""What Windows' answer to a change means, by its code; the change was not made."""

BY_KIND: Final[Mapping[str, _Meaning]] = {
    "Microsoft.PowerShell.Commands.InvalidPasswordException": _POLICY,
    "Microsoft.PowerShell.Commands.UserNotFoundException": _NOBODY,
    "Microsoft.PowerShell.Commands.PrincipalNotFoundException": _NOBODY,
    "Microsoft.PowerShell.Commands.AccessDeniedException": _DENIED,
    "System.UnauthorizedAccessException": _DENIED,
}
"""The same where the exception carries no code of Windows."""


def map_refusal(answer: Answer, *secrets: SecretValue | None) -> TargetError:
    """Return our error for a program that says it failed; an answer nobody knows leaves open what was done.

    Args:
        answer: of the program.
        secrets: never to be repeated.
    """
    known = BY_KIND.get(answer.kind, BY_CODE.get(answer.code))
    text = answer.text
    for secret in secrets:
        if secret:
            text = text.replace(secret.reveal(), "***")
    said = f"{' '.join(text.split())[-200:]} ({answer.kind.rpartition('.')[2]} {answer.code})"
    if known is None:
        return AmbiguousReply(f"the machine failed: {said}")
    kind, sentence, remedy = known
    return kind(f"{sentence}: {said}", remedy=remedy)


BY_LOGON_CODE: Final[Mapping[int, tuple[VerdictState, str, str]]] = {
    0: (VerdictState.ACCEPTED, "", ""),
    1326: (VerdictState.REFUSED, "wrong_password", "the machine refused the password"),
    1327: (VerdictState.LOCKED, "account_restriction", "a restriction keeps the account from logging on"),
    1328: (VerdictState.LOCKED, "account_restriction", "the account may not log on at this time"),
    1329: (VerdictState.LOCKED, "account_restriction", "the account may not log on at this machine"),
    1330: (VerdictState.ACCEPTED, "expired", "the password is right, and has expired"),
    1331: (VerdictState.LOCKED, "disabled", "the account is disabled"),
    1355: (VerdictState.UNKNOWN, "unreachable", "the domain could not be reached"),
    1311: (VerdictState.UNKNOWN, "unreachable", "no domain controller could be reached"),
    1385: (VerdictState.ACCEPTED, "no_connect_right", "the password is right, and the account may not log on over the network"),
    1789: (VerdictState.UNKNOWN, "unreachable", "the machine's trust with its domain is broken"),
    1793: (VerdictState.LOCKED, "expired", "the account has expired"),
    1907: (VerdictState.ACCEPTED, "change_after_reset", "the password is right, and must be changed at the next logon"),
    1909: (VerdictState.LOCKED, "locked", "the account is locked out"),
}  # fmt: skip
"""What the Win32 code of a network logon proves. Windows compares the password before it looks whether it has expired, must
be changed, or whether the account may log on in this way."""


def verdict_of_logon(code: int) -> Verdict:
    """Return what a network logon on the machine itself proved."""
    fallback = (VerdictState.UNKNOWN, "refused_login", f"the machine did not decide on the logon (code {code})")
    state, cause, detail = BY_LOGON_CODE.get(code, fallback)
    return Verdict(state=state, cause=cause, detail=detail)


def verdict_of(error: BaseException) -> Verdict:
    """Return what a failed login from here proves of the credential; all but a plain refusal proves nothing."""
    if isinstance(error, LoginRefused | driver.InvalidCredentialsError | ssh_errors.LoginRefused):
        detail = "the machine refused the login"
        return Verdict(state=VerdictState.REFUSED, cause="wrong_password", detail=detail)
    if isinstance(error, driver.WSManFaultError) and error.wsman_fault_code == ACCESS_DENIED:
        detail = "the password is right, and the account gets no shell of WinRM"
        return Verdict(state=VerdictState.ACCEPTED, cause="no_connect_right", detail=detail)
    if isinstance(error, ssh_errors.LoginIncomplete):
        return ssh_errors.verdict_of(error)
    if isinstance(error, TicketRefusedError) and error.code != KdcCode.SKEW:
        detail = "the domain took the password, and the machine does not let the account in"
        return Verdict(state=VerdictState.ACCEPTED, cause="no_connect_right", detail=detail)
    if isinstance(error, KdcRefusedError) and error.code in _KDC_VERDICTS:
        state, cause = _KDC_VERDICTS[error.code]
        return Verdict(state=state, cause=cause, detail=map_error(error, sent=False).message)
    ours = map_error(error, sent=False)
    causes: dict[type[TargetError], str] = {
        HostKeyMismatch: "host_key_mismatch", Unsupported: "unsupported", AuthRejected: "method_not_allowed",
    }  # fmt: skip
    return Verdict(state=VerdictState.UNKNOWN, cause=causes.get(type(ours), "unreachable"), detail=ours.message)

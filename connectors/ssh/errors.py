"""What SSH servers and paramiko say, as what is known of the target. Every mapping of the SSH transport is here."""

from __future__ import annotations

import socket

import paramiko
from paramiko import ssh_exception
from paramiko.pkey import UnknownKeyType

from connectors.base import Verdict, VerdictState
from connectors.errors import mapping, unanswered
from pam_jobs.errors import (
    AuthRejected,
    HostKeyMismatch,
    NotApplied,
    TargetError,
    Unreachable,
    Unsupported,
)

__all__ = [
    "BY_DRIVER_TYPE",
    "FAILURES",
    "LoginIncomplete",
    "LoginRefused",
    "TurnedAway",
    "map_error",
    "mapped",
    "verdict_of",
]


class LoginRefused(Exception):
    """The server looked at the credential and said no; the one proof of a wrong credential."""


class TurnedAway(paramiko.SSHException):
    """The server closed the connection before it had said who it is, as sshd does beyond MaxStartups; nothing was tried."""


class LoginIncomplete(Exception):
    """The credential was accepted, and the server demands another factor that we do not have."""


FAILURES = (paramiko.SSHException, UnknownKeyType, LoginRefused, LoginIncomplete, TimeoutError, OSError, EOFError)
"""Whatever the transport raises."""

_PIN = "check the machine; if its key really changed, put the new one into the resource record"

BY_DRIVER_TYPE: dict[type[BaseException], tuple[type[NotApplied], str, str | None]] = {
    LoginRefused: (AuthRejected, "the server refused the login", "check the rotator's password or key"),
    LoginIncomplete: (AuthRejected, "the server demands a second factor", "let this login in with one factor"),
    ssh_exception.BadHostKeyException: (HostKeyMismatch, "the server's key is not the one on record", _PIN),
    ssh_exception.PasswordRequiredException: (Unsupported, "the private key is encrypted", "store it without passphrase"),
    ssh_exception.BadAuthenticationType: (
        AuthRejected, "the server takes no such login", "allow PasswordAuthentication or PubkeyAuthentication in sshd_config",
    ),
    ssh_exception.PartialAuthentication: (
        AuthRejected, "the server demands a second factor", "let this login in with one factor",
    ),
    ssh_exception.UnableToAuthenticate: (Unreachable, "the login was not finished", None),
    ssh_exception.AuthenticationException: (Unreachable, "the server ended the login before it had answered", None),
    ssh_exception.ChannelException: (Unreachable, "the server opened no channel", "raise MaxSessions in sshd_config"),
    ssh_exception.IncompatiblePeer: (
        Unsupported, "the server and this program share no algorithm", "update the server's SSH software",
    ),
    ssh_exception.MessageOrderError: (Unreachable, "somebody tampers with the connection", "look at the network"),
    ssh_exception.ProxyCommandFailure: (Unreachable, "the proxy command failed", None),
    ssh_exception.NoValidConnectionsError: (Unreachable, "nobody listens there", "check host, port and firewall"),
    ssh_exception.CouldNotCanonicalize: (Unreachable, "the host's name was not found", "check the host"),
    ssh_exception.ConfigParseError: (Unsupported, "an SSH configuration cannot be read", None),
    UnknownKeyType: (Unsupported, "the key's type is not known", "use ssh-rsa, ecdsa-sha2-* or ssh-ed25519"),
    ssh_exception.SSHException: (Unreachable, "the SSH connection failed", "look at the load and MaxStartups of the server"),
    socket.gaierror: (Unreachable, "the host's name was not found", "check the host"),
    ConnectionRefusedError: (Unreachable, "nobody listens there", "check host, port and firewall"),
    TimeoutError: (Unreachable, "the server did not answer in time", None),
    EOFError: (Unreachable, "the server closed the connection", None),
    OSError: (Unreachable, "the connection failed", "check host, port and firewall"),
}  # fmt: skip
"""What a failure before anything was sent means: our error, sentence, remedy. A class without an entry takes its parent's."""


def map_error(error: BaseException, *, sent: bool) -> TargetError:
    """Return our error for whatever the transport raised.

    Args:
        error: from the transport.
        sent: the change was on its way, so that silence proves nothing.
    """
    if isinstance(error, TargetError):
        return error
    if sent:
        return unanswered(error)
    for kind in type(error).__mro__:
        if kind in BY_DRIVER_TYPE:
            ours, sentence, remedy = BY_DRIVER_TYPE[kind]
            return ours(sentence, remedy=remedy)
    return Unreachable(f"the SSH connection failed ({type(error).__name__})")


mapped = mapping(FAILURES, map_error)
"""Raises our error in place of the link's; see ``map_error``."""


_UNKNOWN_CAUSES: dict[type[NotApplied], str] = {
    HostKeyMismatch: "host_key_mismatch",
    Unsupported: "unsupported",
    AuthRejected: "method_not_allowed",
}


def verdict_of(error: BaseException) -> Verdict:
    """Return what a failed login proves of the credential; all but a plain refusal proves nothing."""
    if isinstance(error, LoginRefused):
        return Verdict(state=VerdictState.REFUSED, cause="wrong_credential", detail="the server refused the credential")
    if isinstance(error, LoginIncomplete):
        return Verdict(
            state=VerdictState.UNKNOWN, cause="second_factor", detail="accepted so far, but the server demands more"
        )
    ours = map_error(error, sent=False)
    cause = _UNKNOWN_CAUSES.get(type(ours), "unreachable") if isinstance(ours, NotApplied) else "unreachable"
    return Verdict(state=VerdictState.UNKNOWN, cause=cause, detail=ours.message)

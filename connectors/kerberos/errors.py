"""What goes wrong with Kerberos. What it means for a target is in the ``errors`` of the connector that logs in."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["KdcAwayError", "KdcCode", "KdcRefusedError", "KerberosError", "NotTrustedError", "TicketRefusedError"]


class KdcCode(IntEnum):
    """Codes of a domain controller that mean something to us (RFC 4120, 7.5.9)."""

    CLIENT_UNKNOWN = 6
    SERVICE_UNKNOWN = 7
    POLICY = 12
    NO_COMMON_ENCRYPTION = 14
    REVOKED = 18  # locked, disabled, expired account, or not at this hour
    KEY_EXPIRED = 23  # the password has expired, or must be changed
    PREAUTH_FAILED = 24  # wrong password
    PREAUTH_REQUIRED = 25
    SERVICE_UNAVAILABLE = 29
    SKEW = 37
    WRONG_REALM = 68


class KerberosError(Exception):
    """Kerberos did not get us in."""


class KdcRefusedError(KerberosError):
    """A domain controller said no, with a code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"code {code}")


class KdcAwayError(KerberosError):
    """No domain controller answered."""


class TicketRefusedError(KerberosError):
    """The domain gave a ticket, and the machine did not take it."""

    def __init__(self, code: int = 0) -> None:
        self.code = code  # of the machine's own answer; 0: it gave none
        super().__init__(f"code {code}")


class NotTrustedError(KerberosError):
    """What came is not what somebody with the right key would say."""

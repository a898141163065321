"""Every error the system raises, by what is known of the target, then by cause.

PamJobsError(remedy)
├─ ConfigurationError            wrong settings or files; never retried
├─ InvalidInput                  refused before anything was written
├─ AccessDenied                  who asks may not do this: ClockDiffers
├─ NotFound                      no such record, folder, job …
├─ StateError                    Conflict · LeaseLost · EpochConflict · AlreadyExists · NotRegistered
├─ TargetError(effect, cause)
│   ├─ NotApplied                Unreachable · AuthRejected · AdminRefused · Locked · Forbidden · PolicyRefused · Unsupported
│   │                            · HostKeyMismatch · WrongTarget, WrongAccount (Unsupported)
│   └─ EffectUnknown             TimedOutAfterSend · ConnectionLost · AmbiguousReply · PartlyApplied
├─ ScriptError(step, effect)     ScriptTimeout · ScriptFailed · ScriptUnknown
├─ VaultError                    VaultUnavailable · VaultConflict
└─ AuditError                    DeliveryFailed

The class docstring is the default message. A message never carries a secret.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

__all__ = [
    "AccessDenied",
    "AdminRefused",
    "AlreadyExists",
    "AmbiguousReply",
    "AuditError",
    "AuthRejected",
    "ClockDiffers",
    "ConfigurationError",
    "Conflict",
    "ConnectionLost",
    "DeliveryFailed",
    "Effect",
    "EffectUnknown",
    "EpochConflict",
    "Forbidden",
    "HostKeyMismatch",
    "InvalidInput",
    "LeaseLost",
    "Locked",
    "NotApplied",
    "NotFound",
    "NotRegistered",
    "PamJobsError",
    "PartlyApplied",
    "PolicyRefused",
    "ScriptError",
    "ScriptFailed",
    "ScriptTimeout",
    "ScriptUnknown",
    "StateError",
    "TargetError",
    "TimedOutAfterSend",
    "Unreachable",
    "Unsupported",
    "VaultConflict",
    "VaultError",
    "VaultUnavailable",
    "WrongAccount",
    "WrongTarget",
]


class Effect(StrEnum):
    """What is known of a target after a change was tried."""

    APPLIED = "applied"  # the target confirmed the change
    NOT_APPLIED = "not_applied"  # the target is certainly as it was
    UNKNOWN = "unknown"  # the change may or may not have happened


class PamJobsError(Exception):
    """The operation failed."""

    code = "error"

    def __init__(self, message: str | None = None, *, remedy: str | None = None) -> None:
        """Keep one sentence on what happened and one on what to do next.

        Args:
            message: what happened; the class docstring's first line when absent.
            remedy: what the user does next, or None where there is nothing to do.
        """
        self.message = message or (self.__doc__ or "").strip().split("\n")[0]
        self.remedy = remedy
        super().__init__(self.message)

    def sentence(self) -> str:
        """Return message and remedy as one line for a person."""
        return f"{self.message.rstrip('.')}: {self.remedy}" if self.remedy else self.message


class ConfigurationError(PamJobsError):
    """A setting or file is wrong."""

    code = "configuration"


class InvalidInput(PamJobsError):
    """The input was refused and nothing was changed."""

    code = "invalid_input"


class AccessDenied(PamJobsError):
    """You are not allowed to do this."""

    code = "access_denied"


class ClockDiffers(AccessDenied):
    """The clocks of the two machines differ too much."""

    code = "clock_differs"


class NotFound(PamJobsError):
    """There is no such object."""

    code = "not_found"


class StateError(PamJobsError):
    """The object is not in a state that allows this."""

    code = "state"


class Conflict(StateError):
    """Somebody else changed the object meanwhile."""

    code = "conflict"


class AlreadyExists(StateError):
    """The object exists already."""

    code = "already_exists"


class LeaseLost(StateError):
    """The lease on the job ended and another attempt may own it."""

    code = "lease_lost"


class NotRegistered(StateError):
    """The instance of the gateway counts as gone; it says hello again."""

    code = "not_registered"


class EpochConflict(StateError):
    """A newer attempt on this credential exists; this one must stop."""

    code = "epoch_conflict"


class TargetError(PamJobsError):
    """The target did not do what was asked."""

    code = "target"
    effect: Effect = Effect.UNKNOWN

    @property
    def cause(self) -> str:
        """Return the stable code of the cause, such as ``unreachable``."""
        return self.code


class NotApplied(TargetError):
    """The target is certainly unchanged."""

    code = "not_applied"
    effect = Effect.NOT_APPLIED


class Unreachable(NotApplied):
    """The target could not be reached."""

    code = "unreachable"


class AuthRejected(NotApplied):
    """The target refused the login."""

    code = "auth_rejected"


class AdminRefused(NotApplied):
    """The target refused the administrator."""

    code = "admin_refused"


class Locked(NotApplied):
    """The account is locked on the target."""

    code = "locked"


class Forbidden(NotApplied):
    """The login may not change this account."""

    code = "forbidden"


class PolicyRefused(NotApplied):
    """The target's own rules refused the new value."""

    code = "policy_refused"


class Unsupported(NotApplied):
    """The target or account cannot do this."""

    code = "unsupported"


class WrongTarget(Unsupported):
    """The target is another product than the connector speaks to."""


class WrongAccount(Unsupported):
    """The account is none that can be rotated there, whichever way leads to the target."""


class HostKeyMismatch(NotApplied):
    """The host's key is not the one on record."""

    code = "host_key_mismatch"


class EffectUnknown(TargetError):
    """It is not known whether the target changed."""

    code = "effect_unknown"
    effect = Effect.UNKNOWN


class TimedOutAfterSend(EffectUnknown):
    """The target did not answer in time after the change was sent."""

    code = "timed_out_after_send"


class ConnectionLost(EffectUnknown):
    """The connection ended after the change was sent."""

    code = "connection_lost"


class PartlyApplied(EffectUnknown):
    """One part of the credential was changed, and the other certainly not."""

    code = "partly_applied"

    def __init__(
        self,
        message: str | None = None,
        *,
        remedy: str | None = None,
        changed: Literal["password", "private_key"] = "password",
    ) -> None:
        """Keep which part is the new one.

        Args:
            message: why the other part was not changed.
            remedy: what the user does next.
            changed: the part that the target has.
        """
        super().__init__(message, remedy=remedy)
        self.changed: Literal["password", "private_key"] = changed

    @property
    def failed(self) -> Literal["password", "private_key"]:
        """The part that the target does not have."""
        return "private_key" if self.changed == "password" else "password"


class AmbiguousReply(EffectUnknown):
    """The target's answer does not say whether it changed."""

    code = "ambiguous_reply"


class ScriptError(PamJobsError):
    """A post-rotation script did not succeed."""

    code = "script"


class ScriptFailed(ScriptError):
    """The script ended with a non-zero exit code."""

    code = "script_failed"


class ScriptTimeout(ScriptError):
    """The script ran longer than it may."""

    code = "script_timeout"


class ScriptUnknown(ScriptError):
    """The script was interrupted and may have run in part."""

    code = "script_unknown"


class VaultError(PamJobsError):
    """The vault did not do what was asked."""

    code = "vault"


class VaultUnavailable(VaultError):
    """The vault could not be reached."""

    code = "vault_unavailable"


class VaultConflict(VaultError):
    """The record has a newer revision."""

    code = "vault_conflict"


class AuditError(PamJobsError):
    """The audit log refused the event."""

    code = "audit"


class DeliveryFailed(AuditError):
    """The receiver did not take the events; they stay queued."""

    code = "delivery_failed"

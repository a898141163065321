"""What the error maps of several connectors say in the same words; each connector's own map is its ``NAME/errors.py``."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeVar

from connectors.base import Verdict, VerdictState
from pam_jobs.errors import (
    AmbiguousReply,
    ConnectionLost,
    EffectUnknown,
    NotApplied,
    TargetError,
    TimedOutAfterSend,
    Unreachable,
)

__all__ = ["NO_PASSWORD", "mapping", "of_connection", "refused", "unanswered", "unproven", "untried"]

Code = TypeVar("Code")

NO_PASSWORD: Final = Verdict(state=VerdictState.UNKNOWN, cause="no_password", detail="the credential has no password")
"""The verdict of a probe that has nothing to log in with."""


class MapError(Protocol):
    """A connector's ``map_error``."""

    def __call__(self, error: Exception, *, sent: bool) -> TargetError:
        """Return our error for whatever the link raised."""
        ...


class Mapped(Protocol):
    """A connector's ``mapped``."""

    def __call__(self, *, sent: bool) -> AbstractContextManager[None]:
        """Return a context in which our error is raised in place of the link's."""
        ...


def mapping(failures: tuple[type[Exception], ...], map_error: MapError) -> Mapped:
    """Return ``mapped``: a context that raises our error in place of the link's.

    Args:
        failures: whatever the link raises.
        map_error: what each of them means.
    """

    @contextlib.contextmanager
    def mapped(*, sent: bool) -> Iterator[None]:
        try:
            yield
        except failures as error:
            raise map_error(error, sent=sent) from None  # the driver's text may quote what it was given

    return mapped


def refused(
    error: Exception,
    code: Code,
    meanings: Mapping[Code, tuple[type[NotApplied], str | None]],
    *,
    sent: bool,
    ended: bool = False,
    who: str = "server",
) -> NotApplied | EffectUnknown:
    """Return our error for a refusal by its code.

    Args:
        error: the refusal.
        code: of it.
        meanings: what codes mean, with the remedy; once the change was sent, these alone say that nothing changed.
        sent: the change was on its way.
        ended: the connection ended with it, perhaps after the change took effect.
        who: refused.
    """
    if sent and ended:
        return ConnectionLost(f"the {who} ended the connection: {error}")
    if sent and code not in meanings:
        return AmbiguousReply(f"the {who} answered the change with: {error}")
    kind, remedy = meanings.get(code, (NotApplied, None))
    return kind(f"the {who} refused: {error}", remedy=remedy)


def unanswered(error: BaseException) -> EffectUnknown:
    """Return our error for a change that was sent and got no answer."""
    return TimedOutAfterSend() if isinstance(error, TimeoutError) else ConnectionLost()


def of_connection(error: Exception, who: str = "server") -> Unreachable:
    """Return our error for a connection that failed before anything was sent, over a context of ``connectors.tls``."""
    if isinstance(error, TimeoutError):
        return Unreachable(f"the {who} did not answer in time")
    if isinstance(error, ssl.SSLCertVerificationError):
        told = error.verify_message
        return Unreachable(f"the {who}'s certificate is not accepted: {told}", remedy="set ssl_ca to its CA's file")
    if isinstance(error, ssl.SSLError):
        return Unreachable(f"TLS failed ({error.reason})", remedy="check sslmode, ssl_ca, ssl_cert and ssl_key")
    return Unreachable(f"the {who} cannot be reached", remedy="check host, port and firewall")


def unproven(error: Exception, map_error: MapError) -> Verdict:
    """Return the verdict of a login that the target did not answer."""
    cause = "timed_out" if isinstance(error, TimeoutError) else "unreachable"
    return Verdict(state=VerdictState.UNKNOWN, cause=cause, detail=map_error(error, sent=False).message)


def untried(error: TargetError) -> Verdict:
    """Return the verdict of a login that was not made, for the reason that the error names."""
    return Verdict(state=VerdictState.UNKNOWN, cause=error.code, detail=error.message)

"""What sessions on all network devices have in common: the rotator's command line, and logins that prove."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from connectors.base import Account, Credential, Deadline, Target, Verdict, VerdictState
from connectors.kept import KeptSession
from connectors.network.terminal import Terminal
from connectors.ssh.errors import FAILURES, mapped, verdict_of
from pam_jobs.errors import Locked, TargetError, Unsupported

if TYPE_CHECKING:
    from connectors.network.connector import NetworkConnector

__all__ = ["NetworkSession", "said"]

_QUOTED = 160  # characters of a device's sentence that are passed on


class NetworkSession(KeptSession[Terminal]):
    """A session on one device, whose connection is a command line."""

    def __init__(
        self, connector: NetworkConnector, target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(connector.kept, target, rotator, deadline)
        self._connector = connector

    def probe(self, account: Account, credential: Credential) -> Verdict:  # noqa: ARG002
        """Log in once, afresh, by password or keyboard-interactive."""
        if not credential.password and not credential.private_key:
            return Verdict(state=VerdictState.UNKNOWN, cause="no_credential", detail="there is nothing to log in with")
        try:
            self._connector.login(self._target, credential, self._deadline).close()
        except Locked as error:
            return Verdict(state=VerdictState.LOCKED, cause="expired", detail=error.message)
        except (*FAILURES, TargetError) as error:
            return verdict_of(error)
        return Verdict(state=VerdictState.ACCEPTED)

    def _log_in(self, rotator: Credential) -> Terminal:
        if not rotator.password and not rotator.private_key:
            raise Unsupported("the rotator has neither password nor key", remedy="add one to the admin's record")
        with mapped(sent=False):
            link = self._connector.login(self._target, rotator, self._deadline)
            try:
                terminal = Terminal(link, self._deadline)
                self._begin(terminal)
            except BaseException:
                link.close()
                raise
            return terminal

    def _prepare(self, link: Terminal) -> None:
        link.use(self._deadline)

    @abstractmethod
    def _begin(self, terminal: Terminal) -> None:
        """Bring a new command line to where it takes commands, without pages.

        Raises:
            NotApplied: the login may not do what has to be done.
            Exception: one of ``FAILURES``.
        """

    def _spoil(self) -> None:
        """Never give this command line to anybody else: nobody knows where in a dialogue it stands."""
        self._key = None
        if self._link is not None:
            self._link.close()

    def _require_link(self) -> Terminal:
        """Return the rotator's command line, a new one where the device has ended it meanwhile (``exec-timeout``).

        Raises:
            NotApplied: there is none to be had.
        """
        if self._link is not None and self._key is not None and not self._link.is_idle():
            self._kept.discard(self._link)
            self._link = None
            self.connect()
        return super()._require_link()


def said(text: str, pattern: re.Pattern[str], hidden: Callable[[str], str] = str) -> str:
    """Return the line of an answer in which the device refuses; empty when it does not.

    Args:
        text: the answer, without the echo of what was typed.
        pattern: what a refusal looks like.
        hidden: takes secrets out.
    """
    line = next((line.strip() for line in text.splitlines() if pattern.search(line)), "")
    return hidden(line)[:_QUOTED]

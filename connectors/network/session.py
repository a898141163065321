"""What sessions on all network devices have in common: the rotator's command line, and logins that prove."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from connectors.base import Account, Credential, Deadline, Session, Target, Verdict, VerdictState
from connectors.kept import KeptKey, kept_key
from connectors.network.terminal import Terminal
from connectors.ssh.errors import FAILURES, mapped, verdict_of
from pam_jobs.errors import Locked, TargetError, Unsupported

if TYPE_CHECKING:
    from connectors.network.connector import NetworkConnector

__all__ = ["NetworkSession", "said"]

_QUOTED = 160  # characters of a device's sentence that are passed on


class NetworkSession(Session):
    """A session; the rotator's command line stays the one it began with until it closes."""

    def __init__(
        self, connector: NetworkConnector, target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        self._connector = connector
        self._target = target
        self._rotator = rotator
        self._deadline = deadline
        self._terminal: Terminal | None = None
        self._key: KeptKey | None = None

    def connect(self) -> None:
        """Log in as the rotator and make its command line ready, unless there is none.

        Raises:
            NotApplied: with the cause.
        """
        if self._rotator is None:
            return
        if not self._rotator.password and not self._rotator.private_key:
            raise Unsupported("the rotator has neither password nor key", remedy="add one to the admin's record")
        options = map(str, sorted(self._target.options.items()))
        self._key = kept_key(self._target, self._rotator, *self._target.host_keys, *options)
        terminal = self._connector.kept.take(self._key)
        if terminal is None:
            self._deadline.check("the connection was made")
            with mapped(sent=False):
                link = self._connector.login(self._target, self._rotator, self._deadline)
                try:
                    terminal = Terminal(link, self._deadline)
                    self._begin(terminal)
                except BaseException:
                    link.close()
                    raise
        terminal.use(self._deadline)
        self._terminal = terminal

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

    def close(self) -> None:
        """Give the command line back to be kept, or close it; never raises."""
        terminal, self._terminal = self._terminal, None
        if terminal is None:
            return
        self._connector.kept.put_back(self._key, terminal)

    def _begin(self, terminal: Terminal) -> None:
        """Bring a new command line to where it takes commands, without pages.

        Raises:
            NotApplied: the login may not do what has to be done.
            Exception: one of ``FAILURES``.
        """
        raise NotImplementedError

    def _changed(self, account: Account) -> None:
        """Take note that connections of the account logged in with what is now the old credential."""
        self._connector.kept.forget(self._target.host, self._target.port, account.login)
        if self._is_self(account):
            self._key = None

    def _spoil(self) -> None:
        """Never give this command line to anybody else: nobody knows where in a dialogue it stands."""
        self._key = None
        if self._terminal is not None:
            self._terminal.close()

    def _is_self(self, account: Account) -> bool:
        return self._rotator is not None and self._rotator.login == account.login

    def _require_terminal(self) -> Terminal:
        """Return the rotator's command line, a new one where the device has ended it meanwhile (``exec-timeout``).

        Raises:
            NotApplied: there is none to be had.
        """
        ended = self._terminal is not None and self._key is not None and not self._terminal.is_idle()
        if ended and self._terminal is not None:
            self._connector.kept.discard(self._terminal)
            self._terminal = None
            self.connect()
        if self._terminal is None:
            raise Unsupported("this session has no rotator, so it can only probe", remedy="give the resource an admin")
        return self._terminal


def said(text: str, pattern: re.Pattern[str], hidden: Callable[[str], str] = str) -> str:
    """Return the line of an answer in which the device refuses; empty when it does not.

    Args:
        text: the answer, without the echo of what was typed.
        pattern: what a refusal looks like.
        hidden: takes secrets out.
    """
    line = next((line.strip() for line in text.splitlines() if pattern.search(line)), "")
    return hidden(line)[:_QUOTED]

"""What the sessions on directories have in common: the rotator's link, kept between sessions, and the server's own entry."""

from __future__ import annotations

from abc import abstractmethod

from connectors.base import Account, Credential, Deadline, Target
from connectors.kept import KeptConnections, KeptSession
from connectors.ldap.link import Entry, Link
from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["DirectorySession"]


class DirectorySession(KeptSession[Link]):
    """A session on one directory."""

    def __init__(
        self, kept: KeptConnections[Link], target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        super().__init__(kept, target, rotator, deadline)
        self._root: Entry | None = None

    def _log_in(self, rotator: Credential) -> Link:
        if not rotator.password:
            raise Unsupported("the rotator has no password", remedy="add one to the admin's record")
        return self._login_rotator(rotator)

    def _prepare(self, link: Link) -> None:
        link.use(self._deadline)

    @abstractmethod
    def _login_rotator(self, rotator: Credential) -> Link:
        """Return a new connection on which the rotator is logged in.

        Raises:
            NotApplied: with the cause.
        """

    def _after_change(self, account: Account, dn: str, password: SecretValue, *, is_self: bool) -> None:
        """Let nobody else have a connection of the account, by either of its names."""
        for login in {account.login, dn}:
            self._changed(login, password, is_self=is_self)

    def _root_of(self, link: Link) -> Entry:
        if self._root is None:
            self._root = link.root()
        return self._root

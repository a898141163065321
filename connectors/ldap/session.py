"""What the sessions on directories have in common: the rotator's link, kept between sessions, and the server's own entry."""

from __future__ import annotations

from abc import abstractmethod

from connectors.base import Account, Candidate, Credential, Deadline, Session, Target
from connectors.kept import KeptConnections, KeptKey, kept_key
from connectors.ldap.link import Entry, Link
from pam_jobs.errors import PolicyRefused, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["DirectorySession", "password_of"]


class DirectorySession(Session):
    """A session on one directory."""

    def __init__(
        self, kept: KeptConnections[Link], target: Target, rotator: Credential | None, deadline: Deadline
    ) -> None:
        self._kept = kept
        self._target = target
        self._rotator = rotator
        self._deadline = deadline
        self._link: Link | None = None
        self._key: KeptKey | None = None
        self._own = rotator.password if rotator else None  # what the rotator logs in with now
        self._root: Entry | None = None

    def connect(self) -> None:
        """Log in as the rotator, unless there is none.

        Raises:
            NotApplied: with the cause.
        """
        if self._rotator is None:
            return
        if not self._rotator.password:
            raise Unsupported("the rotator has no password", remedy="add one to the admin's record")
        options = map(str, sorted(self._target.options.items()))
        name = self._rotator.distinguished_name or ""
        self._key = kept_key(
            self._target, self._rotator, self._target.protocol, str(self._target.use_ssl), name, *options
        )
        self._link = self._kept.take(self._key)
        if self._link is not None:
            self._link.use(self._deadline)
            return
        self._deadline.check("the connection was made")
        self._link = self._login_rotator(self._rotator)

    def close(self) -> None:
        """Give the connection back to be kept, or close it; never raises."""
        link, self._link = self._link, None
        self._own = None
        if link is None:
            return
        self._kept.put_back(self._key, link)

    @abstractmethod
    def _login_rotator(self, rotator: Credential) -> Link:
        """Return a new connection on which the rotator is logged in.

        Raises:
            NotApplied: with the cause.
        """

    def _after_change(self, account: Account, dn: str, password: SecretValue, *, is_self: bool) -> None:
        """Forget the connections that are logged in with what is now an old password."""
        for login in {account.login, dn}:
            self._kept.forget(self._target.host, self._target.port, login)
        if is_self:
            self._own = password
            self._key = None  # logged in with what is now the old password: not for anybody else

    def _root_of(self, link: Link) -> Entry:
        if self._root is None:
            self._root = link.root()
        return self._root

    def _require_link(self) -> Link:
        if self._link is None:
            raise Unsupported("this session has no rotator, so it can only probe", remedy="give the resource an admin")
        return self._link


def password_of(candidate: Candidate) -> SecretValue:
    """Return the password to set.

    Raises:
        Unsupported: the candidate is a key alone.
        PolicyRefused: no directory takes it.
    """
    if candidate.password is None:
        raise Unsupported("a directory's account has a password, no key", remedy="give the user record a password")
    if not candidate.password or "\0" in candidate.password.reveal():
        raise PolicyRefused("a password here is not empty and has no NUL", remedy="change the record's complexity")
    return candidate.password

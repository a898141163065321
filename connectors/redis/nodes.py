"""The servers that belong together: users are not replicated, so a password is set on each of them.

First every server learns the new password beside the old one, then every server forgets the old one. So whatever fails
halfway, one of the two logs in everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from connectors.base import Target
from connectors.redis.errors import FAILURES, ServerRefusal, map_error
from connectors.redis.link import Link
from connectors.redis.users import Keeping, Server, User, keep
from connectors.redis.wire import text_of
from pam_jobs.errors import AmbiguousReply, NotApplied, TargetError, Unsupported

__all__ = ["Node", "named", "places_of", "set_everywhere", "told_by"]

_THIS = "this"


@dataclass(frozen=True, kw_only=True)
class Node:
    """One server, with the rotator logged in there."""

    place: str  # host:port
    link: Link
    server: Server
    writes: bool = True  # the record wants the server to write its users down

    def set(self, login: str, *rules: str) -> None:
        """Change a user.

        Raises:
            ServerRefusal: nothing was changed.
            Garbled, OSError: no answer.
        """
        self.link.ask("ACL", "SETUSER", login, *rules)

    def keep(self) -> None:
        """Let the server write its users down.

        Raises:
            ServerRefusal: it could not.
            Garbled, OSError: no answer.
        """
        if self.writes:
            keep(self.link, self.server)

    def restore(self, login: str, user: User) -> None:
        """Give a user the passwords that it had.

        Raises:
            ServerRefusal: nothing was changed.
            Garbled, OSError: no answer.
        """
        before = ["nopass"] if user.takes_any_password else [f"#{each}" for each in user.digests]
        self.set(login, "resetpass", *before)


def places_of(target: Target) -> list[tuple[str, int]] | None:
    """Return the other servers that the record names; None when it leaves that to the servers.

    Raises:
        Unsupported: the field cannot be read.
    """
    text = target.options.get("nodes", "").strip()
    if not text:
        return None
    if text.casefold() == _THIS:
        return []
    found = []
    for word in text.replace(",", " ").split():
        host, _, port = word.rpartition(":")
        if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise Unsupported(f"{word!r} is no server", remedy="write the custom field Nodes as HOST:PORT, HOST:PORT")
        found.append((host.strip("[]"), int(port)))
    return [place for place in found if place != (target.host, target.port)]


def told_by(link: Link, server: Server) -> list[tuple[str, int]]:
    """Return the other servers that a primary or a node of a cluster tells of.

    Raises:
        ServerRefusal, Garbled, OSError: it does not tell.
    """
    if server.mode != "cluster":
        return [(host, port) for host, port in server.replicas if host and port]
    found = []
    for line in text_of(link.ask("CLUSTER", "NODES")).splitlines():
        words = line.split()
        if len(words) > 2 and not {"myself", "noaddr"} & set(words[2].split(",")):
            host, _, port = words[1].partition("@")[0].rpartition(":")
            found.append((host, int(port)))
    return found


@contextlib.contextmanager
def named(place: str, *, sent: bool) -> Iterator[None]:
    """Raise our error for the link's, with the name of the server."""
    try:
        yield
    except (*FAILURES, TargetError) as error:
        ours = map_error(error, sent=sent)
        raise type(ours)(f"{place}: {ours.message}", remedy=ours.remedy) from None


def set_everywhere(nodes: Sequence[tuple[Node, User]], login: str, new: str, fence: Callable[[], None]) -> None:
    """Make the password whose SHA-256 is given the only one of the user, on every server.

    Raises:
        NotApplied: every server has the user as it was.
        EffectUnknown: one is silent, or could not be set back. The new password, or the old one, logs in everywhere.
    """
    fence()
    if len(nodes) == 1:
        node, before = nodes[0]
        with named(node.place, sent=True):
            node.set(login, "resetpass", f"#{new}")
        _kept(node, before, login)
        return
    done: list[tuple[Node, User]] = []
    for node, before in nodes:
        try:
            with named(node.place, sent=True):
                node.set(login, f"#{new}")
            _kept(node, before, login)
        except NotApplied:
            for other, user in done:
                _set_back(other, user, login)
            raise
        done.append((node, before))
    for node, _ in nodes:
        try:
            node.set(login, "resetpass", f"#{new}")
            node.keep()
        except FAILURES as error:
            raise AmbiguousReply(
                f"the new password is set on every server; {node.place} may still take the old one: {_reason(error)}",
                remedy="rotate again",
            ) from None


def _kept(node: Node, before: User, login: str) -> None:
    """Write the users down; a server that cannot would take the old password after a restart, so it is set back.

    Raises:
        NotApplied: it could not, and the user is as it was.
        EffectUnknown: no answer, or the user could not be set back.
    """
    try:
        node.keep()
    except ServerRefusal as refusal:
        _set_back(node, before, login)
        how = "its directory and its file" if node.server.keeping is Keeping.ACL_FILE else "its configuration file"
        raise NotApplied(
            f"{node.place} cannot write its users down ({refusal}), so a restart would bring the old password back",
            remedy=f"let the server write {how}",
        ) from None
    except FAILURES as error:
        raise map_error(error, sent=True) from None


def _set_back(node: Node, user: User, login: str) -> None:
    try:
        node.restore(login, user)
        with contextlib.suppress(ServerRefusal):  # what it has written is the old state, or both passwords
            node.keep()
    except FAILURES as error:
        raise AmbiguousReply(
            f"{node.place} could not be set back: {_reason(error)}", remedy="look at the server, then rotate again"
        ) from None


def _reason(error: Exception) -> str:
    return map_error(error, sent=False).message

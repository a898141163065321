"""One connection to an LDAP server: TLS first, and every wait ends at a deadline.

ldap3 encodes and decodes; the socket is ours, since ldap3 bounds single reads at best, and begins TLS without any limit.
"""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import ldap3
from ldap3.core.exceptions import LDAPException
from ldap3.protocol.rfc3062 import PasswdModifyRequestValue
from pyasn1.error import PyAsn1Error

from connectors.base import Deadline, Target
from connectors.ldap.errors import (
    Garbled,
    LdapRefusal,
    PolicyAnswer,
    PolicyError,
    read_policy_answer,
)
from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["CONNECT_SECONDS", "Entry", "Link", "is_clear_text", "server_context"]

CONNECT_SECONDS: Final = 10.0
_START_TLS: Final = "1.3.6.1.4.1.1466.20037"
_MODIFY_PASSWORD: Final = "1.3.6.1.4.1.4203.1.11.1"  # noqa: S105 - an object identifier
_POLICY: Final = "1.3.6.1.4.1.42.2.27.8.5.1"
_PAGES: Final = "1.2.840.113556.1.4.319"
_ASKS_POLICY: Final = [(_POLICY, False, None)]
_PAGE: Final = 500
_SEQUENCE: Final = 0x30  # what every LDAP message begins with
_TEXT_LIMIT: Final = 300  # characters of a server's sentence that are passed on
_SCOPES: Final = {"base": ldap3.BASE, "subtree": ldap3.SUBTREE}
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, PyAsn1Error)  # what ldap3 raises on such answers


@dataclass(frozen=True)
class Entry:
    """One entry of the directory with the attributes that were asked for; their names are in lower case."""

    dn: str
    values: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)

    def all(self, name: str) -> list[str]:
        """Return the values of an attribute as texts."""
        return [value.decode(errors="replace") for value in self.values.get(name.lower(), ())]

    def first(self, name: str) -> str | None:
        """Return the first value of an attribute."""
        return next(iter(self.all(name)), None)

    def is_true(self, name: str) -> bool:
        """Say whether a boolean attribute is there and true."""
        return (self.first(name) or "").upper() == "TRUE"


class _BoundedSocket:
    """A socket whose every wait ends at the deadline; remembers why it failed, which ldap3 does not tell."""

    def __init__(self, raw: socket.socket, deadline: Deadline) -> None:
        self.raw = raw
        self.deadline = deadline
        self.failure: OSError | None = None
        self._is_ldap = False

    def recv(self, size: int) -> bytes:
        """Return what came, nothing at the end of the stream."""
        data: bytes = self._bounded(lambda: self.raw.recv(size))
        if data and not self._is_ldap and data[0] != _SEQUENCE:  # else ldap3 takes its bytes for a length, and waits
            self.failure = OSError("what listens there does not speak LDAP")
            raise self.failure
        self._is_ldap = True
        return data

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._bounded(lambda: self.raw.sendall(data))

    def shutdown(self, how: int) -> None:
        """End one or both directions."""
        self.raw.shutdown(how)

    def close(self) -> None:
        """Close the socket."""
        self.raw.close()

    def _bounded(self, act: Callable[[], Any]) -> Any:
        try:
            if self.deadline.is_over:
                raise TimeoutError("the server did not answer in time")
            self.raw.settimeout(self.deadline.remaining())
            return act()
        except OSError as error:
            self.failure = error
            raise


def is_clear_text(target: Target) -> bool:
    """Say whether the record wants passwords to travel without TLS.

    Raises:
        Unsupported: the record contradicts itself, or the option has no known value.
    """
    wish = target.options.get("ldap_security", "").strip().casefold()
    if wish not in {"", "tls", "none"}:
        raise Unsupported(f"{wish!r} is no LDAP Security", remedy="use tls, or none for a server without TLS")
    if wish == "none" and (target.protocol == "ldaps" or target.use_ssl):
        remedy = "remove the custom field LDAP Security, or map the port to ldap and clear useSSL"
        raise Unsupported("the record wants TLS and forbids it", remedy=remedy)
    return wish == "none"


def server_context(target: Target) -> ssl.SSLContext:
    """Return how the server's certificate is checked: against the system's CAs or ``ssl_ca``, with its host name.

    Raises:
        Unsupported: the CA's file cannot be read, or the option has no known value.
    """
    wish = target.options.get("tls_verify", "full").strip().casefold()
    if wish not in {"full", "ca", "none"}:
        raise Unsupported(f"{wish!r} is no tls_verify", remedy="use full, ca (any host name) or none")
    try:
        context = ssl.create_default_context(cafile=target.options.get("ssl_ca") or None)
    except (OSError, ssl.SSLError) as error:
        raise Unsupported("the file of the CA cannot be read", remedy="correct the custom field ssl_ca") from error
    context.check_hostname = wish == "full"
    if wish == "none":
        context.verify_mode = ssl.CERT_NONE
    return context


class Link:
    """A connection; belongs to one thread at a time."""

    def __init__(self, raw: socket.socket, deadline: Deadline) -> None:
        self._socket = _BoundedSocket(raw, deadline)
        server = ldap3.Server("ldap", get_info=ldap3.NONE)  # never opened by ldap3 itself
        self._ldap = ldap3.Connection(
            server, check_names=False, auto_referrals=False, auto_range=False, receive_timeout=None
        )
        self._ldap.socket = self._socket
        self._ldap.closed = False
        self._ldap.listening = True
        self._ldap.strategy._outstanding = {}  # noqa: SLF001 - what its own open() does beside opening
        self.host = ""  # as it was connected to
        self.transport = "clear text"
        self.bound_dn = ""
        self.policy = PolicyAnswer()  # of the last login

    @classmethod
    def connect(cls, target: Target, deadline: Deadline, *, name: str | None = None) -> Link:
        """Connect, with TLS unless the record forbids it; nobody is logged in.

        Args:
            target: where.
            deadline: ends the attempt, which has its own limit of 10 seconds as well.
            name: what the certificate is for; the target's host when absent.

        Raises:
            Unsupported: the options are wrong.
            Exception: one of ``FAILURES``.
        """
        clear = is_clear_text(target)
        context = None if clear else server_context(target)
        deadline = Deadline(deadline.remaining(CONNECT_SECONDS))
        link = cls(socket.create_connection((target.host, target.port), timeout=deadline.remaining()), deadline)
        link.host = target.host
        try:
            if context is not None:
                if target.protocol != "ldaps":
                    link.ask(lambda ldap: ldap.extended(_START_TLS))
                link.secure(context, name or target.host)
        except BaseException:
            link.close()
            raise
        return link

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Go on with TLS.

        Raises:
            OSError: the handshake failed, or did not end in time.
        """
        self._socket.raw.settimeout(self._socket.deadline.remaining())
        wrapped = context.wrap_socket(self._socket.raw, server_hostname=host)
        self._socket.raw = wrapped
        self.transport = wrapped.version() or "TLS"

    def use(self, deadline: Deadline) -> None:
        """Bound what follows by another deadline."""
        self._socket.deadline = deadline

    def log_in(self, dn: str, password: SecretValue) -> None:
        """Bind; an empty password would make an anonymous session of it, and is refused.

        Raises:
            Unsupported: there is no name or no password.
            Exception: one of ``FAILURES``.
        """
        if not dn or not password:
            raise Unsupported("a login needs a name and a password", remedy="complete the record")
        self._ldap.user, self._ldap.authentication = dn, ldap3.SIMPLE
        self._ldap.password = password.reveal().encode()  # bytes go as they are; a text would be normalised
        try:
            result = self.ask(lambda ldap: ldap.bind(read_server_info=False, controls=_ASKS_POLICY), is_login=True)
        finally:
            self._ldap.password = self._ldap.request = None
        self.bound_dn = dn
        self.policy = _policy_of(result)

    @property
    def must_change(self) -> bool:
        """Say whether the server lets this login do nothing but change its own password."""
        return self.policy.error is PolicyError.CHANGE_AFTER_RESET

    def search(self, base: str, filter_text: str, attributes: list[str], scope: str = "subtree") -> list[Entry]:
        """Return the entries that match; references to other servers are not followed.

        Raises:
            LdapRefusal: among others noSuchObject where there is no such base, sizeLimitExceeded.
        """
        self.ask(
            lambda ldap: ldap.search(base, filter_text, _SCOPES[scope], attributes=attributes, controls=_ASKS_POLICY)
        )
        return [_entry(each) for each in self._ldap.response or [] if each["type"] == "searchResEntry"]

    def pages(self, base: str, filter_text: str, attributes: list[str]) -> Iterator[Entry | str]:
        """Yield all entries that match, page by page, and the address of each other server that was referred to.

        Raises:
            LdapRefusal: the server ended the search; what was yielded before is right.
        """
        cookie: bytes | str | None = None
        while True:
            search = functools.partial(
                self._ldap.search, base, filter_text, ldap3.SUBTREE, attributes=attributes, paged_size=_PAGE,
                paged_cookie=cookie,
            )  # fmt: skip
            result = self.ask(lambda _, search=search: search(), raising=False)  # type: ignore[misc]
            for each in self._ldap.response or []:
                if each["type"] == "searchResEntry":
                    yield _entry(each)
                elif each["type"] == "searchResRef":
                    yield from each["uri"]
            if result["result"] != 0:
                raise _refusal(result)
            cookie = ((result.get("controls") or {}).get(_PAGES) or {}).get("value", {}).get("cookie")
            if not cookie:
                return

    def root(self) -> Entry:
        """Return what the server tells of itself."""
        wanted = ["*", "namingContexts", "supportedExtension", "supportedCapabilities", "vendorName", "vendorVersion"]
        return next(iter(self.search("", "(objectClass=*)", wanted, "base")), Entry(""))

    def modify_password(self, dn: str, old: SecretValue | None, new: SecretValue) -> None:
        """Let the server set a password (RFC 3062), and hash it as it likes.

        Raises:
            Exception: one of ``FAILURES``.
        """
        value = PasswdModifyRequestValue()
        value["userIdentity"] = dn.encode()
        if old is not None:
            value["oldPasswd"] = old.reveal().encode()
        value["newPasswd"] = new.reveal().encode()
        self.ask(lambda ldap: ldap.extended(_MODIFY_PASSWORD, value, controls=_ASKS_POLICY))

    def replace(self, dn: str, values: Mapping[str, bytes]) -> None:
        """Set each attribute to one value, all of them or none.

        Raises:
            Exception: one of ``FAILURES``.
        """
        changes = {attribute: [(ldap3.MODIFY_REPLACE, [value])] for attribute, value in values.items()}
        self.ask(lambda ldap: ldap.modify(dn, changes, controls=_ASKS_POLICY))

    def exchange(self, dn: str, attribute: str, old: bytes, new: bytes) -> None:
        """Put one value of an attribute in the place of another, which the server compares with what it has.

        Raises:
            Exception: one of ``FAILURES``.
        """
        changes = {attribute: [(ldap3.MODIFY_DELETE, [old]), (ldap3.MODIFY_ADD, [new])]}
        self.ask(lambda ldap: ldap.modify(dn, changes, controls=_ASKS_POLICY))

    def clear(self, dn: str, attribute: str) -> None:
        """Take an attribute away with all its values; harmless where it is not there.

        Raises:
            Exception: one of ``FAILURES``.
        """
        self.ask(lambda ldap: ldap.modify(dn, {attribute: [(ldap3.MODIFY_REPLACE, [])]}, controls=_ASKS_POLICY))

    def delete_value(self, dn: str, attribute: str, value: bytes) -> None:
        """Take one value of an attribute away.

        Raises:
            LdapRefusal: noSuchAttribute where it is not there, insufficientAccessRights where that is not allowed.
        """
        self.ask(lambda ldap: ldap.modify(dn, {attribute: [(ldap3.MODIFY_DELETE, [value])]}, controls=_ASKS_POLICY))

    def is_idle(self) -> bool:
        """Say whether the link lives, and the server sent nothing unasked, such as that it ends."""
        if self._ldap.closed or self._socket.failure is not None:
            return False
        poller = select.poll()
        try:
            poller.register(self._socket.raw, select.POLLIN)
            return not poller.poll(0)
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """End the connection; never raises."""
        with contextlib.suppress(Exception):
            self._socket.close()
        self._ldap.closed = True

    def ask(
        self, act: Callable[[ldap3.Connection], Any], *, is_login: bool = False, raising: bool = True
    ) -> dict[str, Any]:
        """Make one request and return the server's result; whatever breaks it closes the link.

        Raises:
            LdapRefusal: the result is no success; not with ``raising=False``.
            Garbled: the answer cannot be read.
            Exception: another one of ``FAILURES``.
        """
        try:
            self._ldap.result = None
            act(self._ldap)
            result = self._ldap.result
        except LDAPException as error:
            self.close()
            raise (self._socket.failure or error) from None
        except UnicodeError:
            raise
        except _UNREADABLE as error:
            self.close()
            raise Garbled(type(error).__name__) from None
        except BaseException:
            self.close()
            raise
        if not isinstance(result, dict):
            self.close()
            raise Garbled("no result")
        if raising and result["result"] != 0:
            raise _refusal(result, is_login=is_login)
        return result


def _entry(response: Mapping[str, Any]) -> Entry:
    values = {str(name).lower(): tuple(found) for name, found in response["raw_attributes"].items()}
    return Entry(str(response["dn"]), values)


def _refusal(result: Mapping[str, Any], *, is_login: bool = False) -> LdapRefusal:
    return LdapRefusal(
        code=int(result["result"]), name=str(result.get("description") or ""),
        text=str(result.get("message") or "").strip()[:_TEXT_LIMIT], policy=_policy_of(result), is_login=is_login,
    )  # fmt: skip


def _policy_of(result: Mapping[str, Any]) -> PolicyAnswer:
    control = (result.get("controls") or {}).get(_POLICY) or {}
    return read_policy_answer(control.get("value") or b"")

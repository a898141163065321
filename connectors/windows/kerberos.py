"""Kerberos for WinRM: when it is used, for whom and which service, and the login over HTTP.

Source: RFC 4559 (Negotiate), RFC 5929 (the certificate that binds the login to its channel), MS-WSMV 2.2.9.1 (sealed messages).
"""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass
from typing import Any, Final

import requests
import requests.auth
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from connectors.base import Deadline, Target
from connectors.kerberos.context import Context, Sealed
from connectors.kerberos.errors import KdcCode, KdcRefusedError, KerberosError, NotTrustedError, TicketRefusedError
from connectors.kerberos.tickets import Principal, Realm, Ticket, get_ticket
from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["KerberosAuth", "KerberosWay", "is_final", "kerberos_demand"]

_YES, _NO = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})
_SECONDS: Final = 10.0
_SHORT_SECONDS: Final = 3.0  # for a controller, where NTLM will do as well
_OF_CREDENTIAL: Final = frozenset({KdcCode.PREAUTH_FAILED, KdcCode.REVOKED, KdcCode.KEY_EXPIRED})


def is_final(error: KerberosError) -> bool:
    """Say whether a failure speaks of the credential or of somebody false, so that NTLM is not tried after it."""
    if isinstance(error, KdcRefusedError):
        return error.code in _OF_CREDENTIAL
    return isinstance(error, TicketRefusedError | NotTrustedError)


@dataclass(frozen=True, kw_only=True)
class KerberosWay:
    """How one login is made by Kerberos."""

    realm: Realm
    principal: Principal
    service: tuple[str, str]
    scheme: str  # Negotiate, or Kerberos where the machine offers that alone
    is_demanded: bool  # by the record: nothing else will do

    @classmethod
    def of(cls, target: Target, login: str, offered: frozenset[str]) -> KerberosWay | None:
        r"""Return it; None where Kerberos is not for this login.

        It is for an account of a domain on a machine with a name in the DNS, unless a record says otherwise.

        Args:
            target: with the records' options.
            login: ``login@domain``, or ``DOMAIN\login`` where the realm is named.
            offered: what the machine offers, in lower case.

        Raises:
            Unsupported: the record demands it, and it cannot be.
        """
        told = kerberos_demand(target)
        if told is False:
            return None
        try:
            return cls._made(target, login, offered, is_demanded=told is True)
        except Unsupported:
            if told:
                raise
            return None

    @classmethod
    def _made(cls, target: Target, login: str, offered: frozenset[str], *, is_demanded: bool) -> KerberosWay:
        """Return it.

        Raises:
            Unsupported: login, machine or offer are not for Kerberos.
        """
        host = target.options.get("kerberos_host", "").strip() or target.host
        if "." not in host or _is_address(host):
            raise Unsupported(
                "Kerberos needs the machine's name in the DNS",
                remedy="name it in the resource's host, or in the custom field 'Kerberos Host'",
            )
        if not offered & {"negotiate", "kerberos"}:
            raise Unsupported("the machine offers no Kerberos for WinRM", remedy="let it offer Negotiate")
        named = target.options.get("kerberos_realm", "").strip().upper()
        domain, slash, name = login.rpartition("\\")
        suffix = "" if slash else login.rpartition("@")[0] and login.rpartition("@")[2]
        is_local = domain.casefold() in {".", "", host.partition(".")[0].casefold()}
        if not suffix and (is_local or not named):
            raise Unsupported(
                "Kerberos is for accounts of a domain",
                remedy="write the login as login@domain, or DOMAIN\\login with the custom field 'Kerberos Realm'",
            )
        controllers = target.options.get("kerberos_kdc", "").replace(",", " ").replace(";", " ").split()
        return cls(
            realm=Realm(
                name=named or suffix.upper(), controllers=tuple(controllers),
                connect_seconds=_SECONDS if is_demanded else _SHORT_SECONDS,
            ),
            principal=Principal(name=login if suffix else name, is_enterprise=bool(suffix)),
            service=("HTTP", host.casefold()), scheme="Negotiate" if "negotiate" in offered else "Kerberos",
            is_demanded=is_demanded,
        )  # fmt: skip

    def ticket(self, password: SecretValue, deadline: Deadline) -> Ticket:
        """Return a ticket for the machine's service.

        Raises:
            KerberosError: there is none.
            Unsupported: login or password cannot be sent as text.
        """
        try:
            f"{self.principal.name}{self.realm.name}{self.service[1]}{password.reveal()}".encode()
        except UnicodeEncodeError:
            raise Unsupported(
                "login and password are made of whole characters for Kerberos", remedy="check the admin's record"
            ) from None
        return get_ticket(self.realm, self.principal, password, self.service, deadline)


class KerberosAuth(requests.auth.AuthBase):
    """Logs in each connection by Kerberos, and demands that the machine proves itself."""

    def __init__(self, ticket: Ticket, scheme: str, *, is_sealed: bool) -> None:
        """Use a ticket.

        Args:
            ticket: for the service.
            scheme: of the header.
            is_sealed: messages belong to one login, so that a connection that ended takes the session with it.
        """
        self._ticket = ticket
        self._scheme = scheme
        self._is_sealed = is_sealed
        self._context: Context | None = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Watch for the machine asking who we are."""
        request.register_hook("response", self._answer)  # type: ignore[no-untyped-call]
        return request

    def wrap_winrm(self, _host: str, message: bytes) -> tuple[bytes, bytes]:
        """Return sealed text and signature, as pywinrm asks for them."""
        sealed = self._established().seal(message)
        return sealed.text, sealed.signature

    def unwrap_winrm(self, _host: str, message: bytes, signature: bytes) -> bytes:
        """Return the text of a message that the machine sealed.

        Raises:
            NotTrustedError: it did not.
        """
        return self._established().unseal(Sealed(signature=signature, text=message))

    def _established(self) -> Context:
        if self._context is None or not self._context.is_established:
            raise NotTrustedError("nobody is logged in")
        return self._context

    def _answer(self, response: requests.Response, **options: Any) -> requests.Response:
        """Log in when the machine asks for it, on the connection on which it did.

        Raises:
            TicketRefusedError: it does not take the ticket.
            NotTrustedError: it did not prove itself.
            requests.ConnectionError: the connection that was logged in is gone, and its sealed messages with it.
        """
        if response.status_code != requests.codes.unauthorized:
            return response
        if self._is_sealed and self._context is not None:
            raise requests.ConnectionError("the connection on which somebody was logged in has ended")
        self._context = context = Context(self._ticket, _bindings(response))
        _ = response.content  # read to its end, so that the connection can go on
        response.raw.release_conn()
        again = response.request.copy()
        again.headers["Authorization"] = f"{self._scheme} {base64.b64encode(context.token()).decode()}"
        answer: requests.Response = response.connection.send(again, **options)
        answer.history.append(response)
        answer.request = again
        token = self._token(answer)
        if answer.status_code == requests.codes.unauthorized and not token:
            raise TicketRefusedError
        context.establish(token)
        if answer.status_code == requests.codes.unauthorized:
            raise TicketRefusedError
        return answer

    def _token(self, response: requests.Response) -> bytes:
        for told in response.raw.headers.getlist("WWW-Authenticate"):
            scheme, _, text = told.partition(" ")
            if scheme.casefold() == self._scheme.casefold() and text:
                try:
                    return base64.b64decode(text, validate=True)
                except ValueError:
                    return b""
        return b""


def kerberos_demand(target: Target) -> bool | None:
    """Return whether a record demands Kerberos, or forbids it; None: neither."""
    field = (target.options.get("Kerberos") or "").strip().casefold()
    named = (target.options.get("winrm_authentication") or "").strip().casefold()
    if field in _YES or (named == "kerberos" and field not in _NO):
        return True
    return False if field in _NO or named else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _bindings(response: requests.Response) -> bytes | None:
    """Return what binds a login to the channel's certificate; None over plain HTTP.

    Raises:
        NotTrustedError: the certificate cannot be had.
    """
    if not str(response.url).startswith("https:"):
        return None
    try:
        connection: Any = response.raw.connection
        told = connection.sock.getpeercert(binary_form=True)
        kind = x509.load_der_x509_certificate(told).signature_hash_algorithm
    except (AttributeError, TypeError, ValueError) as error:
        raise NotTrustedError("the certificate of the connection cannot be had") from error
    weak = kind is None or kind.name in {"md5", "sha1"}
    digest = hashes.Hash(hashes.SHA256() if weak or kind is None else kind)
    digest.update(told)
    return b"tls-server-end-point:" + digest.finalize()

"""Tickets from a domain controller, over TCP. They live in memory, for one login; nothing is read from krb5.conf or a cache.

Source: RFC 4120 (AS and TGS exchanges), RFC 6806 (names as user@domain), MS-KILE.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from connectors.base import Deadline
from connectors.kerberos import messages
from connectors.kerberos.cipher import (
    CHECKSUMS,
    ENCTYPES,
    IntegrityError,
    Key,
    checksum,
    decrypt,
    encrypt,
    string_to_key,
)
from connectors.kerberos.errors import KdcAwayError, KdcCode, KdcRefusedError, NotTrustedError
from connectors.kerberos.messages import MalformedError
from pam_jobs.secret import SecretValue

__all__ = ["Principal", "Realm", "Ticket", "get_ticket", "now", "sealed"]

_PORT: Final = 88
_MOST: Final = 1 << 20  # octets of an answer: a ticket of somebody in a thousand groups has some ten thousand
_UNTIL: Final = "20370913024805Z"  # as long as the controller gives it
_CANONICALIZE: Final = f"{1 << 16:032b}"
_NOTHING: Final = "0" * 32
_ENC_TIMESTAMP, _TGS_REQ, _ETYPE_INFO2 = 2, 1, 19  # kinds of padata
_FOR_TIMESTAMP, _FOR_AS_REP, _FOR_TGS_CHECKSUM, _FOR_TGS_AUTHENTICATOR, _FOR_TGS_REP = 1, 3, 6, 7, 8  # uses of a key
_NAMES: Final = {"principal": 1, "service": 2, "enterprise": 10}


@dataclass(frozen=True, kw_only=True)
class Realm:
    """A domain as Kerberos knows it."""

    name: str  # in capitals
    controllers: tuple[str, ...] = ()  # host, host:port, [address]:port; empty: what the domain's name means in the DNS
    connect_seconds: float = 10.0

    def places(self) -> list[tuple[str, int]]:
        """Return hosts and ports.

        Raises:
            KdcAwayError: one of them is no host with a port.
        """
        return [_place(text) for text in self.controllers] or [(self.name.casefold(), _PORT)]


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who logs in."""

    name: str
    is_enterprise: bool = False  # written as user@domain


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A ticket with the key that only we, the controller and the service know."""

    fields: Mapping[str, Any] = field(repr=False)
    key: Key
    crealm: bytes
    cname: Mapping[str, Any]


def now() -> tuple[str, int]:
    """Return the time in seconds as ASN.1 writes it, and the microseconds beyond."""
    moment = datetime.now(UTC)
    return moment.strftime("%Y%m%d%H%M%SZ"), moment.microsecond


def sealed(key: Key, usage: int, text: bytes) -> dict[str, Any]:
    """Return an encrypted part of a message."""
    return {"enctype": key.enctype, "cipher": encrypt(key, usage, text)}


def get_ticket(
    realm: Realm, principal: Principal, password: SecretValue, service: tuple[str, ...], deadline: Deadline
) -> Ticket:
    """Return a ticket for a service. The password itself is never sent.

    Args:
        realm: where.
        principal: who.
        password: of that account.
        service: parts of its name, such as HTTP and the host's name.
        deadline: bounds every wait.

    Raises:
        KdcRefusedError: a controller said no.
        KdcAwayError: none answered.
        NotTrustedError: the answer is not of a controller that knows the password.
    """
    controller = _Controller(realm, deadline)
    try:
        own = _first_ticket(controller, realm, principal, password)
        return _next_ticket(controller, realm, own, service)
    except (MalformedError, IntegrityError, KeyError, TypeError) as error:
        raise NotTrustedError("the controller's answer is not right") from error


def _first_ticket(controller: _Controller, realm: Realm, principal: Principal, password: SecretValue) -> Ticket:
    kind = _NAMES["enterprise" if principal.is_enterprise else "principal"]
    service = ("krbtgt", realm.name)
    body: dict[str, Any] = {
        "options": _CANONICALIZE, "cname": {"type": kind, "parts": [principal.name]}, "realm": realm.name,
        "sname": {"type": _NAMES["service"], "parts": list(service)}, "till": _UNTIL, "nonce": _nonce(),
        "enctypes": list(ENCTYPES),
    }  # fmt: skip
    request: dict[str, Any] = {"version": 5, "kind": 10, "body": body}
    reply, error = controller.ask(messages.AS_REQ, request, messages.AS_REP)
    if reply is None and error["code"] != KdcCode.PREAUTH_REQUIRED:
        raise KdcRefusedError(error["code"])
    # An account that need not prove that it knows its password does so all the same: else nobody would say that it is wrong.
    told = messages.load(messages.METHOD_DATA, error["data"]) if reply is None else reply["padata"]
    key = _key_of(told, password)
    seconds, microseconds = now()
    stamp = messages.dump(messages.ENC_TIMESTAMP, {"time": seconds, "microseconds": microseconds})
    proof = messages.dump(messages.SEALED, sealed(key, _FOR_TIMESTAMP, stamp))
    body["nonce"] = _nonce()
    request["padata"] = [{"type": _ENC_TIMESTAMP, "value": proof}]
    reply, error = controller.ask(messages.AS_REQ, request, messages.AS_REP)
    if reply is None:
        raise KdcRefusedError(error["code"])
    return _opened(reply, key, _FOR_AS_REP, body["nonce"], (realm.name, *service))


def _next_ticket(controller: _Controller, realm: Realm, own: Ticket, service: tuple[str, ...]) -> Ticket:
    body: dict[str, Any] = {
        "options": _NOTHING, "realm": realm.name, "sname": {"type": _NAMES["service"], "parts": list(service)},
        "till": _UNTIL, "nonce": _nonce(), "enctypes": list(ENCTYPES),
    }  # fmt: skip
    digest = checksum(own.key, _FOR_TGS_CHECKSUM, messages.dump(messages.REQUEST_BODY, body))
    seconds, microseconds = now()
    authenticator = {
        "version": 5, "crealm": own.crealm, "cname": own.cname, "time": seconds, "microseconds": microseconds,
        "checksum": {"type": CHECKSUMS[own.key.enctype], "octets": digest},
    }  # fmt: skip
    told = messages.dump(messages.AUTHENTICATOR, authenticator)
    shown = {
        "version": 5, "kind": 14, "options": _NOTHING, "ticket": own.fields,
        "sealed": sealed(own.key, _FOR_TGS_AUTHENTICATOR, told),
    }  # fmt: skip
    padata = [{"type": _TGS_REQ, "value": messages.dump(messages.AP_REQ, shown)}]
    request = {"version": 5, "kind": 12, "padata": padata, "body": body}
    reply, error = controller.ask(messages.TGS_REQ, request, messages.TGS_REP)
    if reply is None:
        raise KdcRefusedError(error["code"])
    return _opened(reply, own.key, _FOR_TGS_REP, body["nonce"], (realm.name, *service))


def _opened(reply: Any, key: Key, usage: int, nonce: int, service: tuple[str, ...]) -> Ticket:
    """Return the ticket of a reply once it is sure that it answers our request, and was sealed with our key.

    Raises:
        NotTrustedError: it does not, or was not.
    """
    if reply["sealed"]["enctype"] != key.enctype:
        raise NotTrustedError("the answer is encrypted in another way than was asked for")
    text = decrypt(key, usage, reply["sealed"]["cipher"])
    # Some controllers number the one as the other.
    part = messages.load(messages.ENC_AS_REP_PART if text[:1] == b"\x79" else messages.ENC_TGS_REP_PART, text)
    realm = service[0].encode()
    told = (part["nonce"], part["srealm"].upper(), part["sname"]["parts"], reply["crealm"].upper())
    if told != (nonce, realm, [each.encode() for each in service[1:]], realm):
        raise NotTrustedError("the answer is to another question")
    new = Key(enctype=part["key"]["enctype"], octets=part["key"]["octets"])
    return Ticket(fields=reply["ticket"], key=new, crealm=reply["crealm"], cname=reply["cname"])


def _key_of(padata: Any, password: SecretValue) -> Key:
    """Return the password's key, of the best kind that the controller has for the account.

    Raises:
        KdcRefusedError: it has none of AES.
    """
    told = next((each["value"] for each in padata if each["type"] == _ETYPE_INFO2), None)
    kinds = messages.load(messages.ETYPE_INFO2, told) if told is not None else []
    for enctype in ENCTYPES:
        for each in kinds:
            if each["enctype"] == enctype:
                return string_to_key(password, each.get("salt") or b"", each.get("parameters") or b"", enctype)
    raise KdcRefusedError(KdcCode.NO_COMMON_ENCRYPTION)


def _nonce() -> int:
    return secrets.randbits(31)


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.strip().rpartition(":")
    if not colon or "]" in port or (":" in host and not host.startswith("[")):  # an address of IPv6 alone
        host, port = text.strip(), str(_PORT)
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise KdcAwayError("a domain controller is written as host or host:port")
    return host.strip("[]"), int(port)


class _Controller:
    """The controllers of a domain, of which the first one that answers is kept."""

    def __init__(self, realm: Realm, deadline: Deadline) -> None:
        self._places = realm.places()
        self._seconds = realm.connect_seconds
        self._deadline = deadline

    def ask(self, kind: Any, request: Any, expected: Any) -> tuple[Any, Any]:
        """Return the reply, or None and the error that the controller answered with.

        Raises:
            KdcAwayError: no controller answered.
        """
        octets = messages.dump(kind, request)
        while self._places and not self._deadline.is_over:
            try:
                answer = self._exchange(octets)
            except (OSError, ValueError):  # also a host that can be none
                del self._places[0]
                continue
            if answer[:1] != b"\x7e":  # the tag of an error
                return messages.load(expected, answer), None
            error = messages.load(messages.ERROR, answer)
            if error["code"] != KdcCode.SERVICE_UNAVAILABLE or len(self._places) == 1:
                return None, error
            del self._places[0]
        raise KdcAwayError("no domain controller answered")

    def _exchange(self, octets: bytes) -> bytes:
        place = self._places[0]
        with socket.create_connection(place, timeout=self._deadline.remaining(self._seconds)) as connection:
            connection.sendall(len(octets).to_bytes(4, "big") + octets)
            size = int.from_bytes(self._read(connection, 4), "big")
            if size > _MOST:
                raise ConnectionError("that is no domain controller")
            return self._read(connection, size)

    def _read(self, connection: socket.socket, size: int) -> bytes:
        read = bytearray()
        while len(read) < size:
            connection.settimeout(self._deadline.remaining(self._seconds))
            part = connection.recv(size - len(read))
            if not part:
                raise ConnectionError("the domain controller ended the connection")
            read += part
        return bytes(read)

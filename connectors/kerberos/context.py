"""A context with one service: who we are shown to it, its own proof checked, and messages sealed between us.

Source: RFC 4121 (tokens), RFC 4120, 3.2 (AP exchange), RFC 5929 (channel bindings).
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, Final

from connectors.kerberos import messages
from connectors.kerberos.cipher import IntegrityError, Key, decrypt, encrypt, random_key
from connectors.kerberos.errors import NotTrustedError, TicketRefusedError
from connectors.kerberos.messages import MalformedError
from connectors.kerberos.tickets import Ticket, now, sealed

__all__ = ["Context", "Sealed"]

_MECHANISM: Final = bytes.fromhex("06092a864886f712010202")  # 1.2.840.113554.1.2.2
_AP_REQ, _AP_REP, _ERROR = b"\x01\x00", b"\x02\x00", b"\x03\x00"  # kinds of tokens
_FLAGS: Final = 2 | 4 | 8 | 16 | 32  # mutual, replay, sequence, confidentiality, integrity; never delegation
_MUTUAL: Final = f"{1 << 29:032b}"
_GSS_CHECKSUM: Final = 0x8003
_FOR_AUTHENTICATOR, _FOR_AP_REP, _FROM_ACCEPTOR, _FROM_INITIATOR = 11, 12, 22, 24  # uses of a key
_WRAP: Final = b"\x05\x04"
_BY_ACCEPTOR, _IS_SEALED, _BY_ACCEPTORS_KEY = 1, 2, 4
_HEADER: Final = 16
_TURN: Final = 28  # octets that stand before the text: the header's copy and the checksum, as Windows wants it
_CONFOUNDER: Final = 16


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A message in the two parts that WS-Management sends."""

    signature: bytes
    text: bytes


class Context:
    """The initiator's side."""

    def __init__(self, ticket: Ticket, bindings: bytes | None = None) -> None:
        """Begin.

        Args:
            ticket: for the service.
            bindings: the application's data of the channel; None: the channel is not bound.
        """
        self._ticket = ticket
        self._bound = _bound(bindings)
        self._own = random_key(ticket.key.enctype)
        self._key: Key = self._own
        self._by_acceptor = 0
        self._time = now()
        self._sent = secrets.randbits(30)
        self._received = 0
        self.is_established = False

    def token(self) -> bytes:
        """Return what shows the service who we are."""
        ticket, (seconds, microseconds) = self._ticket, self._time
        digest = len(self._bound).to_bytes(4, "little") + self._bound + _FLAGS.to_bytes(4, "little")
        told = messages.dump(messages.AUTHENTICATOR, {
            "version": 5, "crealm": ticket.crealm, "cname": ticket.cname, "time": seconds, "microseconds": microseconds,
            "checksum": {"type": _GSS_CHECKSUM, "octets": digest},
            "subkey": {"enctype": self._own.enctype, "octets": self._own.octets}, "sequence": self._sent,
        })  # fmt: skip
        shown = messages.dump(messages.AP_REQ, {
            "version": 5, "kind": 14, "options": _MUTUAL, "ticket": ticket.fields,
            "sealed": sealed(ticket.key, _FOR_AUTHENTICATOR, told),
        })  # fmt: skip
        inner = _MECHANISM + _AP_REQ + shown
        return b"\x60" + _length(len(inner)) + inner

    def establish(self, token: bytes) -> None:
        """Check that the service could read our token: only who has its key can.

        Raises:
            NotTrustedError: it is somebody else.
            TicketRefusedError: it is an error of the service.
        """
        try:
            part = self._reply(token)
            if subkey := part.get("subkey"):
                self._key = Key(enctype=subkey["enctype"], octets=subkey["octets"])
                self._by_acceptor = _BY_ACCEPTORS_KEY
        except (MalformedError, IntegrityError, KeyError, TypeError) as error:
            raise NotTrustedError("the machine did not prove that it is itself") from error
        self._received = (
            part.get("sequence") or 0
        ) & 0xFFFFFFFF  # some write the upper half of the numbers as negative
        self.is_established = True

    def _reply(self, token: bytes) -> Any:
        """Return what the service sealed with the key that only it and we know, once it is sure that it answers our token.

        Raises:
            MalformedError: it is no such token.
            IntegrityError: it is of somebody else, or answers something else.
            TicketRefusedError: it is an error of the service.
        """
        start = token.find(_MECHANISM, 0, 16)
        if token[:1] != b"\x60" or start < 0:
            raise MalformedError("it is no token of Kerberos")
        start += len(_MECHANISM)
        kind, body = token[start : start + 2], token[start + 2 :]
        if kind == _ERROR:
            raise TicketRefusedError(messages.load(messages.ERROR, body)["code"])
        if kind != _AP_REP:
            raise MalformedError("it is another token")
        told = messages.load(messages.AP_REP, body)["sealed"]
        part = messages.load(messages.ENC_AP_REP_PART, decrypt(self._ticket.key, _FOR_AP_REP, told["cipher"]))
        if (part["time"].decode(), part["microseconds"]) != self._time:
            raise IntegrityError("it answers something else")
        return part

    def seal(self, text: bytes) -> Sealed:
        """Return a message sealed for the service."""
        header = self._header(_IS_SEALED | self._by_acceptor, 0, 0, self._sent)
        body = encrypt(self._key, _FROM_INITIATOR, text + header)
        header = self._header(_IS_SEALED | self._by_acceptor, 0, _TURN, self._sent)
        self._sent += 1
        whole = header + body[-_TURN:] + body[:-_TURN]
        size = _HEADER + _TURN + _CONFOUNDER
        return Sealed(signature=whole[:size], text=whole[size:])

    def unseal(self, message: Sealed) -> bytes:
        """Return the text that the service sealed.

        Raises:
            NotTrustedError: it did not, or it is not its next message.
        """
        whole = message.signature + message.text
        header, body = whole[:_HEADER], whole[_HEADER:]
        extra, turn = int.from_bytes(header[4:6], "big"), int.from_bytes(header[6:8], "big")
        flags = _BY_ACCEPTOR | _IS_SEALED | self._by_acceptor
        if header != self._header(flags, extra, turn, self._received) or not body:
            raise NotTrustedError("a message is not the next one of the machine")
        turn %= len(body)
        try:
            text = decrypt(self._key, _FROM_ACCEPTOR, body[turn:] + body[:turn])
        except IntegrityError as error:
            raise NotTrustedError("a message was altered") from error
        if text[-_HEADER:] != self._header(flags, extra, 0, self._received) or len(text) < _HEADER + extra:
            raise NotTrustedError("a message was altered")
        self._received += 1
        return text[: len(text) - _HEADER - extra]

    @staticmethod
    def _header(flags: int, extra: int, turn: int, number: int) -> bytes:
        parts = (extra.to_bytes(2, "big"), turn.to_bytes(2, "big"), number.to_bytes(8, "big"))
        return _WRAP + bytes([flags, 0xFF]) + b"".join(parts)


def _length(size: int) -> bytes:
    if size < 128:
        return bytes([size])
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(octets)]) + octets


def _bound(bindings: bytes | None) -> bytes:
    """Return the digest of the channel's bindings: no addresses, the application's data alone."""
    if bindings is None:
        return bytes(16)
    text = bytes(16) + len(bindings).to_bytes(4, "little") + bindings
    return hashlib.md5(text, usedforsecurity=False).digest()  # as RFC 4121 has it

"""Messages of Kerberos in ASN.1: from and to plain dictionaries. No meaning here.

Source: RFC 4120, appendix A.
"""

from __future__ import annotations

from typing import Any, Final

from pyasn1.codec.der import decoder, encoder
from pyasn1.codec.native import decoder as from_native
from pyasn1.codec.native import encoder as to_native
from pyasn1.error import PyAsn1Error
from pyasn1.type import char, namedtype, tag, univ, useful

__all__ = [
    "AP_REP",
    "AP_REQ",
    "AS_REP",
    "AS_REQ",
    "AUTHENTICATOR",
    "ENC_AP_REP_PART",
    "ENC_AS_REP_PART",
    "ENC_TGS_REP_PART",
    "ENC_TIMESTAMP",
    "ERROR",
    "ETYPE_INFO2",
    "METHOD_DATA",
    "REQUEST_BODY",
    "SEALED",
    "TGS_REP",
    "TGS_REQ",
    "MalformedError",
    "dump",
    "load",
]


class MalformedError(ValueError):
    """What came is not the message that was expected."""


def dump(kind: Any, value: Any) -> bytes:
    """Return a message's octets.

    Args:
        kind: one of the kinds of this module.
        value: its fields by name; what is optional may be left out.
    """
    return bytes(encoder.encode(from_native.decode(value, asn1Spec=kind)))


def load(kind: Any, octets: bytes) -> Any:
    """Return a message's fields by name.

    Raises:
        MalformedError: it is not of that kind, or something follows it.
    """
    try:
        value, rest = decoder.decode(octets, asn1Spec=kind)
        if rest:
            raise MalformedError("something follows the message")
        return to_native.encode(value)
    except (PyAsn1Error, RecursionError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise MalformedError("the message cannot be read") from error


class _Text(char.GeneralString):  # type: ignore[misc]
    encoding = "utf-8"  # as Windows and all others write it, whatever a GeneralString is


_NUMBER: Final = univ.Integer()
_TEXT: Final = _Text()
_OCTETS: Final = univ.OctetString()
_BITS: Final = univ.BitString()
_TIME: Final = useful.GeneralizedTime()


def _sequence(*fields: tuple[int, str, Any] | tuple[int, str, Any, bool], application: int | None = None) -> Any:
    """Return a kind of sequence.

    Args:
        fields: number of the tag, name, kind, and whether it is always there (it is, if not said).
        application: number of the tag around it all.
    """
    parts = []
    for number, name, kind, *always in fields:
        around = tag.Tag(tag.tagClassContext, tag.tagFormatConstructed, number)
        tagged = kind.subtype(explicitTag=around)
        parts.append((namedtype.NamedType if always in ([], [True]) else namedtype.OptionalNamedType)(name, tagged))
    made = univ.Sequence(componentType=namedtype.NamedTypes(*parts))
    if application is None:
        return made
    return made.subtype(explicitTag=tag.Tag(tag.tagClassApplication, tag.tagFormatConstructed, application))


def _list(kind: Any) -> Any:
    return univ.SequenceOf(componentType=kind)


_NAME: Final = _sequence((0, "type", _NUMBER), (1, "parts", _list(_TEXT)))
SEALED: Final = _sequence((0, "enctype", _NUMBER), (1, "kvno", _NUMBER, False), (2, "cipher", _OCTETS))
_KEY: Final = _sequence((0, "enctype", _NUMBER), (1, "octets", _OCTETS))
_CHECKSUM: Final = _sequence((0, "type", _NUMBER), (1, "octets", _OCTETS))
_PADATA: Final = _sequence((1, "type", _NUMBER), (2, "value", _OCTETS))
_ADDRESS: Final = _sequence((0, "type", _NUMBER), (1, "octets", _OCTETS))
_AUTHORIZATION: Final = _sequence((0, "type", _NUMBER), (1, "octets", _OCTETS))
_TICKET: Final = _sequence(
    (0, "version", _NUMBER), (1, "realm", _TEXT), (2, "sname", _NAME), (3, "sealed", SEALED), application=1
)

METHOD_DATA: Final = _list(_PADATA)
ETYPE_INFO2: Final = _list(
    _sequence((0, "enctype", _NUMBER), (1, "salt", _TEXT, False), (2, "parameters", _OCTETS, False))
)
ENC_TIMESTAMP: Final = _sequence((0, "time", _TIME), (1, "microseconds", _NUMBER, False))

REQUEST_BODY: Final = _sequence(
    (0, "options", _BITS), (1, "cname", _NAME, False), (2, "realm", _TEXT), (3, "sname", _NAME, False),
    (5, "till", _TIME), (7, "nonce", _NUMBER), (8, "enctypes", _list(_NUMBER)),
)  # fmt: skip
_REQUEST: Final = (
    (1, "version", _NUMBER), (2, "kind", _NUMBER), (3, "padata", METHOD_DATA, False), (4, "body", REQUEST_BODY),
)  # fmt: skip
AS_REQ: Final = _sequence(*_REQUEST, application=10)
TGS_REQ: Final = _sequence(*_REQUEST, application=12)

_REPLY: Final = (
    (0, "version", _NUMBER), (1, "kind", _NUMBER), (2, "padata", METHOD_DATA, False), (3, "crealm", _TEXT),
    (4, "cname", _NAME), (5, "ticket", _TICKET), (6, "sealed", SEALED),
)  # fmt: skip
AS_REP: Final = _sequence(*_REPLY, application=11)
TGS_REP: Final = _sequence(*_REPLY, application=13)

_REPLY_PART: Final = (
    (0, "key", _KEY), (1, "last_req", _list(_sequence((0, "type", _NUMBER), (1, "value", _TIME)))), (2, "nonce", _NUMBER),
    (3, "key_expiration", _TIME, False), (4, "flags", _BITS), (5, "authtime", _TIME), (6, "starttime", _TIME, False),
    (7, "endtime", _TIME), (8, "renew_till", _TIME, False), (9, "srealm", _TEXT), (10, "sname", _NAME),
    (11, "caddr", _list(_ADDRESS), False), (12, "padata", METHOD_DATA, False),
)  # fmt: skip
ENC_AS_REP_PART: Final = _sequence(*_REPLY_PART, application=25)
ENC_TGS_REP_PART: Final = _sequence(*_REPLY_PART, application=26)

AP_REQ: Final = _sequence(
    (0, "version", _NUMBER), (1, "kind", _NUMBER), (2, "options", _BITS), (3, "ticket", _TICKET), (4, "sealed", SEALED),
    application=14,
)  # fmt: skip
AUTHENTICATOR: Final = _sequence(
    (0, "version", _NUMBER), (1, "crealm", _TEXT), (2, "cname", _NAME), (3, "checksum", _CHECKSUM, False),
    (4, "microseconds", _NUMBER), (5, "time", _TIME), (6, "subkey", _KEY, False), (7, "sequence", _NUMBER, False),
    (8, "authorization", _list(_AUTHORIZATION), False),
    application=2,
)  # fmt: skip
AP_REP: Final = _sequence((0, "version", _NUMBER), (1, "kind", _NUMBER), (2, "sealed", SEALED), application=15)
ENC_AP_REP_PART: Final = _sequence(
    (0, "time", _TIME), (1, "microseconds", _NUMBER), (2, "subkey", _KEY, False), (3, "sequence", _NUMBER, False),
    application=27,
)  # fmt: skip
ERROR: Final = _sequence(
    (0, "version", _NUMBER), (1, "kind", _NUMBER), (2, "ctime", _TIME, False), (3, "cusec", _NUMBER, False),
    (4, "stime", _TIME), (5, "susec", _NUMBER), (6, "code", _NUMBER), (7, "crealm", _TEXT, False),
    (8, "cname", _NAME, False), (9, "realm", _TEXT), (10, "sname", _NAME), (11, "text", _TEXT, False),
    (12, "data", _OCTETS, False),
    application=30,
)  # fmt: skip

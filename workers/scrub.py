"""Takes secrets out of text that comes from outside, in every spelling a script is likely to print."""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

from pam_jobs.records.record import Record

__all__ = ["MASK", "Scrubber", "secrets_of"]

MASK: Final = "********"

_SHORTEST: Final = 3  # a shorter secret occurs in ordinary text everywhere; then the whole text is withheld
_WITHHELD: Final = "(withheld: a secret involved is too short to be masked)"
_SECRET_TYPES: Final = frozenset({
    "password", "secret", "oneTimeCode", "otp", "keyPair", "pinCode", "note", "json", "paymentCard", "bankAccount",
    "securityQuestion", "passkey",
})  # fmt: skip


class Scrubber:
    """Masks a fixed set of secrets."""

    __slots__ = ("_is_withheld", "_spellings")

    def __init__(self, secrets: Iterable[str]) -> None:
        """Learn the secrets.

        Args:
            secrets: in clear; empty ones do not count. The lines of a longer one, as of a PEM key, count each.
        """
        spellings: set[str] = set()
        self._is_withheld = False
        for secret in secrets:
            for text in {secret, secret.strip()} if secret.strip() else ():
                if len(text) < _SHORTEST:
                    self._is_withheld = True
                elif text:
                    spellings |= _spellings(text)
        # The longest first, so that no part of a longer spelling is left standing.
        self._spellings = tuple(sorted(spellings, key=len, reverse=True))

    @property
    def longest(self) -> int:
        """The length of the longest spelling, in characters."""
        return len(self._spellings[0]) if self._spellings else 0

    def clean(self, text: str) -> str:
        """Return the text without any of the secrets."""
        if self._is_withheld:
            return _WITHHELD if text.strip() else ""
        for spelling in self._spellings:
            text = text.replace(spelling, MASK)
        return text


def secrets_of(record: Record) -> set[str]:
    """Return every text of the record's secret fields."""
    data = record.to_dict()
    found: set[str] = set()
    for entry in [*(data.get("fields") or []), *(data.get("custom") or [])]:
        if entry.get("type") in _SECRET_TYPES:
            found |= set(_texts(entry.get("value")))
    return {text for text in found if text}


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _spellings(secret: str) -> set[str]:
    raw = secret.encode()
    found = {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        html.escape(secret),
        html.escape(secret, quote=False),
        shlex.quote(secret),
        repr(secret)[1:-1],
        raw.hex(),
        raw.hex().upper(),
    }
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        found.add(encode(raw).decode())
        found.add(encode(raw).decode().rstrip("="))
        found.add(encode(raw + b"\n").decode())  # what `echo SECRET | base64` prints
        found |= _inner_base64(raw, encode)
    lines = [line.strip() for line in secret.splitlines()]
    if len(lines) > 1:
        found |= {line for line in lines if len(line) >= 16 and not line.startswith("-----")}
        found.add("\\n".join(lines))
        found.add("".join(lines))
    return {spelling for spelling in found if len(spelling) >= _SHORTEST}


def _inner_base64(raw: bytes, encode: object) -> set[str]:
    """Return what the secret looks like within the base64 of a longer text, at each of the three alignments."""
    found: set[str] = set()
    if len(raw) < 6 or not callable(encode):
        return found
    for shift in (1, 2):
        text = encode(b"\0" * shift + raw).decode().rstrip("=")
        start = 2 if shift == 1 else 3  # characters that also depend on what stands before
        found.add(text[start : len(text) - len(text) % 4 or None][:-1])
    text = encode(raw).decode().rstrip("=")
    found.add(text[:-1])
    return {text for text in found if len(text) >= 8}

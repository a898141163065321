"""Names of entries, and which of a directory's accounts the operator wants to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ldap3.core.exceptions import LDAPException
from ldap3.utils.dn import parse_dn

__all__ = ["UserMatch", "is_dn", "parents_of", "same_dn"]


def is_dn(text: str) -> bool:
    """Say whether a login is a distinguished name already."""
    if "=" not in text:
        return False
    try:
        return len(parse_dn(text)) > 1  # a login may hold "=", and hardly a comma before another one
    except (LDAPException, LookupError):
        return False


def same_dn(one: str, other: str) -> bool:
    """Say whether two names name one entry, as far as spelling can tell."""
    try:
        return _parts(one) == _parts(other)
    except (LDAPException, LookupError):
        return one == other


def parents_of(dn: str) -> list[tuple[str, str]]:
    """Return kind and value of what an entry is in, the nearest first; both in lower case."""
    try:
        return [(kind, value) for kind, value, _ in _parts(dn)[1:]]
    except (LDAPException, LookupError):
        return []


def _parts(dn: str) -> list[tuple[str, str, str]]:
    return [(kind.lower(), value.casefold().strip(), after) for kind, value, after in parse_dn(dn, strip=True)]


@dataclass(frozen=True)
class UserMatch:
    """Which accounts are listed: those of one search filter, of some places, or of units with some names.

    It is ``userMatch`` of the resource or of the domain's configuration, or the custom field ``User Match``.
    """

    filter: str = ""  # a search filter
    places: tuple[str, ...] = ()  # distinguished names below which accounts are
    units: frozenset[str] = frozenset()  # names of organizational units, in lower case

    @classmethod
    def of(cls, options: Mapping[str, str]) -> UserMatch:
        """Return what the target's options say; several names stand on lines, or have semicolons between them."""
        text = options.get("user_match", "").strip()
        if text.startswith("("):
            return cls(filter=text)
        named = [part.strip() for part in text.replace(";", "\n").splitlines() if part.strip()]
        units = frozenset(part.removeprefix("OU=").removeprefix("ou=").casefold() for part in named if not is_dn(part))
        return cls(places=tuple(part for part in named if is_dn(part)), units=units)

    def bases(self, usual: Sequence[str]) -> list[str]:
        """Return where to search."""
        return list(self.places) if self.places and not self.units else list(usual)

    def takes(self, dn: str) -> bool:
        """Say whether the entry is in one of the units or places; anything is where none is named."""
        if not self.units:
            return True
        within = parents_of(dn)
        if any(kind == "ou" and value in self.units for kind, value in within):
            return True
        return any(within[-len(place) :] == place for place in map(_whole, self.places))


def _whole(dn: str) -> list[tuple[str, str]]:
    return [(kind, value) for kind, value, _ in _parts(dn)]

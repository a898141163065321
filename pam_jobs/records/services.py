"""What runs on one machine as one user, in the vendor's form: ``[{"type", "items": [{"name", "via_discovery"}]}]``.

A client and the gateway read it; the control plane holds it sealed by the user record's key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from pam_jobs.crypto import aes
from pam_jobs.errors import InvalidInput, VaultError

__all__ = ["KIND", "MOST_NAMES", "RESTORE", "WAITING", "ServiceKind", "ServiceName", "ServiceNames"]

MOST_NAMES: Final = 200
"""How many objects of one machine may be mapped to one user."""

KIND: Final = "dependant"
"""Kind of the steps that update one service, task or pool."""

RESTORE: Final = "restore"
"""Kind of the steps that update it back after the credential was rolled back."""

WAITING: Final = "services_waiting"
"""Cause of a job whose credential is rotated, while a machine with its services is still to be reached."""

_LONGEST: Final = 400


class ServiceKind(StrEnum):
    """What may run as a user on a Windows machine."""

    SERVICE = "service"
    TASK = "task"  # of the task scheduler, by its whole path
    IIS_POOL = "iis_pool"
    COM = "com"
    DCOM = "dcom"
    COM_PLUS = "com_plus"
    SCOM = "scom"  # Run As account of the operations manager


@dataclass(frozen=True, kw_only=True)
class ServiceName:
    """One object; Windows tells names apart without regard to case."""

    kind: ServiceKind
    name: str
    via_discovery: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        """What makes two entries the same object."""
        return self.kind.value, self.name.casefold()


@dataclass(frozen=True)
class ServiceNames:
    """The objects of one machine, in the order in which they are updated."""

    entries: tuple[ServiceName, ...] = ()

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Return what the JSON says.

        Raises:
            InvalidInput: it is not in the known form.
        """
        try:
            groups = json.loads(text)
            entries = [_entry(group["type"], item) for group in groups for item in group["items"]]
        except (ValueError, KeyError, TypeError):
            raise InvalidInput(
                "the names of services are not in the known form", remedy="map them again with `pam action service`"
            ) from None
        return cls(tuple(entries))

    @classmethod
    def open(cls, ciphertext: bytes, record_key: bytes) -> Self:
        """Return what was sealed by the user record's key.

        Raises:
            VaultError: the key does not open it.
            InvalidInput: it is not in the known form.
        """
        try:
            return cls.parse(aes.decrypt(ciphertext, record_key))
        except VaultError:
            raise VaultError(
                "the names of services were sealed by another key", remedy="map them again with `pam action service`"
            ) from None

    def seal(self, record_key: bytes) -> bytes:
        """Return the names as the control plane holds them."""
        return aes.encrypt(self.to_json().encode(), record_key)

    def to_json(self) -> str:
        """Return the vendor's form."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for entry in self.entries:
            item = {"name": entry.name, "via_discovery": entry.via_discovery}
            groups.setdefault(entry.kind.value, []).append(item)
        return json.dumps([{"type": kind, "items": items} for kind, items in groups.items()])

    def with_manual(self, kind: ServiceKind, name: str) -> Self:
        """Return the names with one that an operator gave; it outlives every discovery.

        Raises:
            InvalidInput: it is no name, or there are too many.
        """
        new = ServiceName(kind=kind, name=_checked(name))
        kept = [entry for entry in self.entries if entry.identity != new.identity]
        return self._limited([*kept, new])

    def without(self, kind: ServiceKind | None = None, name: str | None = None) -> Self:
        """Return the names without one, without those of a kind, or without any."""
        folded = None if name is None else name.casefold()

        def goes(entry: ServiceName) -> bool:
            return kind in {None, entry.kind} and folded in {None, entry.name.casefold()}

        return type(self)(tuple(entry for entry in self.entries if not goes(entry)))

    def with_discovered(self, found: Iterable[tuple[ServiceKind, str]]) -> Self:
        """Return the names with what discovery sees now in place of what it saw before; manual ones stay.

        Raises:
            InvalidInput: there are too many.
        """
        manual = [entry for entry in self.entries if not entry.via_discovery]
        known = {entry.identity for entry in manual}
        new: dict[tuple[str, str], ServiceName] = {}
        for kind, name in found:
            entry = ServiceName(kind=kind, name=_checked(name), via_discovery=True)
            if entry.identity not in known:
                new.setdefault(entry.identity, entry)
        return self._limited([*manual, *new.values()])

    def _limited(self, entries: list[ServiceName]) -> Self:
        if len(entries) > MOST_NAMES:
            raise InvalidInput(
                f"{len(entries)} objects of one machine would run as one user, more than {MOST_NAMES}",
                remedy="remove those that are gone with `pam action service remove`",
            )
        return type(self)(tuple(entries))


def _entry(kind: str, item: dict[str, Any]) -> ServiceName:
    return ServiceName(
        kind=ServiceKind(kind), name=_checked(item["name"]), via_discovery=item.get("via_discovery") is True
    )


def _checked(name: Any) -> str:
    if not isinstance(name, str) or not 1 <= len(name.strip()) <= _LONGEST or not name.isprintable():
        raise InvalidInput(
            "the name of a service is empty, too long, or holds characters that cannot be shown",
            remedy=f"give 1 to {_LONGEST} characters, as the machine shows them",
        )
    return name.strip()

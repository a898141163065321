"""Where a directory's controllers are: the record's host, then its alternative IPs."""

from __future__ import annotations

from connectors.base import Target

__all__ = ["addresses_of"]


def addresses_of(target: Target, first: str | None = None) -> list[str]:
    """Return the controllers' addresses in the order in which they are tried.

    Args:
        target: its host, and the record's alternative IPs.
        first: the one that a session already uses.
    """
    others = target.options.get("alternative_ips", "").replace(",", " ").replace(";", " ").split()
    listed = [target.host, *others]
    return list(dict.fromkeys(([first] if first in listed else []) + listed))

"""Fields of a record that say yes or no, read alike by all connectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pam_jobs.errors import Unsupported

__all__ = ["is_wanted"]

_YES: Final = frozenset({"true", "yes", "1", "on"})
_NO: Final = frozenset({"", "false", "no", "0", "off"})


def is_wanted(options: Mapping[str, str], name: str, label: str | None = None) -> bool:
    """Say whether a record wants something; what it does not mention it does not want.

    Args:
        options: of the target.
        name: of the option.
        label: of the custom field, where that is another.

    Raises:
        Unsupported: the field says neither yes nor no.
    """
    text = options.get(name, "").strip().casefold()
    if text not in _YES | _NO:
        raise Unsupported(f"{text[:20]!r} is no value of {label or name}", remedy="use true or false")
    return text in _YES

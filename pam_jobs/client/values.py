"""``FIELD=VALUE`` from the command line, with ways to keep secrets out of it."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pam_jobs.errors import InvalidInput
from pam_jobs.records.types import split_assignment

__all__ = ["MASK", "is_secret_field", "masked", "read_assignments"]

MASK = "********"
_SECRET_KINDS = frozenset({"password", "secret", "oneTimeCode", "pinCode", "keyPair", "trafficEncryptionSeed"})
_SECRET_NAMES = frozenset({"password", "privatepemkey", "onetimecode", "accesssecretkey", "clientsecret"})
_SECRET_LABELS = ("password", "passphrase", "secret", "token")


def is_secret_field(name: str) -> bool:
    """Say whether a field of that name, as typed, holds a secret."""
    parts = name.casefold().split(".")
    return parts[-1] in _SECRET_NAMES or any(part in {kind.casefold() for kind in _SECRET_KINDS} for part in parts)


def read_assignments(
    texts: Sequence[str],
    *,
    stdin: Callable[[], str] = sys.stdin.read,
    ask: Callable[[str], str] = getpass.getpass,
    warn: Callable[[str], None] = lambda _text: None,
) -> list[tuple[str, str]]:
    """Return names and values; ``-`` reads standard input, ``@FILE`` a file, ``?`` asks; ``@@`` stands for ``@``.

    Args:
        texts: each ``FIELD=VALUE``.
        stdin: returns the whole of standard input; called once at most.
        ask: asks a person without showing what is typed.
        warn: is told when a secret stood on the command line.

    Raises:
        InvalidInput: no ``=``, an unreadable file, or standard input wanted twice.
    """
    found: list[tuple[str, str]] = []
    read = False
    for text in texts:
        name, value = split_assignment(text)
        if value == "-":
            if read:
                raise InvalidInput(
                    "two fields want standard input", remedy="give one of them as FIELD=@FILE or FIELD=?"
                )
            value, read = stdin().removesuffix("\n").removesuffix("\r"), True
        elif value == "?":
            value = ask(f"{name}: ")
        elif value.startswith("@@"):
            value = value[1:]
        elif value.startswith("@"):
            value = _file(Path(value[1:]).expanduser(), name)
        elif is_secret_field(name) and value and value != "$GEN":
            warn(f"{name} stood on the command line, where others on this machine can see it; {name}=- reads it")
        found.append((name, value))
    return found


def _file(path: Path, name: str) -> str:
    try:
        return path.read_text().removesuffix("\n")
    except (OSError, UnicodeDecodeError):
        raise InvalidInput(f"the file {path} for {name} cannot be read", remedy="give a readable text file") from None


def masked(data: dict[str, Any]) -> dict[str, Any]:
    """Return record JSON with every value that is secret by its type or label replaced."""
    return data | {
        section: [_masked_field(entry) for entry in data.get(section) or []]
        for section in ("fields", "custom")
        if section in data
    }


def _masked_field(entry: dict[str, Any]) -> dict[str, Any]:
    label = str(entry.get("label") or "").casefold()
    secret = entry.get("type") in _SECRET_KINDS or any(word in label for word in _SECRET_LABELS)
    if not secret or not entry.get("value"):
        return entry
    return entry | {"value": [MASK if value not in (None, "") else value for value in entry["value"]]}

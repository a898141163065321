"""A value that must not be seen."""

from __future__ import annotations

import hmac
from typing import Any, NoReturn

__all__ = ["SecretValue"]


class SecretValue:
    """Holds a secret text so that no print, log, format, copy to JSON or pickle shows it.

    ``reveal()`` is the one way to the text; its call sites are the list of places where secrets are in clear.
    """

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self.__text

    def __repr__(self) -> str:
        return "SecretValue(***)"

    def __str__(self) -> NoReturn:
        raise TypeError("a SecretValue does not become text; call reveal() where the secret is really needed")

    def __format__(self, spec: str) -> NoReturn:
        raise TypeError("a SecretValue does not become text; call reveal() where the secret is really needed")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretValue is not pickled")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretValue):
            return NotImplemented
        return hmac.compare_digest(self.__text.encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(("SecretValue", self.__text))

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __len__(self) -> int:
        return len(self.__text)

    def __copy__(self) -> SecretValue:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SecretValue:
        return self

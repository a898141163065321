"""Password complexity: how long, and how many characters of each class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pam_jobs.errors import InvalidInput

__all__ = ["ALLOWED_SPECIALS", "DEFAULT_SPECIALS", "MAX_LENGTH", "MIN_LENGTH", "Complexity"]

DEFAULT_SPECIALS: Final = "!@#$%()+;<>=?[]{}^.,"
"""Special characters where the rule names none; they need no quoting surprises on most targets."""

ALLOWED_SPECIALS: Final = "!@#$%^?();',.=+[]<>{}-_/\\*&:\"`~|"
"""Every special character a rule may name."""

MIN_LENGTH: Final = 8
MAX_LENGTH: Final = 256

_FORM = "write LENGTH,UPPER,LOWER,DIGITS,SYMBOLS[,SPECIALS], such as 20,1,1,1,1"
_COUNTS = ("caps", "lowercase", "digits", "special")


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """A rule for passwords.

    A count above 0 demands at least that many of the class, which also fills the rest; None lets the class fill the
    rest; 0 leaves it out; a count below 0 demands exactly that many and no more.
    """

    length: int = 20  # 8 to 256
    caps: int | None = 1
    lowercase: int | None = 1
    digits: int | None = 1
    special: int | None = 1
    special_chars: str | None = None  # None: DEFAULT_SPECIALS

    def __post_init__(self) -> None:
        if not MIN_LENGTH <= self.length <= MAX_LENGTH:
            raise InvalidInput(
                f"a password length of {self.length} is not allowed",
                remedy=f"choose a length from {MIN_LENGTH} to {MAX_LENGTH}",
            )
        for name, count in self.counts().items():
            if count is not None and abs(count) > MAX_LENGTH:
                raise InvalidInput(
                    f"the complexity asks for {abs(count)} characters of the class {name}",
                    remedy=f"ask for at most {MAX_LENGTH}",
                )
        self._check_specials()
        if all(count == 0 for count in self.counts().values()):
            raise InvalidInput("the complexity leaves out every class", remedy="allow at least one class of characters")
        if self.minimum > MAX_LENGTH:
            raise InvalidInput(
                f"the counts of the complexity add up to {self.minimum}", remedy=f"keep their sum at most {MAX_LENGTH}"
            )
        if self.minimum < self.length and all(count is not None and count <= 0 for count in self.counts().values()):
            raise InvalidInput(
                f"the complexity fixes {self.minimum} characters but the length is {self.length}",
                remedy="let one class fill the rest, or make the counts add up to the length",
            )

    def _check_specials(self) -> None:
        foreign = sorted(set(self.special_chars or "") - set(ALLOWED_SPECIALS))
        if foreign:
            raise InvalidInput(
                "the special characters hold " + " ".join(repr(char) for char in foreign),
                remedy=f"choose from {ALLOWED_SPECIALS}",
            )
        if self.special_chars == "" and self.special:
            raise InvalidInput(
                "the complexity asks for special characters but allows none", remedy="name some, or ask for 0"
            )

    def counts(self) -> dict[str, int | None]:
        """Return the count of each class by its JSON name."""
        return {"caps": self.caps, "lowercase": self.lowercase, "digits": self.digits, "special": self.special}

    @property
    def minimum(self) -> int:
        """The sum of what the classes demand; a shorter length is raised to it."""
        return sum(abs(count or 0) for count in self.counts().values())

    @property
    def specials(self) -> str:
        """The special characters in force, each once."""
        chars = DEFAULT_SPECIALS if self.special_chars is None else self.special_chars
        return "".join(dict.fromkeys(chars))

    @classmethod
    def parse(cls, source: str | Mapping[str, Any]) -> Complexity:
        """Return the rule written in JSON or as the command line has it.

        Args:
            source: ``20,1,1,1,1`` with or without a set of special characters, JSON text, or the decoded object.

        Raises:
            InvalidInput: it is neither, or cannot be fulfilled.
        """
        if isinstance(source, Mapping):
            return cls._from_mapping(source)
        text = source.strip()
        if not text.startswith("{"):
            return cls._from_line(text)
        try:
            data = json.loads(text)
        except ValueError:
            raise InvalidInput("the complexity is not valid JSON", remedy=_FORM) from None
        return cls._from_mapping(data)

    @classmethod
    def _from_mapping(cls, data: Mapping[str, Any]) -> Complexity:
        for name in ("length", *_COUNTS):
            value = data.get(name)
            if isinstance(value, bool) or not isinstance(value, int | None):
                raise InvalidInput(f"{name!r} of the complexity is not a whole number", remedy="write it as a number")
        specials = data.get("specialChars")
        if not isinstance(specials, str | None):
            raise InvalidInput(
                "'specialChars' of the complexity is not text", remedy="write the characters as one text"
            )
        length = data.get("length")
        return cls(
            length=20 if length is None else length,
            special_chars=specials,
            **{name: data.get(name) for name in _COUNTS},
        )

    @classmethod
    def _from_line(cls, text: str) -> Complexity:
        parts = text.split(",", 5)  # the special characters may hold commas themselves
        if len(parts) < 5:
            raise InvalidInput(f"{text!r} is not a password complexity", remedy=_FORM)
        try:
            length = int(parts[0])
            counts = [int(part) if part.strip() else None for part in parts[1:5]]
        except ValueError:
            raise InvalidInput(f"{text!r} is not a password complexity", remedy=_FORM) from None
        caps, lowercase, digits, special = counts
        return cls(
            length=length,
            caps=caps,
            lowercase=lowercase,
            digits=digits,
            special=special,
            special_chars=parts[5] if len(parts) == 6 and parts[5] else None,
        )

    def to_json(self) -> str:
        """Return the rule as Keeper's clients write it."""
        data: dict[str, Any] = {"length": self.length}
        data |= {name: count for name, count in self.counts().items() if count is not None}
        if self.special_chars is not None:
            data["specialChars"] = self.special_chars
        return json.dumps(data, separators=(",", ":"))

    def to_line(self) -> str:
        """Return the rule as the command line has it."""
        counts = ["" if count is None else str(count) for count in self.counts().values()]
        specials = [self.special_chars] if self.special_chars else []
        return ",".join([str(self.length), *counts, *specials])

"""Passwords made by the operating system's random generator."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass

from pam_jobs.errors import InvalidInput
from pam_jobs.records.complexity import Complexity
from pam_jobs.secret import SecretValue

__all__ = ["TargetLimits", "generate_password"]

_TRIES = 10_000  # a password that fits is mostly the first one
_WORDS = {"caps": "capital letters", "lowercase": "small letters", "digits": "digits", "special": "special characters"}


@dataclass(frozen=True, kw_only=True)
class TargetLimits:
    """What a target takes; None and empty where it sets no limit."""

    max_length: int | None = None
    min_length: int | None = None
    forbidden_characters: str = ""
    forbidden_words: tuple[str, ...] = ()  # in any case
    min_classes: int | None = None  # of capital letters, small letters, digits, special characters

    def allow(self, text: str) -> bool:
        """Say whether a password whose characters and length are right has no such word, and enough classes."""
        folded = text.casefold()
        if any(word.casefold() in folded for word in self.forbidden_words):
            return False
        alphabets = (string.ascii_uppercase, string.ascii_lowercase, string.digits)
        used = {next((number for number, each in enumerate(alphabets) if char in each), -1) for char in text}
        return len(used) >= (self.min_classes or 0)


@dataclass(frozen=True)
class _Recipe:
    parts: tuple[tuple[str, int], ...]  # alphabet, how many at least
    filler: str  # alphabet of the rest
    rest: int


def generate_password(complexity: Complexity | None = None, limits: TargetLimits | None = None) -> SecretValue:
    """Return a new password that fulfils the rule and the target's limits.

    Every such password that does not begin with ``-`` is possible; one that does would read as an option on a
    command line. The length is raised to the sum of the rule's counts and to the target's least length.

    Args:
        complexity: the rule; None: length 20 with one of each class.
        limits: of the target; None: no limits.

    Raises:
        InvalidInput: rule and limits contradict each other.
    """
    limits = limits or TargetLimits()
    recipe = _recipe(complexity or Complexity(), limits)
    for _ in range(_TRIES):
        characters = [secrets.choice(alphabet) for alphabet, count in recipe.parts for _ in range(count)]
        characters += [secrets.choice(recipe.filler) for _ in range(recipe.rest)]
        secrets.SystemRandom().shuffle(characters)
        text = "".join(characters)
        if characters[0] != "-" and limits.allow(text):  # drawn anew as a whole: the remaining ones stay equally likely
            return SecretValue(text)
    raise InvalidInput(
        "no password that the complexity describes fulfils what the target demands",
        remedy=f"use {limits.min_classes or 1} of capital letters, small letters, digits and special characters",
    )


def _recipe(complexity: Complexity, limits: TargetLimits) -> _Recipe:
    alphabets = {
        name: "".join(char for char in alphabet if char not in limits.forbidden_characters)
        for name, alphabet in (
            ("caps", string.ascii_uppercase),
            ("lowercase", string.ascii_lowercase),
            ("digits", string.digits),
            ("special", complexity.specials),
        )
    }
    counts = complexity.counts()
    for name, count in counts.items():
        if count and not alphabets[name]:
            raise InvalidInput(
                f"the target forbids all {_WORDS[name]} that the complexity asks for",
                remedy="allow other characters of that class, or set its count to 0",
            )
    length = _length(complexity, limits)
    filler = "".join(alphabets[name] for name, count in counts.items() if count is None or count > 0)
    rest = length - complexity.minimum
    if rest and not filler:
        raise InvalidInput(
            f"{rest} characters of the password may be of no class",
            remedy="let one class fill the rest, or make the counts add up to the length",
        )
    parts = tuple((alphabets[name], abs(count)) for name, count in counts.items() if count)
    recipe = _Recipe(parts, filler, rest)
    usable = {char for alphabet, _ in parts for char in alphabet} | (set(filler) if rest else set())
    if usable == {"-"}:
        raise InvalidInput(
            "the complexity leaves nothing but dashes", remedy="allow another class, or more special characters"
        )
    return recipe


def _length(complexity: Complexity, limits: TargetLimits) -> int:
    length = max(complexity.length, complexity.minimum, limits.min_length or 0)
    if limits.max_length is not None and length > limits.max_length:
        raise InvalidInput(
            f"the password would have {length} characters but the target takes at most {limits.max_length}",
            remedy=f"set a complexity whose length is at most {limits.max_length}",
        )
    return length

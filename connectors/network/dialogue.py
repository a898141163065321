"""Any device with a command line: what is typed and what is awaited stands in the resource record, and is checked beforehand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from connectors.base import Account, Candidate, Fence, Preflight
from connectors.network.secrets import check_login, checked_password
from connectors.network.session import NetworkSession, said
from connectors.network.terminal import Terminal
from connectors.ssh.errors import FAILURES, map_error, mapped
from pam_jobs.errors import AmbiguousReply, Effect, Forbidden, NotApplied, PolicyRefused, TargetError, Unsupported

__all__ = ["FIELD", "Dialogue", "DialogueSession", "Step"]

FIELD: Final = "dialogue"
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_KNOWN: Final = frozenset({"login", "password", "old"})
_PARTS: Final = frozenset({"prompt", "refusals", "begin", "check", "change", "save"})
_MOST_STEPS: Final = 40
_LONGEST_PATTERN: Final = 300


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line that is typed, and what is awaited after it."""

    send: str
    expect: re.Pattern[str]

    def filled(self, values: Mapping[str, str]) -> str:
        """Return the line with its placeholders filled; a value is never read for placeholders again."""
        return _PLACEHOLDER.sub(lambda found: values.get(found[1], ""), self.send)

    @property
    def holds_secret(self) -> bool:
        """Say whether the line holds the new password."""
        return "password" in _PLACEHOLDER.findall(self.send)


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """How a device's passwords are changed."""

    prompt: re.Pattern[str]
    refusals: re.Pattern[str]
    begin: tuple[Step, ...] = ()
    check: tuple[Step, ...] = ()
    change: tuple[Step, ...] = ()
    save: tuple[Step, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Dialogue:
        """Return the dialogue of a record's custom field.

        Raises:
            Unsupported: it cannot be used; the sentence says where.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise _wrong(f"is no JSON ({error})") from None
        if not isinstance(data, dict) or not set(data) <= _PARTS:
            raise _wrong(f"has parts other than {', '.join(sorted(_PARTS))}")
        prompt = _pattern(data.get("prompt"), "prompt")
        steps = {part: _steps(data.get(part, []), part, prompt) for part in ("begin", "check", "change", "save")}
        if not any(step.holds_secret for step in steps["change"]):
            raise _wrong("types {password} nowhere in change")
        if any(step.holds_secret for part in ("begin", "check", "save") for step in steps[part]):
            raise _wrong("types {password} outside of change")
        return cls(prompt=prompt, refusals=_pattern(data.get("refusals"), "refusals", anchored=False), **steps)


class DialogueSession(NetworkSession):
    """A session on a device that is driven by its record's dialogue."""

    @property
    def _dialogue(self) -> Dialogue:
        return Dialogue.parse(self._target.options[FIELD])

    def connect(self) -> Self:
        """Check the dialogue, then log in as the rotator, unless there is none.

        Raises:
            NotApplied: with the cause.
        """
        _ = self._dialogue
        return super().connect()

    def preflight(self, account: Account) -> Preflight:
        """Run the steps of ``check``, which change nothing.

        Raises:
            Unsupported: the device refuses one of them, as for a user that is not there.
            TargetError: anything else the device said.
        """
        check_login(account.login)
        self._look(account)
        link = self._require_link().link
        return Preflight(
            server=f"{link.banner}, by the record's dialogue",
            is_self=self._is_self(account),
            account_exists=True if self._dialogue.check else None,
            forbidden_characters="".join(map(chr, (*range(32), 127))),
        )

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Run the steps of ``change`` and of ``save``.

        Effect on target: what the record's dialogue types.

        Raises:
            NotApplied: the device refused a step of ``change``.
            EffectUnknown: no answer came, or the device refused to save.
        """
        password = checked_password(candidate)
        check_login(account.login)
        self._look(account)
        self._deadline.check("the change was sent")
        terminal, dialogue = self._require_link(), self._dialogue
        values = self._values(account) | {"password": password.reveal()}
        fence()
        try:
            refused = self._run(terminal, dialogue.change, values)
            if refused:
                kind = PolicyRefused if refused[1] else NotApplied
                raise kind(
                    f"the device refused: {refused[0]}", remedy="look at the device, and at the record's dialogue"
                )
            refused = self._run(terminal, dialogue.save, values)
            if refused:
                raise AmbiguousReply(
                    f"the password was set and not saved: {refused[0]}", remedy="save the device's configuration"
                )
        except FAILURES as error:
            self._spoil()
            raise map_error(error, sent=True) from None
        except TargetError:
            self._spoil()
            raise
        self._changed(account.login, candidate.password, is_self=self._is_self(account))
        return Effect.APPLIED

    def _begin(self, terminal: Terminal) -> None:
        dialogue = self._dialogue
        terminal.expect(dialogue.prompt)
        rotator = self._require_rotator()
        old = rotator.password.reveal() if rotator.password else ""
        refused = self._run(terminal, dialogue.begin, {"login": rotator.login, "old": old})
        if refused:
            raise Forbidden(f"the device refused: {refused[0]}", remedy="look at begin of the record's dialogue")

    def _look(self, account: Account) -> None:
        try:
            with mapped(sent=False):
                refused = self._run(self._require_link(), self._dialogue.check, self._values(account))
        except TargetError:
            self._spoil()
            raise
        if refused:
            self._spoil()
            raise Unsupported(f"the device refused: {refused[0]}", remedy="check the login in the user record")

    def _values(self, account: Account) -> dict[str, str]:
        current = self._rotator.password if self._rotator and self._is_self(account) else None
        return {"login": account.login, "old": current.reveal() if current else ""}

    def _run(self, terminal: Terminal, steps: tuple[Step, ...], values: Mapping[str, str]) -> tuple[str, bool] | None:
        """Run steps, and return the device's refusal and whether the password had been typed; None when there is none."""
        typed = False
        refusals = self._dialogue.refusals
        for step in steps:
            typed = typed or step.holds_secret
            ends = re.compile(f"(?:{step.expect.pattern})|(?:{self._dialogue.prompt.pattern})")
            answer = terminal.ask(step.filled(values), ends)
            refused = said(answer, refusals, lambda line: _hidden(line, values))
            if refused:
                return refused, typed
            if not step.expect.search(f"\n{terminal.prompt}"):
                return "the device did not ask what was expected", typed
        return None


def _hidden(line: str, values: Mapping[str, str]) -> str:
    for name in ("password", "old"):
        if values.get(name):
            line = line.replace(values[name], "***")
    return line


def _steps(data: Any, part: str, prompt: re.Pattern[str]) -> tuple[Step, ...]:
    if not isinstance(data, list) or len(data) > _MOST_STEPS:
        raise _wrong(f"has no list of at most {_MOST_STEPS} steps as {part}")
    return tuple(_step(each, f"{part}, step {number}", prompt) for number, each in enumerate(data, 1))


def _step(data: Any, where: str, prompt: re.Pattern[str]) -> Step:
    if isinstance(data, str):
        data = {"send": data}
    if not isinstance(data, dict) or not set(data) <= {"send", "expect"} or not isinstance(data.get("send"), str):
        raise _wrong(f"has a step that is neither a text nor send and expect ({where})")
    if not data["send"].isprintable():
        raise _wrong(f"types control characters ({where})")
    unknown = set(_PLACEHOLDER.findall(data["send"])) - _KNOWN
    if unknown:
        raise _wrong(f"has the unknown placeholder {min(unknown)!r} ({where})")
    return Step(send=data["send"], expect=_pattern(data["expect"], where) if "expect" in data else prompt)


def _pattern(text: Any, where: str, *, anchored: bool = True) -> re.Pattern[str]:
    """Return a pattern; what is awaited has to stand at the end of what came."""
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_PATTERN:
        raise _wrong(f"has no pattern of at most {_LONGEST_PATTERN} characters ({where})")
    try:
        return re.compile(rf"(?:{text})\s*\Z" if anchored else text)
    except re.error:
        raise _wrong(f"has a pattern that cannot be read ({where})") from None


def _wrong(what: str) -> Unsupported:
    return Unsupported(
        f"the custom field Dialogue {what}", remedy="correct it; connectors/network/README.md has an example"
    )

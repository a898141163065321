"""Cisco IOS XE: local users and the enable secret, set as type 9 and saved, since a reload forgets what was not.

Source: Cisco IOS XE command reference: ``username``, ``enable secret``, ``write memory``, ``configure terminal``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Final

from connectors.base import (
    Account,
    Candidate,
    Credential,
    Fence,
    Finding,
    Preflight,
    Unseen,
    Verdict,
    VerdictState,
)
from connectors.network.secrets import check_login, checked_password, type9
from connectors.network.session import NetworkSession, said
from connectors.network.terminal import Terminal
from connectors.ssh.errors import FAILURES, map_error, mapped, verdict_of
from pam_jobs.errors import (
    AmbiguousReply,
    ConnectionLost,
    Effect,
    Forbidden,
    NotApplied,
    TargetError,
    TimedOutAfterSend,
    Unsupported,
)

__all__ = ["ENABLE", "IosXeSession"]

ENABLE: Final = "enable"  # the login that stands for the enable secret
_PROMPT = re.compile(r"(?:^|\n)[^\s#>]{1,80}(?:\([^)\n]{1,40}\))?[>#] ?\Z")
_PROMPT_OR_PASSWORD = re.compile(r"(?:^|\n)(?:[^\s#>]{1,80}(?:\([^)\n]{1,40}\))?[>#]|[Pp]assword:) ?\Z")
_ERROR = re.compile(r"^\s*(?:%|ERROR:|Command authorization failed|Configuration mode is locked)", re.IGNORECASE)
_LOCK = re.compile(r"locked", re.IGNORECASE)
_RIGHT = re.compile(r"authorization failed|access denied|bad secrets", re.IGNORECASE)
_USER = re.compile(r"^username (\S+) (.*)$", re.MULTILINE)
_SECRET = re.compile(r"\bsecret (\d) (\S+)\s*$")
_LONGEST = 25  # characters: what every release takes at its prompts
_LEVEL = re.compile(r"level is (\d+)")
_HIGHEST = "15"


class IosXeSession(NetworkSession):
    """A session on one device, at privilege level 15."""

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed, and whether what runs is what was saved.

        Raises:
            Forbidden: the device authorises the rotator for less.
            Unsupported: there is no such user, or it has no secret.
            TargetError: anything else the device said.
        """
        line = self._line(account.login)
        saved = "saved" if line in self._ask("show startup-config", account.login) else "not saved yet"
        version = said(self._show("show version | include Version"), re.compile("Version")) or "IOS"
        return Preflight(
            server=f"{version}; the running line of {account.login} is {saved}",
            is_self=self._is_self(account),
            account_exists=True,
            max_length=_LONGEST,
            forbidden_characters="".join(map(chr, (*range(32), 127))),
        )

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the secret in the running configuration and save it.

        Effect on target: ``configure terminal``, one line with a type 9 secret, ``end``, ``write memory``.

        Raises:
            NotApplied: running and saved configuration are certainly as they were.
            EffectUnknown: no answer came, or the device could not be set back.
        """
        password = checked_password(candidate)
        old = self._line(account.login)
        secret = type9(password)
        new = f"enable secret 9 {secret}" if account.login == ENABLE else _SECRET.sub(f"secret 9 {secret}", old)
        self._deadline.check("the change was sent")
        terminal = self._require_link()
        try:
            self._configure(terminal)
            try:
                fence()
            except BaseException:
                terminal.ask("end", _PROMPT)
                raise
            self._set(terminal, new)
            self._save(terminal, old)
        except FAILURES as error:
            self._spoil()
            raise map_error(error, sent=True) from None
        except (AmbiguousReply, ConnectionLost, TimedOutAfterSend):
            self._spoil()
            raise
        self._changed(account.login, candidate.password, is_self=self._is_self(account))
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in once, afresh; the enable secret is tried on the rotator's command line."""
        if account.login != ENABLE:
            return super().probe(account, credential)
        if self._link is not None:
            with contextlib.suppress(TargetError):
                self._require_link()
        if self._link is None or not credential.password:
            return Verdict(
                state=VerdictState.UNKNOWN, cause="no_login", detail="the enable secret is tried after an admin's login"
            )
        try:
            self._link.ask("disable", _PROMPT)
            answer = self._link.ask(ENABLE, _PROMPT_OR_PASSWORD)
            if self._link.prompt.endswith(":"):
                answer = self._link.ask(credential.password.reveal(), _PROMPT_OR_PASSWORD)
            while self._link.prompt.endswith(":"):  # it asks up to three times: an empty line is no guess
                answer += self._link.ask("", _PROMPT_OR_PASSWORD)
        except FAILURES as error:
            self._spoil()
            return verdict_of(error)
        if self._link.prompt.endswith("#"):
            return Verdict(state=VerdictState.ACCEPTED)
        self._spoil()  # it stands below the level that commands need
        self._link = None
        refused = bool(_RIGHT.search(answer))
        return Verdict(
            state=VerdictState.REFUSED if refused else VerdictState.UNKNOWN,
            cause="wrong_password" if refused else "refused_login",
            detail="the device refused the enable secret",
        )

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the local users; those of a directory behind AAA are not told."""
        for name, rest in _USER.findall(self._ask("show running-config", "")):
            level = re.search(r"privilege (\d+)", rest)
            kind = _SECRET.search(rest)
            facts: dict[str, str | bool | int] = {
                "privilege": int(level[1]) if level else 1, "secret_type": kind[1] if kind else "none",
            }  # fmt: skip
            yield Finding(kind="users", name=name, facts=facts)

    def _begin(self, terminal: Terminal) -> None:
        terminal.expect(_PROMPT)
        if terminal.prompt.endswith(">"):
            terminal.ask(ENABLE, _PROMPT_OR_PASSWORD)
            if terminal.prompt.endswith(":"):
                password = self._require_rotator().password
                terminal.ask(password.reveal() if password else "", _PROMPT_OR_PASSWORD)
        if not terminal.prompt.endswith("#"):
            return  # a login without rights can still be told so, by what is asked of it
        terminal.ask("terminal length 0", _PROMPT)
        terminal.ask("terminal width 511", _PROMPT)

    def _show(self, command: str) -> str:
        """Return what a command that changes nothing prints.

        Raises:
            Forbidden: the login may not ask.
            TargetError: no answer.
        """
        terminal = self._require_link()
        try:
            if not terminal.prompt.endswith("#"):
                raise Forbidden("the rotator's login is not privileged", remedy="give it privilege 15")
            with mapped(sent=False):
                text = terminal.ask(command, _PROMPT)
        except TargetError:
            self._spoil()
            raise
        refused = said(text, _ERROR)
        if refused:
            raise Forbidden(f"the device refused {command!r}: {refused}", remedy="give the rotator privilege 15")
        return text

    def _ask(self, command: str, login: str) -> str:
        """Return the lines of a configuration that tell of users, or of the enable secret."""
        return self._show(f"{command} | include ^{ENABLE if login == ENABLE else 'username'} ")

    def _line(self, login: str) -> str:
        """Return the running configuration's line of a user.

        Raises:
            Unsupported: there is none, or it has no secret.
            Forbidden: the rotator may not ask.
        """
        check_login(login)
        text = self._ask("show running-config", login)
        start = f"{ENABLE} secret " if login == ENABLE else f"username {login} "
        line = next((line.strip() for line in text.splitlines() if line.startswith(start)), "")
        if not line:
            raise Unsupported(
                f"the device has no local user {login!r}",
                remedy="check the login; users of TACACS+ or RADIUS are rotated there",
            )
        if not _SECRET.search(line):
            raise Unsupported(
                f"user {login!r} has a password in place of a secret",
                remedy=f"give it a secret: no username {login}, then anew",
            )
        return line

    def _configure(self, terminal: Terminal) -> None:
        """Enter the configuration mode, which nobody else may hold.

        Raises:
            NotApplied: the device does not let us.
        """
        try:
            answer = terminal.ask("configure terminal", _PROMPT)
        except FAILURES as error:
            raise map_error(error, sent=False) from None
        refused = said(answer, _ERROR)
        if refused:
            kind = NotApplied if _LOCK.search(refused) else Forbidden
            raise kind(f"the device refused to be configured: {refused}", remedy="try again when it is free")

    def _set(self, terminal: Terminal, line: str) -> None:
        """Type the line, and leave the configuration mode.

        Raises:
            NotApplied: the device refused the line.
        """
        refused = said(terminal.ask(line, _PROMPT), _ERROR)
        terminal.ask("end", _PROMPT)
        if refused:
            kind = Forbidden if _RIGHT.search(refused) else Unsupported
            raise kind(
                f"the device refused the line: {refused}", remedy="use IOS XE with type 9 secrets, 15.3(3)M or newer"
            )

    def _save(self, terminal: Terminal, old: str) -> None:
        """Save the running configuration; where that fails, a reload would bring the old secret back, so it is set back now.

        Raises:
            NotApplied: it could not be saved, and the old line runs again.
            AmbiguousReply: neither.
        """
        answer = terminal.ask("write memory", _PROMPT)
        if "[OK]" in answer:
            return
        refused = said(answer, re.compile(r"\S")) or "no answer"
        try:
            self._configure(terminal)
            self._set(terminal, old)
        except (*FAILURES, TargetError):
            raise AmbiguousReply(
                f"the secret runs, was not saved ({refused}), and could not be set back",
                remedy="save the device's configuration, then rotate again",
            ) from None
        raise NotApplied(
            f"the device cannot save its configuration ({refused}), so a reload would bring the old secret back",
            remedy="make room on its nvram, or let the rotator write memory",
        )

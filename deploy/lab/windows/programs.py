"""What the connector's PowerShell programs do on the emulated machine. Nothing else runs there: it has no PowerShell."""

from __future__ import annotations

import base64
import json
import ntpath
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from connectors.activedirectory.winrm_search import RESET, SEARCH
from connectors.windows import programs
from connectors.windows.programs import ANSWER, Program
from deploy.lab.windows.machine import Code, Directory, Machine, Refusal, User

__all__ = ["HANDLERS", "Call", "Ended", "execute", "handles", "is_waiting"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One run of a program."""

    machine: Machine  # its lock is held
    caller: User
    facts: dict[str, Any]
    secrets: tuple[str, ...] = field(repr=False)

    def require_admin(self) -> None:
        """Refuse whoever is no administrator.

        Raises:
            Refusal: access is denied.
        """
        if not self.caller.admin:
            raise Refusal(Code.ACCESS_DENIED, "System.UnauthorizedAccessException")

    def account(self, name: str) -> User:
        """Return an account by its bare name.

        Raises:
            Refusal: there is none.
        """
        found = self.machine.users.get(name.lower())
        if found is None:
            raise Refusal(Code.USER_NOT_FOUND)
        return found


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str = ""
    stderr: str = ""


Handler = Callable[[Call], Any]
HANDLERS: dict[str, Handler] = {}
"""By the whole text of the program: one character more or less, and it is not known."""

_LINE = re.compile(
    r'\s*(?:"(?P<quoted>[^"]+)"|(?P<bare>\S+)) -NoLogo -NoProfile -NonInteractive -EncodedCommand (?P<code>[A-Za-z0-9+/=]+)\s*'
)


def handles(program: Program) -> Callable[[Handler], Handler]:
    """Mark the function that does what a program does; it returns the value, or raises ``Refusal``."""

    def mark(handler: Handler) -> Handler:
        HANDLERS[program.text] = handler
        return handler

    return mark


def execute(machine: Machine, caller: User, line: str, stdin: bytes) -> Ended:
    """Run a command line as ``cmd.exe`` or sshd hands it over, and write into the machine's logs what Windows would."""
    with machine.lock:
        machine.events.append(f"4688 {caller.login} {line}")
        match = _LINE.fullmatch(line)
        shell = ntpath.basename((match["quoted"] or match["bare"]) if match else "").lower()
        if match is None or shell.removesuffix(".exe") not in {"powershell", "pwsh"}:
            word = line.split(maxsplit=1)[0] if line.split() else ""
            said = (
                f"'{word}' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n"
            )
            return Ended(exit_code=1, stderr=said)
        try:
            text = base64.b64decode(match["code"], validate=True).decode("utf-16-le")
        except ValueError:
            return Ended(exit_code=1, stderr="Cannot process the command because the value is not properly encoded.")
        machine.events.append(f"4104 {text}")
        handler = HANDLERS.get(text)
        if handler is None:
            return Ended(
                exit_code=1, stderr=_clixml("At line:1 char:1: ParseException: this emulation knows no such script")
            )
        try:
            rows = [base64.b64decode(row, validate=True).decode() for row in stdin.decode("ascii").splitlines()]
            facts = json.loads(rows[0])
        except (ValueError, IndexError) as error:
            return _answer(
                {"ok": False, "kind": "System.FormatException", "code": 0x80131537 - (1 << 32), "text": str(error)}
            )
        try:
            value = handler(Call(machine=machine, caller=caller, facts=facts, secrets=tuple(rows[1:])))
        except Refusal as refusal:
            by_module = refusal.kind.startswith("Microsoft.PowerShell")  # whose exceptions carry no code of Windows
            code = (0x80131500 if by_module else 0x80070000 + refusal.code) - (1 << 32)
            return _answer({"ok": False, "kind": refusal.kind, "code": code, "text": refusal.text})
        return _answer({"ok": True, "value": value})


def is_waiting(line: str) -> bool:
    """Say whether a command reads its standard input to the end before it does anything."""
    return _LINE.fullmatch(line) is not None


def _answer(value: dict[str, Any]) -> Ended:
    text = ANSWER + base64.b64encode(json.dumps(value).encode()).decode() + "\r\n"
    return Ended(exit_code=0 if value["ok"] else 1, stdout=text)


def _clixml(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return (
        '#< CLIXML\r\n<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">'
        f'<S S="Error">{escaped}_x000D__x000A_</S></Objs>'
    )


def _flags(machine: Machine, user: User) -> int:
    """Return the account's flags as the WinNT provider shows them."""
    locked = user.locked_until > time.time()
    return (
        0x201
        | (0 if user.enabled else 0x2)
        | (0x10 if locked else 0)
        | (0 if user.may_change else 0x40)
        | (0x10000 if user.never_expires else 0)
        | (0x800000 if machine.is_expired(user) else 0)
    )


@handles(programs.LOOK)
def _look(call: Call) -> dict[str, Any]:
    machine = call.machine
    place = machine.domain if machine.controller else machine.name
    found = machine.users.get(str(call.facts["login"]).lower())
    return {
        "me": f"{place}\\{call.caller.login}", "admin": call.caller.admin, "computer": machine.name,
        "domain": machine.domain or "WORKGROUP", "joined": bool(machine.domain), "controller": machine.controller,
        "version": machine.version, "user": None if found is None else _user(machine, found),
    }  # fmt: skip


def _user(machine: Machine, user: User) -> dict[str, Any]:
    policy = machine.policy
    return {
        "name": user.login, "full": user.full_name, "minimum": int(policy.minimum_age_seconds), "flags": _flags(machine, user), "age": 0 if user.must_change else int(time.time() - user.last_set),
        "maximum": int(policy.maximum_age_seconds), "expired": int(user.must_change or machine.is_expired(user)),
        "length": policy.minimum_length, "history": policy.history, "failures": user.failures,
        "threshold": policy.lockout_threshold,
        "expires": None if user.expires is None else datetime.fromtimestamp(user.expires, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
    }  # fmt: skip


@handles(programs.RULES)
def _rules(call: Call) -> dict[str, int]:
    """Read what secedit would have exported: names in English whatever the machine's language, days for ages."""
    call.require_admin()
    policy = call.machine.policy
    exported = f"""[Unicode]\r
Unicode=yes\r
[System Access]\r
MinimumPasswordAge = {int(policy.minimum_age_seconds // 86400)}\r
MaximumPasswordAge = {int(policy.maximum_age_seconds // 86400) or -1}\r
MinimumPasswordLength = {policy.minimum_length}\r
PasswordComplexity = {int(policy.complexity)}\r
PasswordHistorySize = {policy.history}\r
LockoutBadCount = {policy.lockout_threshold}\r
NewAdministratorName = "Administrator"\r
[Version]\r
signature="$CHICAGO$"\r
Revision=1\r
"""
    wanted = r"\s*(PasswordComplexity|PasswordHistorySize|MinimumPasswordLength)\s*=\s*(-?\d+)\s*"
    found = (re.fullmatch(wanted, line) for line in exported.splitlines())
    return {match[1]: int(match[2]) for match in found if match}


@handles(programs.SET)
def _set(call: Call) -> str:
    by_module = call.machine.has_local_accounts and not call.machine.controller
    prefix = "Microsoft.PowerShell.Commands."
    user = call.machine.users.get(call.facts["login"].lower())
    if user is None:
        raise Refusal(Code.USER_NOT_FOUND, f"{prefix}UserNotFoundException" if by_module else "COMException")
    if not call.caller.admin:
        raise Refusal(Code.ACCESS_DENIED, f"{prefix}AccessDeniedException" if by_module else "COMException")
    try:
        call.machine.set_password(user, call.secrets[0])
    except Refusal as refusal:
        raise Refusal(refusal.code, f"{prefix}InvalidPasswordException" if by_module else refusal.kind) from None
    return "Set-LocalUser" if by_module else "ADSI"


@handles(programs.CHANGE_OWN)
def _change_own(call: Call) -> str:
    call.machine.change_password(call.account(call.facts["login"]), call.secrets[1], call.secrets[0])
    return "ADSI"


@handles(programs.CHECK)
def _check(call: Call) -> int:
    if not call.machine.can_compile:
        raise Refusal(Code.ACCESS_DENIED, "System.Management.Automation.PSNotSupportedException")
    name, domain = call.facts["login"], call.facts["domain"]
    return int(call.machine.log_on(f"{domain}\\{name}" if domain else name, call.secrets[0]))


@handles(programs.LIST)
def _list(call: Call) -> list[dict[str, Any]]:
    return [
        {
            "name": user.login,
            "flags": _flags(call.machine, user),
            "age": int(time.time() - user.last_set),
            "sid": user.sid,
        }
        for user in call.machine.users.values()
    ]


@handles(SEARCH)
def _search(call: Call) -> dict[str, Any]:
    """Let the directory that the machine stands in front of answer; one that is no controller has none."""
    return _directory(call).search(call.facts)


@handles(RESET)
def _modify(call: Call) -> dict[str, Any]:
    """Let the directory change an account; only its administrators may."""
    directory = _directory(call)
    if not call.caller.admin:
        text = "00000005: SecErr: DSID-031A11E5, problem 4003 (INSUFF_ACCESS_RIGHTS), data 0\n\0"
        return {"code": 50, "text": text, "entries": []}
    return directory.reset(call.facts, call.secrets[0])


def _directory(call: Call) -> Directory:
    if call.machine.directory is None:
        unavailable = Refusal(Code.NO_TRUST, "System.DirectoryServices.Protocols.LdapException")
        unavailable.text = "The LDAP server is unavailable."
        raise unavailable
    return call.machine.directory


@handles(programs.UPLOAD)
def _upload(call: Call) -> str:
    parent = call.facts["parent"] or f"C:\\Users\\{call.caller.login}\\AppData\\Local\\Temp\\"
    path = ntpath.join(parent, f"pam-jobs.{secrets.token_hex(16)}", call.facts["name"])
    call.machine.files[path] = base64.b64decode(call.secrets[0])
    return path


@handles(programs.REMOVE)
def _remove(call: Call) -> None:
    folder = ntpath.dirname(call.facts["path"])
    if not ntpath.basename(folder).startswith("pam-jobs."):
        raise Refusal(Code.ACCESS_DENIED)
    for path in [path for path in call.machine.files if path.startswith(folder + "\\")]:
        del call.machine.files[path]


@handles(programs.RUN)
def _run(call: Call) -> dict[str, Any]:
    """Pretend to run a script that was uploaded: its last ``exit`` decides, unless the machine was given a function."""
    words = [call.facts["file"], *_split(call.facts["arguments"])]
    known = [path for path in call.machine.files if path in words]
    if not known:
        raise Refusal(Code.FILE_NOT_FOUND, "System.ComponentModel.Win32Exception")
    content, stdin = call.machine.files[known[0]], base64.b64decode(call.secrets[0])
    call.machine.runs.append({"words": words, "stdin": stdin, "content": content, "as": call.caller.login})
    if call.machine.scripts is not None:
        code, out, err = call.machine.scripts(content.decode(errors="replace"), stdin)
    else:
        found = re.findall(rb"(?im)^\s*exit(?:\s+/b)?\s+(\d+)", content)
        code, out, err = int(found[-1]) if found else 0, "", ""
    return {"exit": code, "out": out, "err": err}


def _split(arguments: str) -> Sequence[str]:
    """Return the words of a command's arguments, as ``subprocess.list2cmdline`` put them together."""
    words = [quoted or bare for quoted, bare in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', arguments)]
    assert not arguments or subprocess.list2cmdline(words)  # noqa: S101 - it is a line of ours
    return words

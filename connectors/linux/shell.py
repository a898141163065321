"""What a Linux machine is asked on its command line, and how its answers read. Pure text; no connection here.

A secret never stands in a command: it goes to standard input. What does stand there is quoted by ``command()`` alone.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from connectors.base import AccountMetadata
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    Forbidden,
    NotApplied,
    PolicyRefused,
    TargetError,
    Unsupported,
)
from pam_jobs.secret import SecretValue

__all__ = [
    "PASSWORD_BYTES",
    "SUM",
    "Entry",
    "Privilege",
    "Survey",
    "as_root",
    "as_user",
    "check_login",
    "check_password",
    "command",
    "read_chpasswd",
    "read_entries",
    "read_expiry",
    "read_passwd",
    "read_status",
    "read_survey",
    "shell_of",
    "sudo_input",
    "survey_command",
]

PASSWORD_BYTES = 511  # PAM takes no longer answer

_LOGIN = re.compile(r"[^-#+:/,\s\x00-\x1f\x7f][^:/,\s\x00-\x1f\x7f]*\Z")
_SURVEY = (
    "LC_ALL=C; PATH=$PATH:/usr/sbin:/sbin; export LC_ALL PATH; "
    'have() { command -v "$1" >/dev/null 2>&1; }; echo uid=$(id -u); '
    '{ if have getent; then getent passwd -- "$1"; else L=$1 awk -F: \'$1 == ENVIRON["L"]\' /etc/passwd; fi; } '
    "| sed 's/^/entry=/'; "
    'echo "tools=$(for t in chpasswd passwd runuser sudo doas; do ! have $t || printf "%s " $t; done)"; '
    '[ "$(id -u)" = 0 ] || if ! have sudo && have doas; then '
    'said=$(doas -n -- chpasswd </dev/null 2>&1); echo "doas=$?"; echo "said=$said"; '
    "else if have chpasswd; then said=$(sudo -n -- chpasswd </dev/null 2>&1); "
    'else said=$(sudo -n -l -- passwd "$1" 2>&1); fi; echo "sudo=$?"; echo "said=$said"; fi'
)
SUM = "h() { if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi; }; "
"""A function ``h`` of a script: the SHA-256 of its input, on machines with the GNU tools or with Perl's."""

_RUNUSER = frozenset({"runuser"})
_SHELLS = re.compile(r"(?:/[\w.+-]+)+/(?:ba|da|a|k|z|mk)?sh")


class Privilege(StrEnum):
    """How the rotator gets to change other accounts."""

    ROOT = "root"  # it is root
    SUDO = "sudo"  # sudo asks it nothing
    SUDO_PASSWORD = "sudo_password"  # noqa: S105 - sudo asks for the rotator's own password
    DOAS = "doas"  # doas asks it nothing; it could not be answered
    NONE = "none"  # it may change itself only


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the user database."""

    login: str
    uid: int
    gid: int
    home: str
    shell: str


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one look at the machine told about an account and our own rights."""

    uid: int  # ours
    entry: Entry | None  # the account's; None: there is no such account
    sudo_works: bool  # without a password, for chpasswd
    sudo_asks: bool  # it wants a password
    said: str  # sudo's own words
    doas_works: bool = False
    tools: frozenset[str] = frozenset()  # which of the programs that matter there are


def command(argv: list[str]) -> str:
    """Return one command line for a remote POSIX shell, every word quoted.

    Raises:
        Unsupported: a word has a NUL, which no command line can carry.
    """
    if any("\0" in word for word in argv):
        raise Unsupported("a command's words cannot have a NUL")
    return shlex.join(argv)


def as_root(privilege: Privilege, argv: list[str]) -> list[str]:
    """Return the command as root. With ``SUDO_PASSWORD`` its input begins with ``sudo_input()``."""
    match privilege:
        case Privilege.SUDO:
            return ["sudo", "-n", "--", *argv]
        case Privilege.SUDO_PASSWORD:  # -k: a remembered login would pass the password's line on to the command
            return ["sudo", "-k", "-S", "-p", "", "--", *argv]
        case Privilege.DOAS:
            return ["doas", "-n", "--", *argv]
        case _:
            return argv


def as_user(privilege: Privilege, login: str, argv: list[str], tools: frozenset[str] = _RUNUSER) -> list[str]:
    """Return the command as another user, with that user's rights only: root would follow the user's symbolic links.

    Args:
        privilege: of the rotator.
        login: the other user.
        argv: the command.
        tools: what the machine has; without runuser root goes through sudo, and without that through su.
    """
    match privilege:
        case Privilege.SUDO:
            return ["sudo", "-n", "-u", login, "--", *argv]
        case Privilege.SUDO_PASSWORD:
            return ["sudo", "-k", "-S", "-p", "", "-u", login, "--", *argv]
        case Privilege.DOAS:
            return ["doas", "-n", "-u", login, "--", *argv]
        case _ if "runuser" in tools:
            return ["runuser", "-u", login, "--", *argv]
        case _ if "sudo" in tools:
            return ["sudo", "-n", "-u", login, "--", *argv]
        case _:
            return ["su", "-s", "/bin/sh", "-c", command(argv), login]


def sudo_input(privilege: Privilege, password: SecretValue | None) -> bytes:
    """Return what stands before a command's own input: the rotator's password where sudo asks for it."""
    if privilege is not Privilege.SUDO_PASSWORD or password is None:
        return b""
    return f"{password.reveal()}\n".encode()


def check_login(login: str) -> None:
    """Refuse a login that could not be an account, or would be read as something else.

    Raises:
        Unsupported: it is refused; nothing was sent.
    """
    if not _LOGIN.match(login) or len(login) > 256:
        raise Unsupported("the login is no name of a Linux account", remedy="check the login in the user record")


def check_password(password: SecretValue) -> None:
    """Refuse a password that the machine's tools would cut or misread.

    Raises:
        PolicyRefused: it is refused; nothing was sent.
    """
    text = password.reveal()
    if not text or any(char in text for char in "\0\n\r"):
        raise PolicyRefused("a password here is not empty and has no NUL and no line break", remedy="generate another")
    if len(text.encode()) > PASSWORD_BYTES:
        raise PolicyRefused(f"a password here has at most {PASSWORD_BYTES} bytes", remedy="generate a shorter one")


def shell_of(option: str | None) -> str:
    """Return the shell that runs our own scripts: the custom field ``Shell`` where it names one of the Bourne family.

    Anything else, such as an interpreter meant for somebody's own scripts, would not read them.
    """
    return option if option and _SHELLS.fullmatch(option) else "/bin/sh"


def survey_command(login: str, shell: str = "/bin/sh") -> str:
    """Return the command that looks at the account and our rights; ``chpasswd`` with no input changes nothing."""
    return command([shell, "-c", _SURVEY, "sh", login])


def read_survey(output: str, login: str) -> Survey:
    """Return what the survey told.

    Raises:
        Unsupported: the machine does not answer as Linux does.
    """
    lines = [line.partition("=") for line in output.splitlines()]
    facts = {name: value for name, _, value in lines}
    if not facts.get("uid", "").isdigit():
        raise Unsupported(
            "the machine's shell does not answer as Linux does", remedy="check the operating system field"
        )
    entries = [entry for entry in read_entries(facts.get("entry", "")) if entry.login == login]  # not found by number
    said = facts.get("said", "")
    return Survey(
        uid=int(facts["uid"]),
        entry=entries[0] if entries else None,
        sudo_works=facts.get("sudo") == "0",
        sudo_asks="password is required" in said,
        said=said,
        doas_works=facts.get("doas") == "0",
        tools=frozenset(facts.get("tools", "").split()),
    )


def read_entries(output: str) -> list[Entry]:
    """Return the accounts of ``getent passwd``; lines that are none are left out."""
    entries = []
    for line in output.splitlines():
        fields = line.split(":")
        if len(fields) == 7 and fields[2].isdigit() and fields[3].isdigit():
            entries.append(
                Entry(login=fields[0], uid=int(fields[2]), gid=int(fields[3]), home=fields[5], shell=fields[6])
            )
    return entries


_POLICY_WORDS = (
    "bad password", "too short", "too simple", "too similar", "too weak", "palindrome", "dictionary", "longer password",
    "must wait longer", "already used", "password unchanged", "not been changed", "must contain", "case changes only",
    "wrapped", "rotated", "choose a longer", "passes through",
)  # fmt: skip


_CHPASSWD_SAYS: tuple[tuple[tuple[str, ...], type[NotApplied], str, str | None], ...] = (
    (("command not found", "no such file"), Unsupported, "chpasswd did not run", "install the passwd package"),
    (
        ("sudo:", "sudoers", "not allowed to execute", "doas:"),
        Forbidden,
        "sudo refused",
        "allow the rotator chpasswd in sudoers",
    ),
    (_POLICY_WORDS, PolicyRefused, "the machine's rules refused the password", "change the record's complexity"),
    (("permission denied", "cannot lock"), Forbidden, "chpasswd changed nothing", "make the rotator root by sudo"),
    (("not changed", "changes ignored", "does not exist"), NotApplied, "chpasswd changed nothing", None),
)


def _words(said: str, *secrets: SecretValue | None) -> str:
    """Return the machine's words on one line, without anything secret that they may repeat."""
    for secret in secrets:
        if secret:
            said = said.replace(secret.reveal(), "***")
    return " ".join(said.split())[-300:]


def read_chpasswd(exit_code: int, said: str, *secrets: SecretValue | None) -> TargetError | None:
    """Return what ``chpasswd`` did not do, or None when it did it.

    Args:
        exit_code: of the command.
        said: both its streams.
        secrets: never to be repeated.
    """
    if exit_code == 0:
        return None
    low, words = said.lower(), _words(said, *secrets)
    for signs, kind, sentence, remedy in _CHPASSWD_SAYS:
        if any(sign in low for sign in signs):
            return kind(f"{sentence}: {words}", remedy=remedy)
    return AmbiguousReply(f"chpasswd ended with code {exit_code}: {words}")


def read_passwd(exit_code: int, said: str, *secrets: SecretValue | None) -> TargetError | None:
    """Return what ``passwd`` as the account itself did not do, or None when it did it."""
    if exit_code == 0:
        return None
    low, words = said.lower(), _words(said, *secrets)
    if any(
        policy in low.replace("password unchanged\n", "") for policy in _POLICY_WORDS if policy != "password unchanged"
    ):
        return PolicyRefused(f"the machine's rules refused the password: {words}", remedy="change the complexity")
    if (
        "authentication token manipulation error" in low
        or "authentication failure" in low
        or "password unchanged" in low
    ):
        if low.count("new password") > 0:  # it took the old one and asked for the new: so the new one was refused
            return PolicyRefused(f"the machine's rules refused the password: {words}", remedy="change the complexity")
        return AuthRejected(f"the present password was refused: {words}", remedy="check the user's record")
    if "not found" in low or exit_code in {126, 127}:
        return Unsupported(f"passwd did not run: {words}", remedy="install the passwd package")
    return AmbiguousReply(f"passwd ended with code {exit_code}: {words}")


def read_status(line: str) -> tuple[str, bool | None, datetime | None]:
    """Return login, whether it is locked, and when its password was set, from a line of ``passwd -S``."""
    fields = line.split()
    if len(fields) < 3:
        return "", None, None
    locked = {"L": True, "LK": True, "P": False, "PS": False, "NP": False}.get(fields[1])
    return fields[0], locked, _date(fields[2])


def _date(text: str) -> datetime | None:
    for form in ("%Y-%m-%d", "%m/%d/%Y", "%b %d, %Y"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def read_expiry(output: str) -> datetime | None:
    """Return when the account or its password expires, whichever is first, from ``chage -l``; None for never."""
    dates = []
    for line in output.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in {"password expires", "account expires"}:
            dates.append(_date(value.strip()))
    known = [date for date in dates if date is not None]
    return min(known) if known else None


def metadata_of(status: str, aging: str) -> AccountMetadata:
    """Return the account's metadata from the words of ``passwd -S`` and ``chage -l``."""
    _, locked, last_set = read_status(status)
    return AccountMetadata(last_set=last_set, locked=locked, expires=read_expiry(aging))

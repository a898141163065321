"""What a Mac is asked on its command line, and how its answers read. Pure text; no connection here."""

from __future__ import annotations

import plistlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from xml.parsers.expat import ExpatError

from connectors.base import AccountMetadata, Finding, Verdict, VerdictState
from connectors.linux.shell import Entry, Survey, command
from pam_jobs.errors import AmbiguousReply, Forbidden, PolicyRefused, TargetError, Unsupported
from pam_jobs.secret import SecretValue

__all__ = [
    "RESET",
    "read_accounts",
    "read_authentication",
    "read_metadata",
    "read_reset",
    "read_survey",
    "survey_command",
]

RESET: Final = ("sysadminctl", "-newPassword", "-", "-resetPasswordFor")
"""Sets a password that stands on its standard input; the login follows. It has run, whatever it did, when it ends with 0."""

_SURVEY: Final = (
    "LC_ALL=C; export LC_ALL; echo uid=$(id -u); echo system=$(uname -s); "
    'dscl . -read "/Users/$1" UniqueID PrimaryGroupID NFSHomeDirectory UserShell 2>/dev/null | sed "s/^/read=/"; '
    '[ "$(id -u)" = 0 ] || { said=$(sudo -n -l -- sysadminctl -newPassword - -resetPasswordFor "$1" 2>&1); '
    'echo "sudo=$?"; echo "said=$said"; }'
)
_PLIST: Final = re.compile(rb"<\?xml .*?</plist>", re.DOTALL)
_LINE: Final = re.compile(r"(?:dsAttrTypeStandard:)?(?P<name>[A-Za-z]+):(?P<value>.*)")


def survey_command(login: str) -> str:
    """Return the command that looks at the account and our rights, changing nothing."""
    return command(["/bin/sh", "-c", _SURVEY, "sh", login])


def read_survey(output: str, login: str) -> Survey:
    """Return what the survey told.

    Raises:
        Unsupported: the machine does not answer as macOS does.
    """
    facts: dict[str, str] = {}
    found: dict[str, str] = {}
    last = ""
    for line in output.splitlines():
        name, _, value = line.partition("=")
        if name != "read":
            facts[name] = value
        elif match := _LINE.fullmatch(value):
            last = match["name"]
            found[last] = match["value"].strip()
        elif value.startswith(" ") and last:  # a value with blanks stands on a line of its own
            found[last] = value.removeprefix(" ")
    if not facts.get("uid", "").isdigit() or facts.get("system") != "Darwin":
        raise Unsupported("the machine does not answer as macOS does", remedy="check the operating system field")
    said = facts.get("said", "")
    return Survey(
        uid=int(facts["uid"]),
        entry=_entry(found, login),
        sudo_works=facts.get("sudo") == "0",
        sudo_asks="password is required" in said,
        said=said,
        tools=frozenset({"sudo"}),
    )


def _entry(found: dict[str, str], login: str) -> Entry | None:
    uid, gid = found.get("UniqueID", ""), found.get("PrimaryGroupID", "0")
    if not re.fullmatch(r"-?\d+", uid):
        return None
    return Entry(
        login=login, uid=int(uid), gid=int(gid) if re.fullmatch(r"-?\d+", gid) else 0,
        home=found.get("NFSHomeDirectory", ""), shell=found.get("UserShell", ""),
    )  # fmt: skip


def read_accounts(output: str) -> Iterator[Finding]:
    """Yield the accounts of ``dscl . -list /Users UniqueID``; those below 500 are the system's."""
    for line in output.splitlines():
        name, _, uid = line.rstrip().rpartition(" ")
        if name.strip() and re.fullmatch(r"-?\d+", uid):
            is_system = int(uid) < 500 and int(uid) != 0
            facts: dict[str, str | bool | int] = {"uid": int(uid), "system": is_system}
            if is_system:
                facts["shell"] = "/usr/bin/false"
            yield Finding(kind="users", name=name.strip(), facts=facts)


def read_metadata(output: bytes) -> AccountMetadata:
    """Return what ``dscl . -read`` told of ``AuthenticationAuthority`` and ``accountPolicyData``; what is missing is not told.

    The second is a property list, and root alone sees it. Failed logins are counted there, and the lock that follows from
    them is a rule of each machine's own, so it is not told.
    """
    found = _PLIST.search(output)
    authority = re.search(rb"^(?:dsAttrTypeStandard:)?AuthenticationAuthority:", output, re.MULTILINE)
    disabled = b";DisabledUser;" in (output.replace(found[0], b"") if found else output)
    last_set = None
    if found is not None:
        try:
            seconds = plistlib.loads(found[0], fmt=plistlib.FMT_XML).get("passwordLastSetTime")
            last_set = (
                datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, (int, float)) and seconds > 0 else None
            )
        except (ValueError, OverflowError, OSError, AttributeError, plistlib.InvalidFileException, ExpatError):
            last_set = None
    return AccountMetadata(last_set=last_set, disabled=disabled if authority else None)


_RESET_SAYS: Final[tuple[tuple[tuple[str, ...], type[TargetError], str, str], ...]] = (
    (
        ("secure token", "securetoken"), Forbidden, "the account has a secure token, which a reset by root would not keep",
        "let the account change itself, or set its password once in System Settings",
    ),
    (("unknown user",), Unsupported, "there is no such account", "check the login in the user record"),
    (
        ("policy", "quality", "too short"), PolicyRefused, "the machine's rules refused the password",
        "change the record's complexity",
    ),
    (("not permitted", "permission", "sudo:"), Forbidden, "the reset is not permitted", "make the rotator an administrator"),
    (("command not found", "unknown option"), Unsupported, "sysadminctl did not run", "macOS 10.13 or later is needed"),
)  # fmt: skip


def read_reset(exit_code: int, said: str, *secrets: SecretValue | None) -> TargetError | None:
    """Return what ``sysadminctl`` did not do, or None when it says it is done; its exit code says nothing.

    Args:
        exit_code: of the command; other than 0, sudo or the shell failed before it.
        said: both its streams.
        secrets: never to be repeated.
    """
    for secret in secrets:
        if secret:
            said = said.replace(secret.reveal(), "***")
    low, words = said.lower(), " ".join(said.split())[-300:]
    for signs, kind, sentence, remedy in _RESET_SAYS:
        if any(sign in low for sign in signs):
            return kind(f"{sentence}: {words}", remedy=remedy)
    if exit_code == 0 and ("done" in low or "failed" not in low):
        return None
    return AmbiguousReply(f"sysadminctl ended with code {exit_code}: {words}")


_AUTHENTICATION: Final = (
    ("eDSAuthFailed", VerdictState.REFUSED, "wrong_password"),
    ("eDSAuthAccountDisabled", VerdictState.LOCKED, "disabled"),
    ("eDSAuthAccountInactive", VerdictState.LOCKED, "locked"),
    ("eDSAuthAccountExpired", VerdictState.LOCKED, "expired"),
    ("eDSAuthPasswordExpired", VerdictState.LOCKED, "expired"),
    ("eDSAuthNewPasswordRequired", VerdictState.ACCEPTED, "change_after_reset"),
)


def read_authentication(exit_code: int, said: str) -> Verdict | None:
    """Return what ``dscl . -authonly`` proved; None when it decided nothing."""
    if exit_code == 0:
        return Verdict(state=VerdictState.ACCEPTED)
    for name, state, cause in _AUTHENTICATION:
        if name in said:
            return Verdict(state=state, cause=cause, detail=f"the directory of the machine says {name}")
    return None

"""The dialogue that sshd holds with an account whose password must be changed before anything else."""

from __future__ import annotations

import re
from typing import Final

from connectors.base import Deadline, Fence
from connectors.linux.shell import read_passwd
from connectors.ssh.errors import FAILURES, map_error
from connectors.ssh.link import Output, SshLink
from pam_jobs.errors import AmbiguousReply, AuthRejected, Locked, PolicyRefused
from pam_jobs.secret import SecretValue

__all__ = ["PasswordExpired", "change_expired", "must_change_first"]

_OLD: Final = re.compile(r"(?:current|old)\b[^\n:]*password:\s*\Z", re.IGNORECASE)
_AGAIN: Final = re.compile(r"(?:retype|re-enter|repeat)\b[^\n:]*password[^\n:]*:\s*\Z", re.IGNORECASE)
_NEW: Final = re.compile(r"new\b[^\n:]*password:\s*\Z", re.IGNORECASE)


class PasswordExpired(Locked):
    """The rotator's password must be changed before it may do anything else."""

    def __init__(self) -> None:
        super().__init__(remedy="rotate its record without an administrator, or set its password by hand")


def must_change_first(output: Output) -> bool:
    """Say whether a command was answered by the demand to change the password, and not run."""
    said = output.said.lower()
    return output.exit_code != 0 and ("password change required" in said or "password has expired" in said)


def change_expired(link: SshLink, old: SecretValue, new: SecretValue, fence: Fence, deadline: Deadline) -> None:
    """Change the password of who is logged in, answering what ``passwd`` asks on a terminal.

    Effect on target: the account's password is the new one when this returns, and the server ends the connection.

    Args:
        link: on which the account is logged in.
        old: its password.
        new: without line breaks.
        fence: called immediately before the new password is first sent.
        deadline: bounds every wait.

    Raises:
        NotApplied: the password is certainly the old one.
        EffectUnknown: it may be either.
    """
    answers = _Answers(old, new, fence)
    try:
        output = link.converse(answers, deadline)
    except FAILURES as error:
        raise map_error(error, sent=answers.is_repeated) from None
    if answers.refusal is not None:
        raise answers.refusal
    failure = read_passwd(output.exit_code, output.said, old, new)
    if failure is not None:
        raise failure
    if not answers.is_repeated:
        raise AmbiguousReply("the machine ended the dialogue about the new password early")


class _Answers:
    """Knows what to say; until the new password was repeated the old one stays, whatever happens."""

    def __init__(self, old: SecretValue, new: SecretValue, fence: Fence) -> None:
        self._old = old
        self._new = new
        self._fence = fence
        self._asked_old = 0
        self._asked_new = 0
        self.is_repeated = False
        self.refusal: PolicyRefused | AuthRejected | None = None

    def __call__(self, text: str) -> bytes | None:
        """Return the answer to what stands at the end of the text; nothing while it is no question, None to hang up."""
        if _OLD.search(text):
            self._asked_old += 1
            if self._asked_old > 1:
                self.refusal = AuthRejected("the present password was refused", remedy="check the user's record")
                return None
            return f"{self._old.reveal()}\n".encode()
        if _AGAIN.search(text):
            self.is_repeated = True
            return f"{self._new.reveal()}\n".encode()
        if _NEW.search(text):
            self._asked_new += 1
            if self._asked_new > 1:  # it was not taken; the dialogue begins anew
                self.is_repeated = False
                remedy = "change the record's complexity"
                self.refusal = PolicyRefused("the machine's rules refused the password", remedy=remedy)
                return None
            self._fence()
            return f"{self._new.reveal()}\n".encode()
        return b""

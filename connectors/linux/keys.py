"""Reading and replacing a user's ``authorized_keys`` file, over SFTP as the user, or by sudo as the user."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import paramiko

from connectors.base import Deadline
from connectors.linux.rights import Rights
from connectors.linux.shell import SUM, command
from connectors.ssh.errors import FAILURES, map_error, mapped
from connectors.ssh.link import Output, SshLink
from pam_jobs.errors import AmbiguousReply, Forbidden, NotApplied, TargetError, Unsupported

__all__ = ["BACKUP_NAME", "KeyFile", "OwnKeyFile", "UserKeyFile"]

BACKUP_NAME = "authorized_keys.keeper-backup"
_FILE_BYTES = 1 << 20

_READ = 'f="$1/.ssh/authorized_keys"; [ -e "$f" ] || [ -L "$f" ] || exit 44; exec cat -- "$f"'
# A new file has SELinux's label of the folder it was made in; sshd reads it only with that of its place, which restorecon
# knows. It gets it while it still has another name, so that at no moment there is a file that nobody may read.
_LABEL = (
    'label() { ! command -v restorecon >/dev/null 2>&1 || restorecon -- "$@" >/dev/null 2>&1 || :; '
    '[ ! -e "$f" ] || chcon --reference="$f" -- "$t" >/dev/null 2>&1 || :; }; '
)
# Nothing is touched before the whole new text has arrived: a cut connection ends the input early, and the sum differs.
_WRITE = (
    SUM + _LABEL + 'set -eu; umask 077; d="$1/.ssh"; [ -d "$d" ] || mkdir -m 700 -- "$d"; f="$d/authorized_keys"; '
    '[ ! -L "$f" ] || f=$(readlink -f -- "$f"); t=$(mktemp -- "${f%/*}/.authorized_keys.XXXXXX"); '
    'trap \'rm -f -- "$t"\' EXIT; cat >"$t"; '
    '[ "$(h <"$t")" = "$3  -" ] || exit 46; '
    'if [ -e "$f" ]; then [ "$(h <"$f")" = "$2  -" ] || exit 45; '
    'b=$(mktemp -- "$d/.authorized_keys.XXXXXX"); cat "$f" >"$b"; chmod 600 "$b"; mv -f -- "$b" "$d/$4"; '
    'else [ "$2" = none ] || exit 45; fi; '
    'chmod 600 "$t"; label "$d" "$t"; echo replacing; mv -f -- "$t" "$f"; sync -- "$f" 2>/dev/null || :; echo replaced'
)
_ABSENT, _CHANGED, _CUT = 44, 45, 46


class KeyFile(Protocol):
    """One user's file."""

    def read(self) -> bytes | None:
        """Return the file, or None when there is none."""
        ...

    def write(self, old: bytes | None, new: bytes, before: Callable[[], None]) -> None:
        """Replace the file in one step, keeping the old one as a backup.

        Args:
            old: what was read; when the file is no longer that, nothing is changed.
            new: the whole new file.
            before: called immediately before the first change.

        Raises:
            NotApplied: the file is as it was.
            EffectUnknown: it may have been replaced.
        """
        ...


def _sum(text: bytes | None) -> str:
    return "none" if text is None else hashlib.sha256(text).hexdigest()


def _changed_meanwhile() -> NotApplied:
    return NotApplied("somebody else changed authorized_keys meanwhile", remedy="try again")


@dataclass(frozen=True, kw_only=True)
class UserKeyFile:
    """Another user's file, through a fixed script that sudo runs as that user."""

    rights: Rights
    login: str
    home: str

    def read(self) -> bytes | None:
        """Return the file, or None when there is none."""
        with mapped(sent=False):
            result = self._run(_READ, [self.home], b"")
        if result.exit_code == _ABSENT:
            return None
        if result.exit_code != 0:
            raise _refused(result, "read")
        return result.stdout

    def write(self, old: bytes | None, new: bytes, before: Callable[[], None]) -> None:
        """Replace the file; see ``KeyFile``."""
        sent = False

        def start() -> None:
            nonlocal sent
            before()
            sent = True

        arguments = [self.home, _sum(old), _sum(new), BACKUP_NAME]
        try:
            result = self._run(_WRITE, arguments, new, on_start=start)
        except FAILURES as error:
            raise map_error(error, sent=sent) from None
        if result.exit_code == 0 and result.stdout.endswith(b"replaced\n"):
            return
        if result.exit_code == _CHANGED:
            raise _changed_meanwhile()
        if b"replacing" in result.stdout:
            raise AmbiguousReply("the machine did not say whether authorized_keys was replaced")
        raise _refused(result, "write")

    def _run(
        self, script: str, arguments: list[str], stdin: bytes, on_start: Callable[[], None] | None = None
    ) -> Output:
        argv = self.rights.as_user(self.login, [self.rights.shell, "-c", script, "sh", *arguments])
        text = self.rights.password_input(self.rights.sudo) + stdin
        return self.rights.link.execute(command(argv), self.rights.deadline, stdin=text, on_start=on_start)


def _refused(result: Output, verb: str) -> NotApplied:
    said = " ".join(result.stderr.decode(errors="replace").split())[-200:]
    remedy = "allow the rotator /bin/sh as this user in sudoers, and let the user own ~/.ssh"
    return Forbidden(
        f"the machine did not let us {verb} authorized_keys (code {result.exit_code}): {said}", remedy=remedy
    )


@dataclass(frozen=True, kw_only=True)
class OwnKeyFile:
    """The rotator's own file, over SFTP."""

    link: SshLink
    deadline: Deadline

    def read(self) -> bytes | None:
        """Return the file, or None when there is none."""
        try:
            with self.link.files(self.deadline) as files:
                return _read(files, ".ssh/authorized_keys")
        except FAILURES as error:
            raise _explained(error, sent=False) from None

    def write(self, old: bytes | None, new: bytes, before: Callable[[], None]) -> None:
        """Replace the file; see ``KeyFile``."""
        sent = False
        try:
            with self.link.files(self.deadline) as files:
                path, temporary = _prepare(files, old, new)
                before()
                sent = True
                files.posix_rename(temporary, path)
        except FAILURES as error:
            raise _explained(error, sent=sent) from None


def _explained(error: Exception, *, sent: bool) -> TargetError:
    """Return our error; a refusal of the server is an answer, so nothing was renamed."""
    if isinstance(error, PermissionError):
        return Forbidden("the machine did not let us at authorized_keys", remedy="let the user own ~/.ssh")
    if isinstance(error, paramiko.ChannelException):
        return Unsupported("the server gives no SFTP", remedy="add Subsystem sftp to sshd_config")
    return map_error(error, sent=sent)


def _read(files: paramiko.SFTPClient, path: str) -> bytes | None:
    try:
        with files.open(path, "rb") as opened:
            return opened.read(_FILE_BYTES)
    except FileNotFoundError:
        return None


def _prepare(files: paramiko.SFTPClient, old: bytes | None, new: bytes) -> tuple[str, str]:
    """Write the backup and the new file beside the old one; return the old and the new path.

    Raises:
        NotApplied: the old file is no longer what was read.
    """
    with contextlib.suppress(OSError):  # it is there already
        files.mkdir(".ssh", 0o700)
    path = ".ssh/authorized_keys"
    with contextlib.suppress(OSError):
        if stat.S_ISLNK(files.lstat(path).st_mode or 0):  # renaming over a link would put a file in its place
            path = files.normalize(path)
    if _read(files, path) != old:
        raise _changed_meanwhile()
    if old is not None:
        _put(files, f".ssh/.{BACKUP_NAME}.new", old)
        files.posix_rename(f".ssh/.{BACKUP_NAME}.new", f".ssh/{BACKUP_NAME}")
    temporary = posixpath.join(posixpath.dirname(path), f".authorized_keys.{secrets.token_hex(6)}")
    _put(files, temporary, new)
    return path, temporary


def _put(files: paramiko.SFTPClient, path: str, content: bytes) -> None:
    with files.open(path, "wb") as opened:
        opened.chmod(0o600)
        opened.write(content)

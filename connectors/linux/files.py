"""Private files of ours on a machine, for scripts that run there."""

from __future__ import annotations

import hashlib
import re
import shlex

from connectors.base import Deadline
from connectors.linux.shell import SUM, command
from connectors.ssh.errors import mapped
from connectors.ssh.link import SshLink
from pam_jobs.errors import NotApplied, Unsupported

__all__ = ["ScriptFiles"]

_UPLOAD = (
    SUM + 'set -eu; umask 077; d=$(mktemp -d -- "$1/pam-jobs.XXXXXXXXXX"); trap \'rm -rf -- "$d"\' EXIT; cat >"$d/$2"; '
    '[ "$(h <"$d/$2")" = "$3  -" ] || exit 46; chmod 700 "$d/$2"; trap - EXIT; printf %s "$d/$2"'
)
_REMOVE = 'rm -rf -- "$1"'
_PATH = re.compile(r"(?P<folder>/(?:.*/)?pam-jobs\.[A-Za-z0-9]{10})/(?P<name>[^/\x00]+)", re.DOTALL)
_DEFAULT_FOLDER = "/tmp"  # noqa: S108 - mktemp makes the private folder in it


class ScriptFiles:
    """Files of one session."""

    def __init__(self, link: SshLink, deadline: Deadline) -> None:
        self._link = link
        self._deadline = deadline

    def upload(self, parent: str, name: str, content: bytes) -> str:
        """Write a file (0700) into a new folder (0700) and return its path; a half-written one is removed.

        Args:
            parent: an existing folder of the machine; empty for /tmp.
            name: of the file, without a slash.
            content: of the file.

        Raises:
            Unsupported: the name is none.
            NotApplied: the file is not there.
        """
        if not name or "/" in name or "\0" in name or name in {".", ".."}:
            raise Unsupported("the script's name is no name of a file", remedy="rename the attachment")
        total = hashlib.sha256(content).hexdigest()
        line = command(["/bin/sh", "-c", _UPLOAD, "sh", parent or _DEFAULT_FOLDER, name, total])
        with mapped(sent=False):
            output = self._link.execute(line, self._deadline, stdin=content)
        path = output.stdout.decode(errors="replace")
        if output.exit_code != 0 or not _PATH.fullmatch(path):
            said = " ".join(output.stderr.decode(errors="replace").split())[-200:]
            raise NotApplied(f"the script could not be put on the machine: {said}", remedy="check space and rights")
        return path

    def remove(self, path: str) -> None:
        """Remove a file that ``upload`` wrote, with its folder.

        Raises:
            Unsupported: no upload makes such a path.
            NotApplied: it is still there, or the machine did not answer.
        """
        match = _PATH.fullmatch(path)
        if match is None or ".." in path.split("/"):
            raise Unsupported(f"{shlex.quote(path)} is none of our files")
        with mapped(sent=False):
            output = self._link.execute(command(["/bin/sh", "-c", _REMOVE, "sh", match["folder"]]), self._deadline)
        if output.exit_code != 0:
            raise NotApplied("the script's folder could not be removed", remedy=f"remove {match['folder']} by hand")

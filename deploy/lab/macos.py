"""An emulated Mac: the lab's real sshd with commands that stand in for those of macOS, over real accounts.

Login, sudo, files and keys are real; ``dscl``, ``sysadminctl``, ``sw_vers`` and ``uname`` are emulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.lab import sshd
from deploy.lab.sshd import SshServer, obstacles, stop

__all__ = ["MINIMUM_LENGTH", "SECURE_TOKENS", "obstacles", "start", "stop"]

SECURE_TOKENS = "/etc/lab-secure-tokens"
"""In the machine: logins, one a line, whose password nobody resets without a secure token."""

MINIMUM_LENGTH = "/etc/lab-minimum-length"
"""In the machine: how long a password must be; nothing: any."""

_NOBODY = "<dscl_cmd> DS Error: -14136 (eDSRecordNotFound)"

_DSCL = r"""#!/bin/bash
# stands in for dscl of macOS: list, read, authonly
[ "$1" = . ] || { echo "Data source ($1) is not valid." >&2; exit 250; }
user=${3#/Users/}
found() { getent passwd -- "$user" >/dev/null || { echo "NOBODY" >&2; exit 56; }; }
case "$2" in
-list)
  getent passwd | while IFS=: read -r name _ uid _; do printf '%-24s%s\n' "$name" "$uid"; done ;;
-read)
  found; IFS=: read -r name _ uid gid _ home shell <<<"$(getent passwd -- "$user")"
  case " $* " in *" AuthenticationAuthority "*)
    IFS=: read -r _ stored day _ <<<"$(getent shadow -- "$user")"
    if [ -n "$day" ]; then  # root alone sees it
      printf 'dsAttrTypeNative:accountPolicyData:\n <?xml version="1.0" encoding="UTF-8"?>\n'
      printf '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n'
      printf '<plist version="1.0">\n<dict>\n\t<key>failedLoginCount</key>\n\t<integer>0</integer>\n'
      printf '\t<key>passwordLastSetTime</key>\n\t<real>%s.25</real>\n</dict>\n</plist>\n\n' "$((day * 86400))"
    else
      echo "No such key: accountPolicyData" >&2
    fi
    case "$stored" in '!'*) disabled=";DisabledUser;" ;; esac
    printf 'AuthenticationAuthority: %s;ShadowHash;HASHLIST:<SALTED-SHA512-PBKDF2>\n' "$disabled"; exit 0 ;;
  esac
  printf 'NFSHomeDirectory: %s\nPrimaryGroupID: %s\nUniqueID: %s\nUserShell:\n %s\n' "$home" "$gid" "$uid" "$shell" ;;
-authonly)
  found; [ $# = 3 ] || exit 64
  printf 'Password: ' >&2; IFS= read -r password
  stored=$(getent shadow -- "$user" | cut -d: -f2)
  case "$stored" in
  '!'*) echo "Authentication for node /Local/Default failed. (-14169, eDSAuthAccountDisabled)" >&2; exit 167 ;;
  esac
  PW=$password STORED=$stored perl -e 'exit(crypt($ENV{PW}, $ENV{STORED}) eq $ENV{STORED} ? 0 : 1)' && exit 0
  echo "Authentication for node /Local/Default failed. (-14090, eDSAuthFailed)" >&2; exit 185 ;;
*) exit 64 ;;
esac
"""

_SYSADMINCTL = r"""#!/bin/bash
# stands in for sysadminctl of macOS, which answers on standard error and ends with 0 whatever it did
say() { echo "$(date '+%F %T.000') sysadminctl[$$:1] $*" >&2; exit 0; }
while [ $# -gt 0 ]; do
  case "$1" in
  -resetPasswordFor) user=$2; shift ;;
  -newPassword) password=$2; shift ;;
  *) say "unknown option $1" ;;
  esac
  shift
done
[ "$password" = - ] || say "the lab takes no password as a word of the command"
printf 'New password: ' >&2; IFS= read -r password
getent passwd -- "$user" >/dev/null || say "Unknown user $user"
[ "$(id -u)" = 0 ] || say "Operation is not permitted without secure token unlock."
! grep -qsxF -- "$user" SECURE_TOKENS || say "Operation is not permitted without secure token unlock."
[ ${#password} -ge "$(cat MINIMUM 2>/dev/null || echo 0)" ] || say "resetting password for $user failed: Password does not meet policy requirements (eDSAuthPasswordQualityCheckFailed)"
printf '%s:%s\n' "$user" "$password" | /usr/sbin/chpasswd || say "resetting password for $user failed"
say "- Done"
"""

_COMMANDS = {
    "dscl": _DSCL.replace("NOBODY", _NOBODY),
    "sysadminctl": _SYSADMINCTL.replace("SECURE_TOKENS", SECURE_TOKENS).replace("MINIMUM", MINIMUM_LENGTH),
    "sw_vers": "#!/bin/sh\necho 14.5\n",
    "uname": "#!/bin/sh\necho Darwin\n",
}


def start(folder: Path, *, users: Mapping[str, str] | None = None, sudoers: Sequence[str] = ()) -> SshServer:
    """Start an emulated Mac; see ``sshd.start``.

    Raises:
        LabError: it cannot run here, or did not start.
    """
    server = sshd.start(folder, users=users, sudoers=sudoers)
    server.add_commands(_COMMANDS)
    return server

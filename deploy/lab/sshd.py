"""A real sshd with real users, PAM and sudo, in a mount namespace whose /etc and /home are copies.

``useradd``, ``chpasswd`` and ``sudo`` in there change nothing of the machine. It needs root and Linux.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.lab.processes import LabError, Process, end, free_port, new_password, spawn, write_private

__all__ = ["SshServer", "obstacles", "start", "stop"]

_START_SECONDS = 30.0
_STATE = "sshd.json"
_PROCESS = "sshd.pid.json"
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Runs inside the new mount namespace, and ends as the sshd itself, so that the pid we remember is the server's.
_INSIDE = """
set -eu; dir=$1
cp -a /etc "$dir/etc"
mount --bind "$dir/etc" /etc
mount --bind "$dir/home" /home
mkdir -p /run/sshd; chmod 755 /run/sshd
while read -r login; do id -u -- "$login" >/dev/null 2>&1 || useradd -m -s /bin/bash -- "$login"; done <"$dir/users"
chpasswd <"$dir/passwords"; rm -f "$dir/passwords"
home=/home/$2
install -d -m 700 -o "$2" -g "$2" "$home/.ssh"
install -m 600 -o "$2" -g "$2" "$dir/admin_key.pub" "$home/.ssh/authorized_keys"
install -m 440 "$dir/sudoers" /etc/sudoers.d/pam-lab
sed -i '/pam_loginuid/d' /etc/pam.d/sshd
[ "$3" = real ] || sed -i 's/pam_unix.so/pam_unix.so nodelay/' /etc/pam.d/common-auth
exec "$4" -D -e -f "$dir/sshd_config"
"""


@dataclass(frozen=True, kw_only=True)
class SshServer:
    """A running sshd of the lab."""

    host: str
    port: int
    admin_login: str
    admin_password: str = field(repr=False)
    admin_private_key: str = field(repr=False)  # PEM
    admin_public_key: str  # "type base64"
    host_key: str  # "type base64"
    folder: Path
    log_path: Path
    process: Process

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command as root among the server's own files, and wait for it.

        Raises:
            LabError: it ended with a code other than 0.
        """
        command = ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "--", *argv]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, env=_environment())
        if done.returncode != 0:
            raise LabError(f"{argv[0]} in the lab failed: {done.stderr.decode(errors='replace').strip()}")
        return done

    def add_user(self, login: str, password: str, *, shell: str = "/bin/bash") -> None:
        """Create a user with a home folder and a password."""
        self.run(["useradd", "-m", "-s", shell, "--", login])
        self.run(["chpasswd"], f"{login}:{password}\n".encode())

    def add_commands(self, commands: Mapping[str, str]) -> None:
        """Put scripts into /usr/local/bin, of this server's view of the machine alone: emulated commands, found first.

        Args:
            commands: name to text.
        """
        place = "/home/.commands"
        self.run(["install", "-d", "-m", "755", place])
        for name, text in commands.items():
            path = f"{place}/{name}"
            self.run(["sh", "-c", 'cat >"$1"; chmod 755 "$1"', "sh", path], text.encode())
        self.run(["mount", "--bind", place, "/usr/local/bin"])

    def hide(self, *paths: str) -> None:
        """Let programs be missing, in this server's view of the machine alone."""
        for path in paths:
            self.run(["mount", "--bind", "/dev/null", path])

    def stop(self) -> None:
        """Stop the server; harmless when it is down."""
        stop(self.folder)


def _environment() -> dict[str, str]:
    return {"PATH": _SBIN, "LC_ALL": "C"}


def _sshd() -> str | None:
    return shutil.which("sshd", path=_SBIN)


def obstacles() -> list[str]:
    """Return what stands against an sshd of the lab on this machine, one sentence each; empty when nothing does."""
    found = []
    if os.geteuid() != 0:
        found.append("the SSH lab needs root, because it makes users in a private copy of /etc")
    if _sshd() is None:
        found.append("there is no sshd (apt-get install openssh-server)")
    for program, package in (("sudo", "sudo"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        if shutil.which(program, path=_SBIN) is None:
            found.append(f"there is no {program} (apt-get install {package})")
    if not found:
        tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False, env=_environment())
        if tried.returncode != 0:
            found.append("this machine lets nobody make a mount namespace (a container needs CAP_SYS_ADMIN)")
    return found


def start(
    folder: Path,
    *,
    users: Mapping[str, str] | None = None,
    sudoers: Sequence[str] = (),
    max_startups: str = "60:30:100",
    real_delay: bool = False,
    settings: Sequence[str] = (),
) -> SshServer:
    """Start a new sshd; its state is in the folder, its secrets in files of mode 0600.

    Args:
        folder: an existing or new folder; what an earlier sshd of the lab left there is removed.
        users: login to password, created beside the admin ``labadmin``, who may do everything by sudo.
        sudoers: more lines of sudo rules.
        max_startups: unauthenticated connections, as in ``sshd_config``; the distribution's own is 10:30:100.
        real_delay: keep PAM's pause of some seconds after a wrong password.
        settings: more lines of ``sshd_config``.

    Raises:
        LabError: it cannot run here (every obstacle is named), or did not start.
    """
    against = obstacles()
    if against:
        raise LabError("no SSH server in the lab: " + "; ".join(against))
    folder = folder.resolve()
    stop(folder)
    base = folder / "sshd"
    (base / "home").mkdir(mode=0o755, parents=True)
    base.chmod(0o700)
    password = new_password()
    everybody = {"labadmin": password, **(users or {})}
    write_private(base / "users", "".join(f"{login}\n" for login in everybody))
    write_private(base / "passwords", "".join(f"{login}:{value}\n" for login, value in everybody.items()))
    write_private(base / "sudoers", "\n".join(("labadmin ALL=(ALL:ALL) NOPASSWD: ALL", *sudoers, "")))
    for name in ("host_key", "admin_key"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(base / name)]
        subprocess.run(argv, check=True, capture_output=True)
    port, process = _run(base, max_startups, settings, "real" if real_delay else "none")
    server = SshServer(
        host="127.0.0.1", port=port, admin_login="labadmin", admin_password=password,
        admin_private_key=(base / "admin_key").read_text(), admin_public_key=_public(base / "admin_key.pub"),
        host_key=_public(base / "host_key.pub"), folder=folder, log_path=base / "log", process=process,
    )  # fmt: skip
    process.save(folder / _PROCESS)
    write_private(
        folder / _STATE,
        json.dumps({
            "host": server.host, "port": port, "login": server.admin_login, "password": password,
            "private_key": str(base / "admin_key"), "host_key": server.host_key, "log": str(server.log_path),
            "users": dict(users or {}),
        }, indent=1),
    )  # fmt: skip
    return server


def _public(path: Path) -> str:
    return " ".join(path.read_text().split()[:2])


def _configuration(base: Path, port: int, max_startups: str, settings: Sequence[str]) -> str:
    lines = [
        *settings,  # sshd takes the first value it reads, so these win
        f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {base / 'host_key'}", "PidFile none", "UsePAM yes",
        "PasswordAuthentication yes", "KbdInteractiveAuthentication no", "PermitRootLogin yes", "UseDNS no",
        f"MaxStartups {max_startups}", "Subsystem sftp internal-sftp", "LogLevel VERBOSE",
    ]  # fmt: skip
    return "\n".join((*lines, ""))


def _run(base: Path, max_startups: str, settings: Sequence[str], delay: str) -> tuple[int, Process]:
    """Start sshd on a free port and wait until it listens."""
    port = free_port()
    write_private(base / "sshd_config", _configuration(base, port, max_startups, settings))
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _INSIDE, "sh"]
    argv += [str(base), "labadmin", delay, str(_sshd())]
    process = spawn(argv, base / "log", environment=_environment())
    if process.listens(port, seconds=_START_SECONDS):
        return port, process
    raise LabError(f"sshd did not start: {(base / 'log').read_text().strip()[-500:]}")


def stop(folder: Path) -> None:
    """Stop the sshd whose state the folder holds and remove it; harmless when there is none."""
    end(folder, "sshd")
    shutil.rmtree(folder / "sshd", ignore_errors=True)  # bind mounts lived in the namespace and went with it

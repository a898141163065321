"""An emulated Cisco IOS XE: SSH, privilege levels, running and startup configuration, type 9 secrets, quiet mode.

It looks logins up in the running configuration and forgets at a reload what was not saved. ``lab …`` commands, which no
Cisco has, let tests fill its nvram, hold its configuration, deny commands and reload it.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path

import asyncssh

from connectors.network.secrets import type9
from deploy.lab import emulated
from deploy.lab.emulated import EmulatedServer, Settings
from pam_jobs.secret import SecretValue

__all__ = ["Device", "main", "start"]

_INVALID = "                ^\n% Invalid input detected at '^' marker.\n"
_EXEC_TIMEOUT_SECONDS = 600.0
_WORDS = re.compile(
    r"username (\S+)(?: privilege (\d+))?(?: algorithm-type scrypt)? (secret|password) (?:(\d) )?(\S+)$"
)
_BAD_TRIES = 3


class Device:
    """What all sessions share."""

    def __init__(self, settings: Settings) -> None:
        self.admin = settings.admin_login
        self.running = {"enable": f"enable secret 9 {type9(SecretValue(settings.admin_password))}"}
        self.set_user(settings.admin_login, settings.admin_password, "15")
        self.startup = dict(self.running)
        self.switches: dict[str, str] = {}
        self.quiet_until = 0.0
        self.shells: set[Shell] = set()
        self._log = settings.log_path.open("a", buffering=1)

    def log(self, text: str) -> None:
        """Write what the device would show to its own administrator: every command line (archive log config)."""
        self._log.write(text + "\n")

    def set_user(self, name: str, password: str, level: str = "1") -> None:
        """Make a user as by hand."""
        self.running[f"user {name}"] = f"username {name} privilege {level} secret 9 {type9(SecretValue(password))}"

    def takes(self, key: str, password: str) -> bool:
        """Say whether a password belongs to a line of the running configuration."""
        line = self.running.get(key, "")
        found = re.search(r"secret 9 (\$9\$(.{14})\$\S+)$", line)
        if found:
            return type9(SecretValue(password), found[2]) == found[1]
        plain = re.search(r"password 0 (\S+)$", line)
        return plain is not None and plain[1] == password

    def level(self, name: str) -> int:
        """Return the privilege level of a user."""
        found = re.search(r"privilege (\d+)", self.running.get(f"user {name}", ""))
        return int(found[1]) if found else 1

    def lab(self, words: list[str]) -> str:
        """Do what a test asks for."""
        match words:
            case ["user", name, level, password]:
                self.set_user(name, bytes.fromhex(password).decode(), level)
            case ["reload"]:
                self.running = dict(self.startup)
            case ["quiet", seconds]:
                self.quiet_until = time.monotonic() + float(seconds)
            case ["exec-timeout"]:  # of every command line that waits for a key, now
                for shell in list(self.shells):
                    shell.hang_up()
            case ["set", name, *value]:
                self.switches[name] = " ".join(value)
            case _:
                return _INVALID
        return ""


class Login(asyncssh.SSHServer):
    """One connection."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._name = ""
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        if time.monotonic() < self._device.quiet_until:  # login block-for: nobody is let in, nothing is looked at
            conn.abort()

    def begin_auth(self, username: str) -> bool:
        self._name = username
        if self._connection is not None:  # a client that tries a second method asks for the service anew
            self._connection._next_service = b"ssh-userauth"  # noqa: SLF001
        return True

    def password_auth_supported(self) -> bool:
        return self._device.switches.get("keyboard") != self._name

    def kbdint_auth_supported(self) -> bool:
        return True

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> object:  # noqa: ARG002
        return "", "", "", [("Password: ", False)]

    def validate_kbdint_response(self, username: str, responses: list[str]) -> bool:
        return len(responses) == 1 and self.validate_password(username, responses[0])

    def validate_password(self, username: str, password: str) -> bool:
        taken = self._device.takes(f"user {username}", password)
        self._device.log(f"%SEC_LOGIN-{'5-LOGIN_SUCCESS' if taken else '4-LOGIN_FAILED'}: [user: {username}]")
        return taken


class Shell:
    """One command line."""

    def __init__(self, device: Device, process: asyncssh.SSHServerProcess[str], name: str) -> None:
        self._device = device
        self._process = process
        self._level = device.level(name)
        self._configuring = False
        self._page = 24
        self._is_over = False

    async def run(self) -> None:
        """Answer until the session ends."""
        while not self._is_over:
            mode = "(config)#" if self._configuring else ("#" if self._level > 1 else ">")
            line = await self._read(f"\r\nlab-router{mode}")
            if line is None:
                return
            if line:
                self._device.log(f"%PARSER-5-CFGLOG: {line}")
            answer = await self._answer(line.strip())
            await self._print(answer)

    def hang_up(self) -> None:
        """End the connection, as the device does with one that was idle for its exec-timeout."""
        self._process.channel.get_connection().close()

    async def _read(self, prompt: str, *, echo: bool = True) -> str | None:
        self._process.stdout.write(prompt)
        line = ""
        while True:
            try:
                key = await asyncio.wait_for(self._process.stdin.read(1), _EXEC_TIMEOUT_SECONDS)
            except (TimeoutError, asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
                self.hang_up()
                return None
            if not key:
                return None
            if key in "\r\n":
                self._process.stdout.write("\r\n")
                return line
            if key == "?" and echo:  # help, at once, in the middle of whatever is typed
                self._process.stdout.write(f"?\r\n% Unrecognized command\r\nlab-router#{line}")
                continue
            line += key
            if echo:
                self._process.stdout.write(key)

    async def _print(self, text: str) -> None:
        for number, line in enumerate(text.splitlines(), 1):
            self._process.stdout.write(line + "\r\n")
            if self._page and number % self._page == 0:
                self._process.stdout.write(" --More-- ")
                await self._process.stdin.read(1)
                self._process.stdout.write("\b" * 10 + " " * 10 + "\b" * 10)

    async def _answer(self, line: str) -> str:  # noqa: PLR0911 - one for each command
        denied = self._device.switches.get("deny")
        if denied and re.search(denied, line):
            return "Command authorization failed.\n"
        if self._configuring:
            return self._configure(line)
        if line.startswith("enable"):
            return await self._enable()
        if line.startswith("terminal length "):
            self._page = int(line.rsplit(maxsplit=1)[-1])
            return ""
        if line == "disable":
            self._level = 1
            return ""
        if line in {"exit", "logout"}:
            self._is_over = True
            return ""
        return "" if not line or line.startswith("terminal width") else self.privileged(line)

    def privileged(self, line: str) -> str:  # noqa: PLR0911 - one for each command
        """Answer a command of privilege level 15."""
        device = self._device
        if line.startswith("show version"):
            return "Cisco IOS XE Software, Version 17.09.04a (emulated)\n"
        if self._level < 15:
            return _INVALID
        if line.startswith("show ") and "-config" in line:
            lines = (device.running if "running" in line else device.startup).values()
            wanted = line.partition("| include ")[2]
            filler = [f"interface GigabitEthernet0/{number}" for number in range(40)]
            return "".join(f"{each}\n" for each in [*lines, *filler] if re.search(wanted, each))
        if line == "configure terminal":
            if device.switches.get("held"):
                return "Configuration mode is locked by process '212' user 'somebody' from terminal '2'.\n"
            self._configuring = True
            return "Enter configuration commands, one per line.  End with CNTL/Z.\n"
        if line == "write memory":
            if device.switches.get("full"):
                return "startup-config file open failed (Not enough space)\n"
            device.startup = dict(device.running)
            return "Building configuration...\n[OK]\n"
        return device.lab(line.split()[1:]) if line.startswith("lab ") else _INVALID

    def _configure(self, line: str) -> str:
        if line in {"end", "exit"}:
            self._configuring = False
            return ""
        if re.fullmatch(r"enable secret 9 \$9\$\S{14}\$\S{43}", line):
            self._device.running["enable"] = line
            return ""
        found = _WORDS.fullmatch(line)
        if found is None:
            return "" if not line else _INVALID
        name, level, kind, number, value = found.groups()
        before = self._device.running.get(f"user {name}", "")
        if kind == "secret" and " password " in before:
            return "ERROR: Can not have both a user password and a user secret.\nPlease choose one or the other.\n"
        if kind == "secret" and number == "9" and not re.fullmatch(r"\$9\$\S{14}\$\S{43}", value):
            return "ERROR: The secret you entered is not a valid encrypted secret.\n"
        if kind == "secret" and number != "9":
            value = type9(SecretValue(value))
        level = level or str(self._device.level(name))
        number = "9" if kind == "secret" else "0"
        self._device.running[f"user {name}"] = f"username {name} privilege {level} {kind} {number} {value}"
        return ""

    async def _enable(self) -> str:
        if self._level > 1:
            return ""
        for _ in range(_BAD_TRIES):
            typed = await self._read("Password: ", echo=False)
            if typed is None or self._device.takes("enable", typed):
                self._level = 15
                return ""
        return "% Bad secrets\n"


def start(folder: Path) -> EmulatedServer:
    """Start a new emulated device with the administrator ``netadmin``.

    Args:
        folder: an existing or new folder.

    Raises:
        LabError: it did not start.
    """
    return emulated.start(folder, "ios_xe", login="netadmin")


def stop(folder: Path) -> None:
    """Stop the device whose state the folder holds; harmless when there is none."""
    emulated.stop(folder, "ios_xe")


async def _serve(settings: Settings) -> None:
    device = Device(settings)

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        name = str(process.get_extra_info("username"))
        shell = Shell(device, process, name)
        if process.command:
            process.stdout.write(shell.privileged(process.command))
        else:
            device.shells.add(shell)
            try:
                await shell.run()
            finally:
                device.shells.discard(shell)
        process.exit(0)

    await asyncssh.create_server(
        lambda: Login(device), "127.0.0.1", settings.port, process_factory=session, line_editor=False,
        server_host_keys=[asyncssh.generate_private_key("ecdsa-sha2-nistp256")], server_version="Cisco-1.25",
    )  # fmt: skip
    await asyncio.Event().wait()


def main(path: Path) -> None:
    """Serve until the process is ended."""
    asyncio.run(_serve(Settings.read(path)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""An emulated device of no particular make: passwords are asked for at prompts, and forgotten at a restart unless saved."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncssh

from deploy.lab.emulated import Settings

__all__ = ["main"]


class _Login(asyncssh.SSHServer):
    def __init__(self, users: dict[str, str]) -> None:
        self._users = users

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return self._users.get(username) == password


async def _command_line(process: asyncssh.SSHServerProcess[str], users: dict[str, str], saved: dict[str, str]) -> None:
    async def read(prompt: str, *, echo: bool = True) -> str:
        process.stdout.write(prompt)
        line = ""
        while (key := await process.stdin.read(1)) not in {"\r", "\n", ""}:
            line += key
            process.stdout.write(key if echo else "")
        process.stdout.write("\r\n")
        return line

    while not process.stdin.at_eof():
        words = (await read("switch> ")).split()
        match words:
            case ["show", "user", name]:
                process.stdout.write(f"{name}\r\n" if name in users else "error: no such user\r\n")
            case ["password", "user", name] if name in users:
                first = await read("New password: ", echo=False)
                again = await read("Repeat password: ", echo=False)
                if len(first) < 8 or first != again:
                    process.stdout.write("error: too short, or they do not match\r\n")
                else:
                    users[name] = first
            case ["save"]:
                saved.update(users)
                process.stdout.write("saved\r\n")
            case ["restart"]:
                users.update(saved)
            case []:
                pass
            case _:
                process.stdout.write("error: no such command\r\n")


async def _serve(settings: Settings) -> None:
    users = {settings.admin_login: settings.admin_password, "operator": "First-1-Secret"}
    saved = dict(users)
    await asyncssh.create_server(
        lambda: _Login(users), "127.0.0.1", settings.port, line_editor=False,
        process_factory=lambda process: _command_line(process, users, saved),
        server_host_keys=[asyncssh.generate_private_key("ecdsa-sha2-nistp256")],
    )  # fmt: skip
    await asyncio.Event().wait()


def main(path: Path) -> None:
    """Serve until the process is ended."""
    asyncio.run(_serve(Settings.read(path)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

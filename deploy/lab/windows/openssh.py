"""OpenSSH for Windows in front of an emulated machine; the server is asyncssh, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import asyncssh

from deploy.lab.windows.machine import Code, Machine
from deploy.lab.windows.programs import execute

__all__ = ["WindowsSshServer"]

_BANNER = "OpenSSH_for_Windows_9.5"


class WindowsSshServer:
    """One listener of a machine. Every account with a password that logs on gets in, as on Windows."""

    def __init__(self, machine: Machine, *, port: int = 0) -> None:
        """Listen on loopback.

        Args:
            machine: what answers.
            port: 0 for a free one.
        """
        self.machine = machine
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = key.export_public_key().decode().strip()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="windows-ssh")
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(self._listen(key, port), self._loop)
        self._acceptor: Any = listening.result(timeout=20)
        self.port: int = self._acceptor.get_port()

    async def _listen(self, key: Any, port: int) -> Any:
        machine = self.machine

        class Login(asyncssh.SSHServer):
            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                return machine.log_on(username, password) is Code.OK

        return await asyncssh.listen(
            "127.0.0.1", port, server_factory=Login, process_factory=self._run, server_host_keys=[key], encoding=None,
            server_version=_BANNER, allow_scp=False,
        )  # fmt: skip

    async def _run(self, process: Any) -> None:
        user = self.machine.find(process.get_extra_info("username"))
        try:
            stdin = await process.stdin.read()
            ended = await asyncio.to_thread(execute, self.machine, user, process.command or "", stdin)
        except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
            process.exit(255)
            return
        with contextlib.suppress(
            BrokenPipeError
        ):  # who asked is gone; raised from here it would end the whole connection
            process.stdout.write(ended.stdout.encode())
            process.stderr.write(ended.stderr.encode())
            process.exit(ended.exit_code & 0xFF)

    def stop(self) -> None:
        """Stop listening and end the connections."""

        async def end() -> None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(timeout=20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=20)
        self._loop.close()

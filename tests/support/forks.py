"""Python processes without their start: one that has imported the modules once forks one for each command or server.

Each is still a process of its own with its own arguments, environment and standard streams, and ends as one; only the
import is shared. The tests run hundreds of commands and start servers again and again, and more than half was importing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

__all__ = ["Forks"]

_MODULES = (
    "csv", "httpcore", "httpx", "pam_jobs.client.session", "pam_jobs.client.vault", "pam_jobs.cli.common",
    "pam_jobs.cli.embedded.control", "pam_jobs.cli.embedded.setup", "pam_jobs.cli.main:command",
)  # fmt: skip
_START_SECONDS = 60.0


class Forks:
    """The client's side; shared between threads."""

    def __init__(self, modules: Sequence[str] = _MODULES) -> None:
        """Prepare; the process that forks starts with the first use.

        Args:
            modules: what it imports beforehand; ``module:function`` is called as well, for what that makes once.
        """
        self._modules = modules
        self._folder = tempfile.TemporaryDirectory(prefix="pam-forks-", ignore_cleanup_errors=True)
        self._path = f"{self._folder.name}/socket"
        self._server: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def run(
        self, arguments: Sequence[str], *, stdin: str, environment: Mapping[str, str], seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as ``subprocess.run`` does.

        Raises:
            subprocess.TimeoutExpired: it did not end in time; it was killed.
        """
        self._start()
        with tempfile.TemporaryDirectory(dir=self._folder.name) as name, socket.socket(socket.AF_UNIX) as line:
            folder = Path(name)
            (folder / "stdin").write_text(stdin)
            line.connect(self._path)
            request = {
                "argv": list(arguments),
                "environment": dict(environment),
                "folder": name,
                "cwd": str(Path.cwd()),
            }
            line.sendall(json.dumps(request).encode() + b"\n")
            line.settimeout(seconds)
            answers = line.makefile()
            pid = int(answers.readline())
            try:
                code = int(answers.readline())
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), seconds) from None
            return subprocess.CompletedProcess(
                list(arguments), code, (folder / "stdout").read_text(), (folder / "stderr").read_text()
            )

    def spawn(self, main: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
        """Start a server in a session of its own, as the lab's ``spawn`` does, and return its process id.

        Args:
            main: ``module:function``; it is given the arguments and returns the exit code.
            arguments: of the function.
            log: where standard output and error go.
            environment: all of it.
        """
        self._start()
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(self._path)
            request = {
                "main": main,
                "argv": list(arguments),
                "environment": dict(environment),
                "log": str(log),
            }
            line.sendall(json.dumps(request).encode() + b"\n")
            line.settimeout(_START_SECONDS)
            return int(line.makefile().readline())

    def close(self) -> None:
        """End the process that forks."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(10)
        self._folder.cleanup()

    def _start(self) -> None:
        with self._lock:
            if self._server is None:
                kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAM_", "FLOWER_"))}
                command = [sys.executable, "-m", "tests.support.forks", self._path, *self._modules]
                self._server = subprocess.Popen(command, env=kept, stdin=subprocess.DEVNULL)
                end = time.monotonic() + _START_SECONDS
                while not Path(self._path).exists():
                    assert self._server.poll() is None, "the process that forks commands ended"
                    assert time.monotonic() < end, "the process that forks commands did not start"
                    time.sleep(0.02)


def serve(path: str, modules: Sequence[str]) -> None:
    """Answer requests while the tests live: each connection gets a process that runs one command and tells its end."""
    parent = os.getppid()
    for name in modules:
        module, _, function = name.partition(":")
        imported = import_module(module)
        if function:
            getattr(imported, function)()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(64)
        listener.settimeout(1.0)
        Path(f"{path}.new").rename(path)
        while os.getppid() == parent:
            try:
                line, _ = listener.accept()
            except TimeoutError:
                continue
            with line:
                line.settimeout(None)
                if os.fork() == 0:
                    listener.close()
                    os._exit(_answer(line))


def _answer(line: socket.socket) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(line.makefile().readline())
    pid = os.fork()
    if pid == 0:
        line.close()
        if "main" in request:
            sys.exit(_server(request))  # up to the interpreter's own end, which waits for threads
        os._exit(_command(request))
    line.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return 0


def _server(request: dict) -> int:
    """Become the server."""
    os.setsid()
    _take_stream(0, os.devnull, os.O_RDONLY)
    for number in (1, 2):
        _take_stream(number, request["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.chdir("/")
    _take_environment(request)
    module, _, function = request["main"].partition(":")
    sys.argv = [module, *request["argv"]]
    return int(getattr(import_module(module), function)(request["argv"]) or 0)


def _command(request: dict) -> int:
    """Become the command."""
    for number, (name, flags) in enumerate(
        [("stdin", os.O_RDONLY), ("stdout", os.O_CREAT | os.O_WRONLY), ("stderr", os.O_CREAT | os.O_WRONLY)]
    ):
        _take_stream(number, f"{request['folder']}/{name}", flags)
    os.chdir(request["cwd"])
    _take_environment(request)
    sys.argv = ["pam", *request["argv"]]
    from pam_jobs.cli.main import main

    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter does it
        sys.excepthook(*sys.exc_info())
        code = 1
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return int(code or 0)


def _take_stream(number: int, path: str, flags: int) -> None:
    opened = os.open(path, flags, 0o600)
    os.dup2(opened, number)
    os.close(opened)


def _take_environment(request: dict) -> None:
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])

"""Runs a script on the gateway's own host: a private folder, a clean environment, a time limit, no leftovers."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pam_jobs.errors import InvalidInput, ScriptTimeout

__all__ = ["ScriptResult", "argv_for", "clean_environment", "run_script", "safe_name", "sweep"]

_PREFIX: Final = "pam-script-"
_GRACE_SECONDS: Final = 2.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class ScriptResult:
    """How a script ended; the output may be cut at its end."""

    exit_code: int  # below 0: the signal that ended it
    stdout: str
    stderr: str


def argv_for(path: str, command: str, shell: str | None = None, *, is_windows: bool = False) -> list[str]:
    """Return how the script is started: by the command it was attached with, by the record's shell, or by itself.

    Args:
        path: of the script.
        command: of the attachment, such as ``/usr/bin/python3 -u``; no shell reads it.
        shell: the custom field ``Shell``.
        is_windows: the script runs on Windows, where backslashes stand in paths and double quotes alone quote.

    Raises:
        InvalidInput: the command's quotes are not closed.
    """
    try:
        if is_windows:  # the shell is PowerShell, which the connector starts for .ps1 itself
            words = shlex.shlex(command, punctuation_chars=False)
            words.whitespace_split, words.quotes, words.commenters, words.escape = True, '"', "", ""
            return [*(word.replace('"', "") for word in words), path]
        return [*shlex.split(command or shell or ""), path]
    except ValueError:
        raise InvalidInput(
            "the command of the script has an unclosed quote", remedy="correct it with `pam rotation script edit`"
        ) from None


def clean_environment(home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return all that a script sees of the gateway's environment."""
    return {"PATH": environment.get("PATH") or _PATH, "HOME": str(home), "LANG": "C.UTF-8"}


def run_script(
    content: bytes,
    name: str,
    command: str,
    stdin: bytes,
    *,
    time_limit_seconds: float,
    output_limit: int,
    shell: str | None = None,
    work_dir: Path | None = None,
) -> ScriptResult:
    """Run the script to its end and remove everything it was given.

    Args:
        content: the script.
        name: its file name.
        command: how to start it; see ``argv_for``.
        stdin: what it reads.
        time_limit_seconds: after which it and all its children are killed.
        output_limit: bytes kept of each output; the rest is read and thrown away.
        shell: the record's shell.
        work_dir: where its private folder is made; None: the temporary folder.

    Raises:
        ScriptTimeout: it ran too long; it may have done a part of its work.
        InvalidInput: it cannot be started at all.
    """
    folder = _new_folder(work_dir)
    try:
        path = folder / safe_name(name)
        _write(path, content)
        argv = argv_for(str(path), command, shell)
        process = _start(argv, folder)
        return _finish(process, stdin, time_limit_seconds, output_limit)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(work_dir: Path | None = None) -> int:
    """Remove the folders that a killed gateway left behind, and return how many."""
    removed = 0
    for folder in Path(work_dir or tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        with contextlib.suppress(OSError):
            if owner.isdigit() and folder.stat().st_uid == os.geteuid() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(folder)
                removed += 1
    return removed


def safe_name(name: str) -> str:
    """Return a file name that stands for itself in every path: letters, digits, dots, dashes, underscores."""
    clean = "".join(char if char.isalnum() or char in "._-" else "_" for char in Path(name).name).lstrip(".-")
    return clean[:100] or "script"


def _new_folder(work_dir: Path | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=work_dir))
    except OSError as error:
        raise _no_room(error) from None


def _write(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> InvalidInput:
    return InvalidInput(
        f"the script was not started, because the gateway cannot write it to its disk ({error.strerror})",
        remedy="make space there or set PAM_WORK_DIR, then rotate again",
    )


def _start(argv: list[str], folder: Path) -> subprocess.Popen[bytes]:
    try:
        return _popen(argv, folder)
    except OSError as error:
        if error.errno == errno.ENOEXEC:  # no shebang: what a shell does with it
            return _popen(["/bin/sh", *argv], folder)
        raise InvalidInput(
            f"the script cannot be started ({error.strerror})",
            remedy="name an installed interpreter in its command or its first line",
        ) from None


def _popen(argv: list[str], folder: Path) -> subprocess.Popen[bytes]:
    for _ in range(20):
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=clean_environment(folder, os.environ),
                start_new_session=True,
            )
        except OSError as error:
            if error.errno != errno.ETXTBSY:  # another thread forked while the file was open for writing
                raise
            time.sleep(0.01)
    raise InvalidInput("the script's file stays busy", remedy="rotate again")


def _finish(process: subprocess.Popen[bytes], stdin: bytes, seconds: float, output_limit: int) -> ScriptResult:
    end = time.monotonic() + seconds
    outputs: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    workers = [threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True)]
    for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
        workers.append(threading.Thread(target=_drain, args=(stream, outputs[name], output_limit), daemon=True))
    for worker in workers:
        worker.start()
    timed_out = False
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
    if not timed_out:
        # Children in the background that keep the outputs open may finish within the limit, then they are ended too.
        for worker in workers:
            worker.join(timeout=max(0.0, min(end - time.monotonic(), _GRACE_SECONDS)))
    _end_group(process)
    for worker in workers:
        worker.join(timeout=_GRACE_SECONDS)
    if timed_out:
        raise ScriptTimeout(
            f"the script ran longer than {seconds:.0f} seconds and was ended",
            remedy="make it faster, or raise PAM_SCRIPT_SECONDS of the gateway",
        )
    return ScriptResult(
        exit_code=process.returncode,
        stdout=bytes(outputs["stdout"]).decode(errors="replace"),
        stderr=bytes(outputs["stderr"]).decode(errors="replace"),
    )


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the script's whole process group, politely first when it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _feed(stream: IO[bytes] | None, content: bytes) -> None:
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):  # a script need not read its input
        stream.write(content)
    with contextlib.suppress(OSError, ValueError):
        stream.close()


def _drain(stream: IO[bytes] | None, kept: bytearray, limit: int) -> None:
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError), stream:
        while chunk := stream.read1(65536):  # type: ignore[attr-defined]
            kept += chunk[: max(0, limit - len(kept))]

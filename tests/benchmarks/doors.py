"""Many doors to one server: ports that pass everything on, and ports that take a connection and never answer.

``python -m tests.benchmarks.doors HOST PORT PASSING SILENT`` prints the ports, one JSON line, and serves until its
standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Doors", "opened"]

_CHUNK = 65536


@dataclass(frozen=True, kw_only=True)
class Doors:
    """Ports on loopback."""

    passing: list[int]
    silent: list[int]


@contextmanager
def opened(host: str, port: int, *, passing: int, silent: int) -> Iterator[Doors]:
    """Run the doors in a process of their own."""
    words = [sys.executable, "-m", "tests.benchmarks.doors", host, str(port), str(passing), str(silent)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the doors have no pipes")
    try:
        yield Doors(**json.loads(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.wait(10)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _serve(host: str, port: int, passing: int, silent: int) -> None:
    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, port)
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    async def kept_waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(_CHUNK):
            pass
        writer.close()

    servers = [await asyncio.start_server(passed_on, "127.0.0.1", 0) for _ in range(passing)]
    quiet = [await asyncio.start_server(kept_waiting, "127.0.0.1", 0) for _ in range(silent)]

    def ports(some: list[asyncio.Server]) -> list[int]:
        return [server.sockets[0].getsockname()[1] for server in some]

    sys.stdout.write(json.dumps({"passing": ports(servers), "silent": ports(quiet)}) + "\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _main() -> None:
    host, port, passing, silent = sys.argv[1:]
    serving = _serve(host, int(port), int(passing), int(silent))
    with contextlib.suppress(KeyboardInterrupt):
        try:
            import uvloop

            uvloop.run(serving)
        except ImportError:
            asyncio.run(serving)


if __name__ == "__main__":
    _main()

"""Brokers as a deployment has them, over TCP with a password: Redis and RabbitMQ, each a process of this test alone."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy.lab.processes import free_port, port_is_open, spawn
from tests.support.broker import server_binary

__all__ = ["Control", "rabbitmq", "redis_server"]

Control = Callable[..., None]
"""``rabbitmqctl`` of a server; what it reads from standard input is given as ``text``."""

_SECONDS = 60.0
_RABBITMQ = Path("/usr/lib/rabbitmq/bin")


@contextmanager
def redis_server(config: str, password: str) -> Iterator[str]:
    """Run Redis with the given configuration, and give its URL.

    Args:
        config: content of redis.conf; port, address and folder are ours.
        password: that the configuration demands.
    """
    with _folder() as folder:
        port = free_port()
        path = folder / "redis.conf"
        path.write_text(config + f"\nbind 127.0.0.1\nport {port}\ndir {folder}\n")
        path.chmod(0o600)
        process = spawn([server_binary(), str(path)], folder / "redis.log")
        try:
            _wait(port)
            yield f"redis://:{password}@127.0.0.1:{port}/0"
        finally:
            process.stop(signal.SIGTERM)


@contextmanager
def rabbitmq(config: str = "", made: Callable[[Control], None] = lambda _control: None) -> Iterator[str]:
    """Run RabbitMQ with a user and a virtual host of its own, and give its URL.

    Args:
        config: content of rabbitmq.conf beside what is ours.
        made: called with its ``rabbitmqctl`` when it runs.
    """
    if not _RABBITMQ.exists():
        raise RuntimeError("RabbitMQ is missing: apt-get install rabbitmq-server")
    with _folder() as folder:
        port, password = free_port(), secrets.token_urlsafe(18)
        environment = _environment(folder, port)
        first = (
            f"default_user = pam\ndefault_pass = {password}\n"  # each rabbitmqctl starts an Erlang machine of its own
        )
        (folder / "rabbitmq.conf").write_text(f"{first}default_user_tags.administrator = false\n{config}")
        log = folder / "server.log"
        process = spawn([str(_RABBITMQ / "rabbitmq-server")], log, environment=environment)
        try:
            _wait(port, log)
            made(lambda *arguments, text="": _control(environment, *arguments, text=text))
            yield f"amqp://pam:{password}@127.0.0.1:{port}//"
        finally:
            # Nothing that it holds is wanted any more; to ask it would be to start a second Erlang machine.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stop()
            # the name server that this node started, on a port of its own
            subprocess.run(["epmd", "-kill"], env=environment, capture_output=True, check=False)


def _environment(folder: Path, port: int) -> dict[str, str]:
    (folder / "none.conf").touch()
    return {
        "PATH": f"{_RABBITMQ}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",  # ends also while it believes in a node that was killed
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_NODENAME": f"pam{os.getpid()}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1",
    }


def _control(environment: dict[str, str], *arguments: str, text: str = "") -> None:
    argv = [str(_RABBITMQ / "rabbitmqctl"), "-q", *arguments]
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS, input=text
    )
    if done.returncode != 0:
        raise RuntimeError(f"rabbitmqctl {arguments[0]} failed: {done.stderr[-500:]}")


def _wait(port: int, log: Path | None = None) -> None:
    end = time.monotonic() + _SECONDS
    while not port_is_open("127.0.0.1", port):
        if time.monotonic() > end:
            raise RuntimeError(f"the broker did not start: {log.read_text()[-1000:] if log else ''}")
        time.sleep(0.05)


@contextmanager
def _folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pam-broker-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)

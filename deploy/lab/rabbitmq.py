"""A private RabbitMQ with its management API: loopback only, random ports, own cookie and name server, TLS beside clear text."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from deploy.lab.processes import LabError, Process, end, free_port, new_password, spawn, write_private
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.tls import ensure_tls

__all__ = ["RabbitmqServer", "is_installed", "packages", "start", "stop"]

_START_SECONDS = 90.0
_STATE = "rabbitmq.json"
_PROCESS = "rabbitmq.pid.json"
_ADMIN = "labadmin"
_BIN = Path(
    "/usr/lib/rabbitmq/bin"
)  # Debian's own wrapper in /usr/sbin changes the user and wants the system's folders

_CONFIGURATION = """
default_user = {login}
default_pass = {password}
listeners.tcp.default = 127.0.0.1:{ports[amqp]}
listeners.ssl.default = 127.0.0.1:{ports[amqps]}
ssl_options.cacertfile = {tls.ca}
ssl_options.certfile = {tls.certificate}
ssl_options.keyfile = {tls.key}
ssl_options.verify = verify_none
management.tcp.ip = 127.0.0.1
management.tcp.port = {ports[http]}
management.ssl.ip = 127.0.0.1
management.ssl.port = {ports[https]}
management.ssl.cacertfile = {tls.ca}
management.ssl.certfile = {tls.certificate}
management.ssl.keyfile = {tls.key}
log.file.level = info
disk_free_limit.absolute = 50MB
"""


@dataclass(frozen=True, kw_only=True)
class RabbitmqServer:
    """A running broker of the lab."""

    host: str
    port: int  # management API over HTTP
    secure_port: int  # the same over HTTPS
    amqp_port: int
    secure_amqp_port: int
    admin_login: str
    admin_password: str = field(repr=False)
    ca: Path
    folder: Path  # state of the lab
    log_folder: Path
    process: Process

    def stop(self) -> None:
        """Shut the broker down; harmless when it is down."""
        stop(self.folder)


def is_installed() -> bool:
    """Say whether the programs are there."""
    return (_BIN / "rabbitmq-server").exists()


def packages() -> list[str]:
    """Return the Debian packages that are not there yet."""
    return [] if is_installed() else ["rabbitmq-server"]


def start(folder: Path) -> RabbitmqServer:
    """Make and start a new broker; its state is in the folder, its secrets in files of mode 0600.

    Args:
        folder: an existing or new folder; what an earlier broker of the lab left there is removed.

    Raises:
        LabError: the programs are missing, or it did not start; the text names the log.
    """
    if not is_installed():
        raise LabError("no RabbitMQ found: apt-get install rabbitmq-server")
    folder = folder.resolve()
    stop(folder)
    base = folder / "rabbitmq"
    base.mkdir(mode=0o700, parents=True)
    password = new_password()
    tls = ensure_tls(base / "tls", ["localhost", "127.0.0.1"], SystemClock())
    ports = {name: free_port() for name in ("amqp", "amqps", "http", "https", "epmd", "dist")}
    write_private(base / "rabbitmq.conf", _CONFIGURATION.format(login=_ADMIN, password=password, ports=ports, tls=tls))
    (base / "plugins").write_text("[rabbitmq_management].\n")
    (base / "none.conf").touch()
    process = spawn([str(_BIN / "rabbitmq-server")], base / "out", environment=_environment(base, ports))
    process.save(folder / _PROCESS)
    server = RabbitmqServer(
        host="127.0.0.1", port=ports["http"], secure_port=ports["https"], amqp_port=ports["amqp"],
        secure_amqp_port=ports["amqps"], admin_login=_ADMIN, admin_password=password, ca=tls.ca, folder=folder,
        log_folder=base / "log", process=process,
    )  # fmt: skip
    write_private(
        folder / _STATE,
        json.dumps({
            "host": server.host, "port": server.port, "secure_port": server.secure_port, "amqp_port": server.amqp_port,
            "login": _ADMIN, "password": password, "ca": str(server.ca), "name_server": ports["epmd"],
        }, indent=1),
    )  # fmt: skip
    wanted = [ports[name] for name in ("amqp", "amqps", "http", "https")]
    if process.listens(*wanted, seconds=_START_SECONDS):
        return server
    raise LabError(f"RabbitMQ did not start: see {base / 'out'}")


def _environment(base: Path, ports: dict[str, int]) -> dict[str, str]:
    return {
        "PATH": f"{_BIN}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "HOME": str(base),  # where its cookie is
        "LANG": "C.UTF-8",
        "ERL_EPMD_PORT": str(ports["epmd"]),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": str(base / "none.conf"),
        "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
        "RABBITMQ_LOG_BASE": str(base / "log"),
        "RABBITMQ_PID_FILE": str(base / "pid"),
        "RABBITMQ_NODENAME": f"lab{ports['amqp']}@localhost",
        "RABBITMQ_DIST_PORT": str(ports["dist"]),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1",
    }


def stop(folder: Path) -> None:
    """Stop the broker whose state the folder holds and remove it; harmless when there is none."""
    state = end(folder, "rabbitmq")
    if state is not None:
        port = str(state["name_server"])
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "ERL_EPMD_PORT": port}
        with contextlib.suppress(OSError):  # the name server that this node started, on a port of its own
            subprocess.run(["epmd", "-kill"], env=environment, capture_output=True, check=False)
    shutil.rmtree(folder / "rabbitmq", ignore_errors=True)

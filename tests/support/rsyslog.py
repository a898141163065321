"""Debian's rsyslogd as a receiver: a process of its own with its own configuration, ports and state."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.processes import Process, free_port, port_is_open, spawn
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.tls import ensure_tls

__all__ = ["Rsyslog", "SyslogLine"]

_SECONDS = 20.0
_SEPARATOR = "\t"
# rsyslog's own parse of the message: each property between tabs, the message last
_FIELDS = ("pri", "timereported:::date-rfc3339", "hostname", "app-name", "procid", "msgid", "structured-data", "msg")
_CONFIG = """
global(workDirectory="{folder}" debug.whitelist="off")
{tls_global}
module(load="imtcp" maxSessions="200" {tls_module})
template(name="fields" type="string" string="{template}\\n")
ruleset(name="audit") {{
  action(type="omfile" file="{output}" template="fields" fileCreateMode="0600" asyncWriting="off" flushOnTXEnd="on")
}}
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="audit" {tls_input})
"""


@dataclass(frozen=True, kw_only=True)
class SyslogLine:
    """One message as rsyslog understood it."""

    priority: int
    timestamp: str
    hostname: str
    app_name: str
    proc_id: str
    message_id: str
    structured_data: str
    message: str

    def parameter(self, name: str) -> str | None:
        """Return a parameter of the structured data, unescaped."""
        found = re.search(rf' {re.escape(name)}="((?:[^"\\]|\\.)*)"', self.structured_data)
        return re.sub(r"\\(.)", r"\1", found.group(1)) if found else None


class Rsyslog:
    """A receiver in a folder; it may be killed and started again on the same port."""

    def __init__(self, folder: Path, *, tls: bool) -> None:
        program = shutil.which("rsyslogd", path="/usr/sbin:/sbin:/usr/bin")
        if program is None:
            raise RuntimeError("rsyslogd is missing: apt-get install rsyslog rsyslog-gnutls")
        folder.mkdir(parents=True, exist_ok=True)
        self._program = program
        self._folder = folder
        self.port = free_port()
        self.output = folder / "received.log"
        self.ca: str | None = None
        self._process: Process | None = None
        self._write_config(tls=tls)

    def _write_config(self, *, tls: bool) -> None:
        names = {"tls_global": "", "tls_module": "", "tls_input": ""}
        if tls:
            files = ensure_tls(self._folder / "tls", ["127.0.0.1", "localhost"], SystemClock())
            self.ca = files.ca.read_text()
            names["tls_global"] = (
                f'global(defaultNetstreamDriverCAFile="{files.ca}" defaultNetstreamDriverCertFile="{files.certificate}"'
                f' defaultNetstreamDriverKeyFile="{files.key}")'
            )
            names["tls_module"] = 'streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon"'
        text = _CONFIG.format(
            folder=self._folder,
            output=self.output,
            port=self.port,
            template="\\t".join(f"%{name}%" for name in _FIELDS),
            **names,
        )
        (self._folder / "rsyslog.conf").write_text(text)

    def start(self) -> None:
        """Start and wait until it listens."""
        argv = [self._program, "-n", "-f", str(self._folder / "rsyslog.conf"), "-iNONE"]
        self._process = spawn(argv, self._folder / "rsyslogd.out")
        end = time.monotonic() + _SECONDS
        while not port_is_open("127.0.0.1", self.port):
            if not self._process.is_running or time.monotonic() > end:
                raise RuntimeError(f"rsyslogd did not start: {(self._folder / 'rsyslogd.out').read_text()[-1000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Let it write what it has, and end."""
        if self._process is not None:
            self._process.stop(signal.SIGTERM)
            self._process = None

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def freeze(self) -> None:
        """Let it go on existing without reading anything."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGSTOP)

    def lines(self, at_least: int = 0) -> list[SyslogLine]:
        """Return what it wrote, having waited until there are so many messages."""
        end = time.monotonic() + _SECONDS
        while True:
            text = self.output.read_text() if self.output.exists() else ""
            found = [_line(line) for line in text.split("\n") if line]
            if len(found) >= at_least or time.monotonic() > end:
                return found
            time.sleep(0.05)


def _line(text: str) -> SyslogLine:
    priority, timestamp, hostname, app_name, proc_id, message_id, structured_data, message = text.split(_SEPARATOR)
    return SyslogLine(
        priority=int(priority),
        timestamp=timestamp,
        hostname=hostname,
        app_name=app_name,
        proc_id=proc_id,
        message_id=message_id,
        structured_data=structured_data,
        message=message,
    )

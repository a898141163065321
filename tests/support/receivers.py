"""The receivers that the contract of sinks runs against, all with the same few verbs."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from tests.support.hec import Collector
from tests.support.rsyslog import Rsyslog

__all__ = ["KINDS", "Receiver", "make_receiver"]


class Receiver(ABC):
    """Something that takes events."""

    kind: str
    token: str | None = None

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the sink is set up with."""

    @abstractmethod
    def start(self) -> None:
        """Take events (again)."""

    @abstractmethod
    def stop(self) -> None:
        """Take no more; what was taken stays."""

    def die_in_next_batch(self) -> None:
        """Take a part of the next batch at most, and be gone before it is confirmed."""
        raise NotImplementedError

    @abstractmethod
    def bodies(self, at_least: int = 0) -> list[dict[str, Any]]:
        """Return the event documents in the order in which they arrived."""


class FileReceiver(Receiver):
    kind = "json"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "shipper"
        self._away = folder / "unmounted"
        self._folder.mkdir()
        self.path = self._folder / "audit.jsonl"

    @property
    def settings(self) -> dict[str, Any]:
        return {"path": str(self.path)}

    def start(self) -> None:
        if self._away.exists():
            self._away.rename(self._folder)

    def stop(self) -> None:
        if self._folder.exists():
            self._folder.rename(self._away)

    def bodies(self, at_least: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


class SyslogReceiver(Receiver):
    kind = "syslog"

    def __init__(self, folder: Path, *, tls: bool, framing: str) -> None:
        self._rsyslog = Rsyslog(folder / "rsyslog", tls=tls)
        self._transport = "tls" if tls else "tcp"
        self._framing = framing
        self._killer: threading.Timer | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self._rsyslog.port,
            "transport": self._transport,
            "framing": self._framing,
            "ca": self._rsyslog.ca,
        }

    def start(self) -> None:
        self._rsyslog.start()

    def stop(self) -> None:
        if self._killer is not None:
            self._killer.join()
        self._rsyslog.stop()

    def die_in_next_batch(self) -> None:
        self._rsyslog.freeze()  # its kernel goes on taking bytes that it will never read
        self._killer = threading.Timer(0.5, self._rsyslog.kill)
        self._killer.start()

    def bodies(self, at_least: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line.message) for line in self._rsyslog.lines(at_least)]


class CollectorReceiver(Receiver):
    kind = "splunk"

    def __init__(self, folder: Path, *, tls: bool) -> None:
        self._collector = Collector(folder / "hec", tls=tls)
        self.token = self._collector.token

    @property
    def settings(self) -> dict[str, Any]:
        return {"url": self._collector.url, "ca": self._collector.ca}

    def start(self) -> None:
        self._collector.start()

    def stop(self) -> None:
        self._collector.stop()

    def die_in_next_batch(self) -> None:
        self._collector.hang_up_next = True

    def bodies(self, at_least: int = 0) -> list[dict[str, Any]]:
        return [line["event"] for line in self._collector.events]


KINDS = {
    "json": FileReceiver,
    "syslog-tcp": lambda folder: SyslogReceiver(folder, tls=False, framing="octet-counting"),
    "syslog-tcp-lines": lambda folder: SyslogReceiver(folder, tls=False, framing="newline"),
    "syslog-tls": lambda folder: SyslogReceiver(folder, tls=True, framing="octet-counting"),
    "splunk-http": lambda folder: CollectorReceiver(folder, tls=False),
    "splunk-https": lambda folder: CollectorReceiver(folder, tls=True),
}


def make_receiver(kind: str, folder: Path) -> Receiver:
    """Return a receiver that does not take events yet."""
    folder.mkdir(exist_ok=True)
    return KINDS[kind](folder)

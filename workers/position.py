"""How far this gateway knows the control plane's database to have come, remembered beyond the process.

The router compares it with its database: one that was restored from an older backup is noticed that way.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from pam_jobs.jobs.wire import Position

__all__ = ["PositionFile"]

_log = structlog.get_logger(__name__)
_FILE: Final = "position"


class PositionFile:
    """The newest position; instances that share the folder overwrite each other's, each of which is true."""

    def __init__(self, folder: Path | None, client_id: str) -> None:
        """Read what is there.

        Args:
            folder: where the file is; None remembers as long as the process lives.
            client_id: of the device; what another one left behind says nothing about this one's router.
        """
        self._path = folder / _FILE if folder else None
        self._device = hashlib.sha256(client_id.encode()).hexdigest()[:32]
        self._position = self._read()
        self._lock = threading.Lock()

    @property
    def newest(self) -> Position | None:
        """What the router told last; None when it has not told anything yet."""
        return self._position

    def take(self, position: Position | None) -> None:
        """Remember what the router told; a file that cannot be written is told in the log."""
        with self._lock:
            if position is None or position == self._position:
                return
            self._position = position
            if self._path is not None:
                self._write(self._path, position)

    def _write(self, path: Path, position: Position) -> None:
        body = json.dumps({"device": self._device, "position": position.model_dump()})
        temporary = path.with_name(f".{_FILE}.{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(body)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError as error:
            _log.warning("position_not_written", reason=error.strerror)
            with suppress(OSError):
                temporary.unlink()

    def _read(self) -> Position | None:
        if self._path is None:
            return None
        try:
            data = json.loads(self._path.read_text())
            return Position.model_validate(data["position"]) if data["device"] == self._device else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            _log.warning("position_not_read", remedy="nothing to do: the router tells it anew")
            return None

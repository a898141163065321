"""JSON lines in a file that log shippers follow."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import field_validator

from pam_jobs.audit.sinks.base import DeliveryRefused, Sink, SinkEvent, SinkSettings
from pam_jobs.errors import DeliveryFailed
from pam_jobs.secret import SecretValue

__all__ = ["JsonFileSettings", "JsonFileSink"]

_TAIL = 1 << 16  # longer than any event


class JsonFileSettings(SinkSettings):
    """Where the lines go."""

    path: str

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        path = Path(value)
        if "\0" in value or not path.is_absolute() or ".." in path.parts or value.endswith("/"):
            raise ValueError("must be the absolute path of a file with no '..' in it")
        return value


class JsonFileSink(Sink):
    """Appends one JSON document a line to a file of mode 0600.

    The file is opened for each batch, so rotating it by renaming needs no signal. A batch counts once it is on disk
    (fsync). A line that an earlier crash cut off is removed before its batch is written again.
    """

    kind = "json"
    settings_type = JsonFileSettings

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def build(cls, settings: Mapping[str, Any], secret: SecretValue | None) -> Self:  # noqa: ARG003
        """Return the sink of these settings."""
        return cls(Path(JsonFileSettings.model_validate(settings).path))

    def deliver(self, events: Sequence[SinkEvent]) -> None:
        """Append the batch and wait until it is on disk."""
        lines = [
            json.dumps(event.body, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace") + b"\n"
            for event in events
        ]
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DeliveryFailed(f"{self._path} cannot be opened: {error.strerror}") from error
        try:
            self._append(descriptor, lines)
        except OSError as error:
            raise DeliveryFailed(f"{self._path} cannot be written: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _append(self, descriptor: int, lines: list[bytes]) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DeliveryRefused(f"{self._path} is not a regular file")
        separator = _mend(descriptor, status.st_size, lines)
        data = memoryview(separator + b"".join(lines))
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)


def _mend(descriptor: int, size: int, lines: list[bytes]) -> bytes:
    """Drop a cut-off line of ours at the end of the file; return what must stand before the first new line.

    The cut-off line belongs to a batch that was not confirmed, so it begins one of the lines about to be written. An
    unfinished line of somebody else's is left alone and ended.
    """
    tail = os.pread(descriptor, _TAIL, max(0, size - _TAIL))
    fragment = tail.rpartition(b"\n")[2]
    if not fragment:
        return b""
    if any(line.startswith(fragment) for line in lines):
        os.ftruncate(descriptor, size - len(fragment))
        return b""
    return b"\n"

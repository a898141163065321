"""What the lines of the gateway's journal say, and what follows from them for each record."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

__all__ = ["ABANDONED", "APPLYING", "CURRENT", "Kept", "Values", "decoded", "encoded"]

APPLYING: Final = "applying"
CURRENT: Final = "current"
ABANDONED: Final = "abandoned"
_PREVIOUS: Final = "previous"
_MOST_VALUES: Final = 4  # newest ones kept of a record


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A value that this gateway set, or was about to set, on the target of a record."""

    record_uid: str
    job_uid: str
    seq: int  # the ledger's number for it, at that time
    epoch: int
    state: str  # applying, current, previous
    ciphertext: bytes = field(repr=False)
    at: datetime

    def line(self) -> dict[str, Any]:
        """Return it as a line that stages it anew."""
        return {
            "record": self.record_uid,
            "job": self.job_uid,
            "epoch": self.epoch,
            "seq": self.seq,
            "state": APPLYING,
            "at": self.at.isoformat(),
            "value": base64.b64encode(self.ciphertext).decode(),
        }


class Values:
    """The newest values of each record, as the lines tell; not shared between threads by itself."""

    def __init__(self) -> None:
        self._values: dict[str, list[Kept]] = {}  # oldest first
        self._epochs: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many values there are."""
        return sum(map(len, self._values.values()))

    def epoch_of(self, record_uid: str) -> int:
        """Return the highest epoch of the record's lines; 0 when there is none."""
        return self._epochs.get(record_uid, 0)

    def of(self, record_uid: str) -> tuple[Kept, ...]:
        """Return the record's values, the newest first."""
        return tuple(reversed(self._values.get(record_uid, [])))

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._epochs.clear()

    def lines(self) -> Iterator[dict[str, Any]]:
        """Return the lines that say the same and nothing more."""
        for record_uid, epoch in self._epochs.items():
            values = self._values.get(record_uid, [])
            for each in values:
                yield each.line()
                if each.state != APPLYING:  # a later one that says the same makes it the previous one
                    yield {**each.line(), "state": CURRENT}
            if all(each.epoch < epoch for each in values):
                yield {"record": record_uid, "job": "", "epoch": epoch, "seq": 0, "state": ABANDONED}

    def apply(self, line: Mapping[str, Any]) -> None:
        """Take in a line."""
        record_uid, seq, state = str(line["record"]), int(line["seq"]), str(line["state"])
        self._epochs[record_uid] = max(self._epochs.get(record_uid, 0), int(line["epoch"]))
        values = self._values.setdefault(record_uid, [])
        known = next((each for each in reversed(values) if each.seq == seq), None)
        value = line.get("value")
        if value is not None:
            ciphertext = base64.b64decode(value)
            known = next((each for each in values if each.ciphertext == ciphertext), None)
            new = Kept(
                record_uid=record_uid,
                job_uid=str(line["job"]),
                seq=seq,
                epoch=int(line["epoch"]),
                state=state,
                ciphertext=ciphertext,
                at=datetime.fromisoformat(str(line["at"])),
            )
        elif known is None:
            return  # its value was lost with a damaged line
        else:
            new = replace(known, state=state, epoch=int(line["epoch"]))
        if known is not None:
            values.remove(known)
        if state == CURRENT:
            values[:] = [replace(each, state=_PREVIOUS) if each.state == CURRENT else each for each in values]
        if state != ABANDONED:
            values.append(new)
        while len(values) > _MOST_VALUES:
            values.remove(next(each for each in values if each.state != CURRENT))


def encoded(line: Mapping[str, Any]) -> bytes:
    """Return a line as it is written."""
    text = json.dumps(line, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decoded(text: bytes) -> dict[str, Any] | None:
    """Return the line, or None when it is not what was written."""
    check, _, body = text.partition(b" ")
    if check != b"%08x" % zlib.crc32(body):
        return None
    try:
        line = json.loads(body)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None

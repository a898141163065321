"""What a post-rotation script reads on its standard input: base64 of JSON, with the records as base64 once more."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue

__all__ = ["ScriptInput", "records_member"]

_LEFT_OUT = "rotationScripts"


@dataclass(frozen=True, kw_only=True)
class ScriptInput:
    """The facts of one rotation as a script gets them."""

    configuration_uid: str
    resource_uid: str | None
    user_uid: str
    login: str
    new_password: SecretValue | None
    old_password: SecretValue | None
    records: Sequence[tuple[str, Record]] = field(repr=False)  # uid and content, in the order they are handed over

    def encode(self) -> bytes:
        """Return the bytes, with the line end that ``echo`` gives."""
        document = {
            "providerRecordUid": self.configuration_uid,
            "resourceRecordUid": self.resource_uid or "",
            "userRecordUid": self.user_uid,
            "newPassword": _plain(self.new_password),
            "oldPassword": _plain(self.old_password),
            "user": self.login,
            "records": records_member(self.records),
        }
        return base64.b64encode(json.dumps(document).encode()) + b"\n"


def records_member(records: Iterable[tuple[str, Record]]) -> str:
    """Return the ``records`` member: base64 of a JSON array with one flat object a record."""
    return base64.b64encode(json.dumps([_flat(uid, record) for uid, record in records]).encode()).decode()


def _flat(uid: str, record: Record) -> dict[str, Any]:
    data = record.to_dict()
    flat: dict[str, Any] = {"uid": uid, "title": record.title}
    for entry in [*(data.get("fields") or []), *(data.get("custom") or [])]:
        label = str(entry.get("label") or entry["type"])
        if entry["type"] == "script" or label == _LEFT_OUT:
            continue
        flat[_free(label, flat)] = _value(entry.get("value") or [])
    return flat


def _free(label: str, taken: dict[str, Any]) -> str:
    """Return the label, numbered from 2 where it stands already."""
    if label not in taken:
        return label
    number = 2
    while f"{label}{number}" in taken:
        number += 1
    return f"{label}{number}"


def _value(values: list[Any]) -> Any:
    if not values:
        return ""
    return values[0] if len(values) == 1 else values


def _plain(secret: SecretValue | None) -> str:
    return secret.reveal() if secret is not None else ""

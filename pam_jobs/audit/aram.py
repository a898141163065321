"""An event as the SIEM sees it: the vendor's advanced-reporting JSON."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from pam_jobs.audit.catalogue import EVENTS, sentence
from pam_jobs.db.tables import AuditEvent

__all__ = ["enterprise_id", "event_json", "event_sentence", "timestamp"]


def enterprise_id(server_public_key: str) -> int:
    """Return the number that names this installation in every event; it lasts as long as the server's key.

    Args:
        server_public_key: the published key, unpadded base64url.
    """
    digest = hashlib.sha256(server_public_key.encode()).digest()
    return int.from_bytes(digest[:6], "big")  # 48 bits: exact in every JSON reader


def timestamp(moment: datetime) -> str:
    """Return the instant as ISO 8601 in UTC with milliseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_json(row: AuditEvent, enterprise: int) -> dict[str, Any]:
    """Return the event's JSON document.

    Beside the vendor's members it has ``event_uid``, which tells a receiver that it got an event twice, and
    ``position``, which orders the log.

    Args:
        row: the event, sealed or not.
        enterprise: of ``enterprise_id``.
    """
    kind = EVENTS.get(row.event)
    base: dict[str, Any] = {
        "audit_event": row.event,
        "category": kind.category if kind else "other",
        "timestamp": timestamp(row.created_at),
        "username": row.username,
        "remote_address": row.remote_address,
        "client_version": row.client_version,
        "enterprise_id": enterprise,
        "event_uid": row.uid,
        "position": row.position,
    }
    extra = {name: value for name, value in sorted(row.fields.items()) if name not in base}
    return {name: value for name, value in {**base, **extra}.items() if value is not None}


def event_sentence(row: AuditEvent) -> str:
    """Return the event as one sentence for a person."""
    return sentence(row.event, {**row.fields, "username": row.username, "remote_address": row.remote_address or "-"})

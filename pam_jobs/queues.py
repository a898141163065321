"""Names at the broker. Without Celery, whose import would make up a quarter of every command's time."""

from __future__ import annotations

__all__ = ["own_keys", "queue_name"]


def queue_name(gateway_uid: str) -> str:
    """Return the name of a gateway's own queue."""
    return f"gateway.{gateway_uid}"


def own_keys(gateway_uid: str | None) -> dict[str, str]:
    """Return the Redis keys beside its queue that a gateway, or the control plane, has for itself, by kombu's names."""
    prefix = f"gw:{gateway_uid}:" if gateway_uid else "control:"
    return {f"{name}_key": f"{prefix}{name}" for name in ("unacked", "unacked_index", "unacked_mutex")}

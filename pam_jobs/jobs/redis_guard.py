"""A guard for Celery workers on Redis: neither a broker that goes away nor what stands in a queue ends the process.

With kombu 5.7.0, a worker that holds an unacknowledged message dies when Redis goes away: the closed channel is asked
to put the message back, and has no connection to do it with. Here that is answered by doing nothing. The message stays
among the unacknowledged ones and comes back by the visibility timeout; long before that, the reconciler has published
the job again.

The transport also trusts that what it takes from a queue is a message. What is none is dropped here with a line in the
log, else whoever can write to the queue stops the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

__all__ = ["install"]

_log = structlog.get_logger(__name__)
_MARK = "_pam_jobs_guard"


def install() -> None:
    """Patch kombu's Redis transport in this process; doing it again changes nothing."""
    from kombu.transport import redis as transport
    from redis.exceptions import RedisError

    if getattr(transport.QoS, _MARK, False):
        return
    lost = (AttributeError, OSError, RedisError)
    qos: Any = transport.QoS
    channel: Any = transport.Channel
    qos.restore_unacked = _swallowing(qos.restore_unacked, lost)
    channel.basic_ack = _unless_closed(channel.basic_ack, lost)
    channel.basic_reject = _unless_closed(channel.basic_reject, lost)
    module: Any = transport
    module.loads = _tolerant(module.loads)
    module.Transport._deliver = _dropping_garbage(module.Transport._deliver)  # noqa: SLF001 - kombu has no hook
    setattr(qos, _MARK, True)


def _swallowing(original: Callable[..., Any], lost: tuple[type[Exception], ...]) -> Callable[..., Any]:
    def restore_unacked(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        except lost as error:
            _log.warning("messages stay unacknowledged until the broker is back", error=type(error).__name__)
            return None

    return restore_unacked


def _unless_closed(original: Callable[..., Any], lost: tuple[type[Exception], ...]) -> Callable[..., Any]:
    def acknowledge(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.closed or self.connection is None:
            return None
        try:
            return original(self, *args, **kwargs)
        except lost:
            if self.closed or self.connection is None:
                return None
            raise

    return acknowledge


def _tolerant(original: Callable[[str], Any]) -> Callable[[str], Any]:
    def loads(text: str) -> Any:
        try:
            return original(text)
        except ValueError:
            return None

    return loads


def _dropping_garbage(original: Callable[..., Any]) -> Callable[..., Any]:
    def deliver(self: Any, message: Any, queue: Any) -> Any:
        if not _is_message(self, message):
            _log.warning("message_refused", reason="malformed", message_id="", task="")
            return None
        return original(self, message, queue)

    return deliver


def _is_message(transport: Any, raw: Any) -> bool:
    """Say whether kombu can make a message of it and remember it until it is acknowledged."""
    try:
        channel = transport.channels[0]
        message = channel.Message(raw, channel=channel)
        place = message.delivery_info
        return isinstance(message.delivery_tag, str) and isinstance(place, Mapping) and {
            "exchange", "routing_key",
        } <= place.keys()  # fmt: skip
    except (AttributeError, LookupError, TypeError, ValueError):
        return False

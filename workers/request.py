"""Refuses messages before they reach the pool: only what the router signed, for this queue, in time, and once."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog
from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer
from celery.worker.request import Request

from pam_jobs.clock import Clock
from pam_jobs.jobs import signing
from pam_jobs.jobs.signing import MessageRefused

__all__ = ["GuardedConsumer", "MessageGuard", "request_class"]

_log = structlog.get_logger(__name__)
_plain_log = logging.getLogger(__name__)
_REMEMBERED: Final = 100_000
_EMBEDDED: Final = ("callbacks", "errbacks", "chain", "chord")
_UNSIGNED: Final = ("eta", "expires", "group", "stamps")


class MessageGuard:
    """Knows the router's key, the gateway's queue, and the messages that were here already."""

    def __init__(self, signing_key: bytes, queue: str, clock: Clock, *, remembered: int = _REMEMBERED) -> None:
        """Start without having seen a message.

        Args:
            signing_key: the router's Ed25519 public key, 32 bytes.
            queue: the one that this gateway consumes.
            clock: tells what has expired.
            remembered: ids kept at most; beyond it the oldest are forgotten. A replay is harmless even then, since the
                job's lease admits one attempt.
        """
        self._key = signing_key
        self._queue = queue
        self._clock = clock
        self._remembered = remembered
        self._seen: OrderedDict[str, tuple[float, bool]] = OrderedDict()  # id → expiry, whether its work began
        self._lock = threading.Lock()

    def renew(self, signing_key: bytes) -> None:
        """Use another key of the router from now on."""
        self._key = signing_key

    def admit(
        self,
        *,
        name: str,
        message_id: str,
        headers: Mapping[str, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        embed: Any = None,
        is_redelivered: bool = False,
    ) -> None:
        """Return when the message may run.

        Args:
            name: the task that would run.
            message_id: of the message.
            headers: all of them.
            args: positional arguments.
            kwargs: named arguments.
            embed: what Celery would do after the task.
            is_redelivered: the broker hands it over again.

        Raises:
            MessageRefused: with the reason.
        """
        header = headers.get(signing.HEADER)
        signing.verify(
            self._key,
            header,
            name=name,
            message_id=message_id,
            queue=self._queue,
            args=args,
            kwargs=kwargs,
            now=self._clock.now(),
        )
        # Celery acts on these too, and the signature does not cover them: the router never sets them.
        extra = [key for key in _EMBEDDED if isinstance(embed, Mapping) and embed.get(key)]
        extra += [key for key in _UNSIGNED if headers.get(key)]
        if extra:
            raise MessageRefused("extended", f"the message asks for more than the router signed ({extra[0]})")
        expiry = header.get("exp", 0) if isinstance(header, Mapping) else 0
        self._remember(message_id, float(expiry), is_redelivered=is_redelivered)

    def began(self, message_id: str) -> None:
        """Take note that the work of a message begins; from now on it is never admitted again."""
        with self._lock:
            expiry, _ = self._seen.get(message_id, (0.0, False))
            self._seen[message_id] = (expiry or self._clock.now().timestamp() + 86_400, True)

    def _remember(self, message_id: str, expiry: float, *, is_redelivered: bool) -> None:
        now = self._clock.now().timestamp()
        with self._lock:
            known = self._seen.get(message_id)
            # Handed back by a lost connection before it began, a message comes a second time with good reason.
            if known is not None and (known[1] or not is_redelivered):
                raise MessageRefused("replayed", "the message was here already")
            self._seen[message_id] = (expiry, False)
            while self._seen and (len(self._seen) > self._remembered or next(iter(self._seen.values()))[0] <= now):
                self._seen.popitem(last=False)


def request_class(guard: MessageGuard) -> type[Request]:
    """Return the request class of tasks that run only what the guard admits."""

    class SignedRequest(Request):  # type: ignore[misc] # Celery is untyped
        """A message that the router signed for this queue."""

        def __init__(self, message: Any, **options: Any) -> None:
            try:
                super().__init__(message, **options)
                payload = self._Request__payload  # [args, kwargs, embed]
                guard.admit(
                    name=self.type,
                    message_id=self.id,
                    headers={**(message.properties or {}), **self.request_dict, **(message.headers or {})},
                    args=self.args,
                    kwargs=self.kwargs,
                    embed=payload[2],
                    is_redelivered=bool(self.delivery_info.get("redelivered")),
                )
            except MessageRefused as error:
                _refused(error.reason, message)
                raise InvalidTaskError(error.reason) from None
            except InvalidTaskError:
                _refused("malformed", message)
                raise
            except Exception as error:  # noqa: BLE001 - whatever a forged message breaks must not end the worker
                _refused("malformed", message)
                raise InvalidTaskError(f"malformed ({type(error).__name__})") from None

    return SignedRequest


class GuardedConsumer(Consumer):  # type: ignore[misc] # Celery is untyped
    """A consumer that no message can bring down: what cannot even be looked at is rejected."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return Celery's own handler with a net under it."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            try:
                handle(message)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                _refused(f"malformed ({type(error).__name__})", message)
                message.reject_log_error(_plain_log, self.connection_errors)

        return on_task_received

    def on_invalid_task(self, _body: Any, message: Any, _exc: Exception) -> None:
        """Reject without Celery's own line, which shows the whole message."""
        message.reject_log_error(_plain_log, self.connection_errors)

    def on_unknown_task(self, _body: Any, message: Any, _exc: Exception) -> None:
        """Reject a task that gateways do not have."""
        _refused("unknown_task", message)
        message.reject_log_error(_plain_log, self.connection_errors)

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        """Reject what is no task at all."""
        _refused("unknown_message", message)
        message.reject_log_error(_plain_log, self.connection_errors)


def _refused(reason: str, message: Any) -> None:
    headers = message.headers if isinstance(getattr(message, "headers", None), Mapping) else {}
    _log.warning(
        "message_refused",
        reason=reason,
        message_id=str(headers.get("id", ""))[:120],
        task=str(headers.get("task", ""))[:120],
    )

"""The Celery application: broker, queues and the settings that were measured to lose nothing.

There is no application at import time; each process makes its own with ``make_app``.

The broker carries hints: a message names a job, and whoever takes it asks the router for the lease. So results are not
kept, nothing is delayed in the broker (delays are rows), and a message that comes twice or never costs a retry.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from celery import Celery
from kombu.entity import Exchange, Queue

from pam_jobs.errors import ConfigurationError
from pam_jobs.queues import own_keys, queue_name

__all__ = ["CONTROL_QUEUE", "is_amqp", "is_redis", "make_app", "node_name", "own_keys", "queue_for", "queue_name"]

CONTROL_QUEUE: Final = "control"
_DIRECT: Final = Exchange("", type="direct")  # type: ignore[no-untyped-call] # kombu is typed in part
_CONNECT_SECONDS = 5.0


def queue_for(gateway_uid: str) -> Queue:
    """Return a gateway's queue, which only the control plane declares: a gateway has no right to."""
    return _queue(queue_name(gateway_uid), no_declare=True)


def _queue(name: str, *, no_declare: bool) -> Queue:
    return Queue(name, _DIRECT, routing_key=name, durable=True, no_declare=no_declare)  # type: ignore[no-untyped-call]


def is_redis(broker_url: str) -> bool:
    """Say whether the broker is Redis or one that speaks its protocol."""
    return broker_url.startswith(("redis", "valkey", "sentinel"))


def is_amqp(broker_url: str) -> bool:
    """Say whether the broker is RabbitMQ."""
    return broker_url.startswith(("amqp", "pyamqp"))


def node_name(prefix: str, suffix: str) -> str:
    """Return a Celery node name; with a suffix of the process's start it is unique, which RabbitMQ demands."""
    return f"{prefix}-{suffix}@{socket.gethostname()}"


def make_app(
    broker_url: str, *, gateway_uid: str | None = None, visibility_seconds: int = 7200, bounded: bool = False
) -> Celery:
    """Return an application that has not connected yet.

    Args:
        broker_url: ``redis+socket:///path``, ``redis://…``, ``rediss://…``, ``amqp://…`` or ``amqps://…``; over TLS with
            ``?ssl_ca_certs=FILE`` where the system's CAs do not know the broker's, and ``ssl_certfile`` and
            ``ssl_keyfile`` where it wants a certificate of its clients.
        gateway_uid: of the gateway whose worker this is; None for the control plane.
        visibility_seconds: when Redis hands an unacknowledged message to another worker; above the longest job.
        bounded: for publishers: give up on a broker that does not answer for some seconds, rather than wait for it.

    Returns:
        The application with its one queue to consume: the gateway's, or ``control``.

    Raises:
        ConfigurationError: the URL asks for TLS that does not check the broker.
    """
    broker_url, tls = _tls(broker_url)
    app = Celery("pam", broker=broker_url, set_as_current=False)
    queue = queue_for(gateway_uid) if gateway_uid else _queue(CONTROL_QUEUE, no_declare=False)
    app.conf.update(
        task_queues=[queue],
        task_default_queue=queue.name,
        task_default_exchange="",
        task_default_routing_key=queue.name,
        task_create_missing_queues=False,
        broker_transport_options=_transport_options(broker_url, gateway_uid, visibility_seconds, bounded=bounded),
        **_SETTINGS,
        worker_disable_prefetch=is_redis(broker_url),
    )
    if tls is not None:
        app.conf.broker_use_ssl = tls
    return app


_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def _tls(broker_url: str) -> tuple[str, dict[str, Any] | None]:
    """Return the URL without its TLS options, and what the transport is to do: always check certificate and name.

    Left to themselves both transports encrypt without asking whom they talk to.
    """
    parts = urlsplit(broker_url)
    query = dict(parse_qsl(parts.query))
    given = {name: query.pop(name) for name in list(query) if name.startswith("ssl_")}
    is_tls = parts.scheme in {"rediss", "amqps"}
    if (wrong := sorted(given.keys() - set(_TLS_OPTIONS))) or (given and not is_tls):
        raise ConfigurationError(
            f"the broker's URL has {', '.join(wrong or given)}, which is not allowed there",
            remedy=f"use rediss:// or amqps://, which check the broker, with {', '.join(_TLS_OPTIONS)} alone",
        )
    if not is_tls:
        return broker_url, None
    if is_amqp(broker_url):
        options = {name.removeprefix("ssl_"): value for name, value in given.items()}
        found: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": parts.hostname, **options}
    else:
        found = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **given}
    return urlunsplit(parts._replace(query=urlencode(query))), found


_SETTINGS: Final[dict[str, Any]] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "event_serializer": "json",
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_acks_on_failure_or_timeout": True,
    "task_publish_retry": False,
    "task_track_started": False,
    "worker_prefetch_multiplier": 1,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "task_send_sent_event": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_connection_timeout": _CONNECT_SECONDS,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "enable_utc": True,
    "timezone": "UTC",
}


def _transport_options(
    broker_url: str, gateway_uid: str | None, visibility_seconds: int, *, bounded: bool
) -> dict[str, Any]:
    if is_amqp(broker_url):
        return {"max_retries": 1, "interval_start": 0} if bounded else {}
    options: dict[str, Any] = {
        "priority_steps": [0],  # one key a queue, which a broker's access rule can name exactly
        **own_keys(gateway_uid),
        "visibility_timeout": visibility_seconds,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_connect_timeout": _CONNECT_SECONDS,
        "socket_keepalive": True,
    }
    if bounded:
        options["socket_timeout"] = _CONNECT_SECONDS
    if broker_url.startswith("redis+socket"):
        options.pop("socket_keepalive")
        options.pop("socket_connect_timeout")
    return options

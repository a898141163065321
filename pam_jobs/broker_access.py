"""The broker's account of one gateway: what it may touch is its own queue and its own list of unacknowledged messages.

Whoever takes a gateway over must not read, forge or delete what is another's. The rules name keys and queues exactly,
never by a pattern, and grant the commands that the worker was seen to need, no more. They give no right to events or
remote control: the router sends the events, and nothing is controlled through the broker.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import quote

from pam_jobs.errors import InvalidInput
from pam_jobs.ids import check_uid
from pam_jobs.queues import own_keys, queue_name
from pam_jobs.secret import SecretValue

__all__ = ["Account", "BrokerKind", "account"]

_REDIS_COMMANDS: Final = (
    # taking a message, giving it back
    *("brpop", "rpop", "llen", "lpush", "rpush"),
    # what is taken and not acknowledged yet
    *("hset", "hget", "hdel", "zadd", "zrem", "zrange", "multi", "exec", "discard", "watch", "unwatch"),
    # one worker at a time puts back what was never acknowledged
    *("set", "get", "del", "pexpire", "eval", "evalsha", "script|load"),
    *("ping", "hello", "auth", "select", "client|setname"),
)  # fmt: skip


class BrokerKind(StrEnum):
    """Which broker the account is for."""

    REDIS = "redis"
    RABBITMQ = "rabbitmq"


@dataclass(frozen=True, kw_only=True)
class Account:
    """A gateway's account: how to make it, and how the gateway uses it."""

    broker: BrokerKind
    user: str
    password: SecretValue
    queue: str
    commands: tuple[str, ...]  # to be run at the broker; none holds the password
    lasting: str | None  # the line of Redis' configuration that makes the account outlive its restart
    url_user: str  # ``user:password``, quoted as a URL needs it

    def dotenv(self, host: str) -> tuple[str, str]:
        """Return the lines of ``.env`` with which Compose makes the account and lets its gateway use it.

        Raises:
            InvalidInput: Compose's broker is Redis, and the account is for another one.
        """
        if self.lasting is None:
            raise InvalidInput("docker-compose.yml has a Redis", remedy="leave --broker away")
        return f"GATEWAY_BROKER_URL=redis://{self.url_user}@{host}:6379/0", f"GATEWAY_BROKER_RULE='{self.lasting}'"

    def url(self, host: str) -> str:
        """Return the gateway's PAM_BROKER_URL, with its password."""
        if self.broker is BrokerKind.REDIS:
            return f"rediss://{self.url_user}@{host}:6379/0"
        return f"amqps://{self.url_user}@{host}:5671//"


def account(kind: BrokerKind, gateway_uid: str, password: SecretValue, *, vhost: str = "/") -> Account:
    """Return the account of a gateway.

    Args:
        kind: of the broker.
        gateway_uid: of the gateway.
        password: new and random; a weak one could be found from its hash.
        vhost: RabbitMQ's virtual host.

    Raises:
        InvalidInput: the UID is none.
    """
    check_uid(gateway_uid, "gateway UID")
    user, queue = f"gateway-{gateway_uid}", queue_name(gateway_uid)
    if kind is BrokerKind.REDIS:
        rule = _redis_rule(gateway_uid, password)
        commands: tuple[str, ...] = (f"ACL SETUSER {user} {rule}",)
        lasting: str | None = f"user {user} {rule}"
    else:
        commands, lasting = _rabbitmq_commands(user, queue, vhost), None
    return Account(
        broker=kind,
        user=user,
        password=password,
        queue=queue,
        commands=commands,
        lasting=lasting,
        url_user=f"{user}:{quote(password.reveal(), safe='')}",
    )


def _redis_rule(gateway_uid: str, password: SecretValue) -> str:
    """Return what follows the user's name; the password is in it as the hash that Redis keeps."""
    digest = hashlib.sha256(password.reveal().encode()).hexdigest()
    keys = (queue_name(gateway_uid), *own_keys(gateway_uid).values())
    return " ".join(
        (
            *("reset", "on", f"#{digest}", "resetkeys", "resetchannels", "-@all"),
            *(f"~{key}" for key in keys),
            *(f"+{command}" for command in _REDIS_COMMANDS),
        )
    )


def _rabbitmq_commands(user: str, queue: str, vhost: str) -> tuple[str, ...]:
    # It declares nothing and publishes nothing: the control plane makes its queue, and its answers go over HTTPS.
    return (
        f"rabbitmqctl add_user {user}",
        f"rabbitmqctl set_permissions -p {vhost} {user} '^$' '^$' '^{re.escape(queue)}$'",
    )

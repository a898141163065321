"""The router's signature over a task message: who may run what, where and until when.

A broker's user can put anything on a gateway's queue; a gateway runs only what carries this header. The signature
covers the task's name, the message's id, the queue, all arguments and the expiry, so that no part of a signed message
serves in another one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pam_jobs.crypto.keystore import verify_signature
from pam_jobs.errors import AccessDenied

__all__ = ["HEADER", "MessageRefused", "key_id", "sign", "task_name", "verify"]

HEADER: Final = "pam"
"""Name of the message header that holds what ``sign`` returns."""


class MessageRefused(AccessDenied):
    """The message is not one that the router sent to this queue.

    ``reason`` is a stable code: ``unsigned``, ``malformed``, ``unknown_key``, ``expired`` or ``bad_signature``.
    """

    code = "message_refused"

    def __init__(self, reason: str, message: str) -> None:
        """Keep the code beside the sentence."""
        super().__init__(message, remedy="nothing to do when it is rare; else look who can write to the broker")
        self.reason = reason


def task_name(kind: str) -> str:
    """Return the task that works on jobs of the kind."""
    return f"pam.{kind}"


def key_id(public: bytes) -> str:
    """Return the short name of an Ed25519 public key: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


@lru_cache(maxsize=8)
def _key_id_of(key: Ed25519PrivateKey) -> str:
    return key_id(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def _canonical(
    name: str, message_id: str, queue: str, args: Sequence[Any], kwargs: Mapping[str, Any], expires: int
) -> bytes:
    document = [name, message_id, queue, list(args), dict(kwargs), expires]
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def sign(
    key: Ed25519PrivateKey,
    *,
    name: str,
    message_id: str,
    queue: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    expires: int,
) -> dict[str, str | int]:
    """Return the header ``{"kid", "exp", "sig"}`` of one message.

    Args:
        key: the router's signing key.
        name: the task.
        message_id: unique for each publication.
        queue: where it is published.
        args: positional arguments, JSON values.
        kwargs: named arguments, JSON values.
        expires: second since the epoch after which nobody runs it.
    """
    signature = key.sign(_canonical(name, message_id, queue, args, kwargs, expires))
    return {"kid": _key_id_of(key), "exp": expires, "sig": base64.b64encode(signature).decode()}


def verify(
    public: bytes,
    header: Any,
    *,
    name: str,
    message_id: str,
    queue: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    now: datetime,
) -> None:
    """Return when the router signed exactly this message for exactly this queue and it is still valid.

    Args:
        public: the router's public key, 32 bytes.
        header: what stood in the message under ``HEADER``; anything at all.
        name: the task that would run.
        message_id: of the message.
        queue: the one it was taken from, as the gateway knows it; never what the message says of itself.
        args: positional arguments that would be used.
        kwargs: named arguments that would be used.
        now: the present instant.

    Raises:
        MessageRefused: with the reason.
    """
    if header is None:
        raise MessageRefused("unsigned", "the message carries no signature")
    if not isinstance(header, Mapping):
        raise MessageRefused("malformed", "the message's signature header has a wrong form")
    expires, text = header.get("exp"), header.get("sig")
    if not isinstance(expires, int) or isinstance(expires, bool) or not isinstance(text, str):
        raise MessageRefused("malformed", "the message's signature header has a wrong form")
    if header.get("kid") != key_id(public):
        raise MessageRefused("unknown_key", "the message was signed by a key that is not the router's present one")
    try:
        signature = base64.b64decode(text, validate=True)
        signed = _canonical(name, message_id, queue, args, kwargs, expires)
    except (binascii.Error, TypeError, ValueError) as error:
        raise MessageRefused("malformed", "the message's signature header has a wrong form") from error
    if not verify_signature(public, signature, signed):
        raise MessageRefused("bad_signature", "the message's signature is not that of its content and queue")
    if now.timestamp() >= expires:
        raise MessageRefused("expired", "the message's time has passed")

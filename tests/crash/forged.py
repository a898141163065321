"""Messages as somebody else would have made them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pam_jobs.jobs.signing import HEADER, sign

__all__ = ["forgeries"]

_GARBAGE = (
    b"{}", b"no message at all", b"[]", b"\xff\xfe", b"17", b'{"properties": []}', b'{"properties": {"delivery_tag": []}}',
)  # fmt: skip


def forgeries(messages: Sequence[bytes], queue: str, own: Ed25519PrivateKey) -> list[bytes]:
    """Return what is to be refused: each message expired, by a key that nobody knows, and of another queue; and garbage."""
    return [
        *(_signed_anew(message, queue, own, expires=int(time.time()) - 5) for message in messages),
        *(_signed_anew(message, queue, Ed25519PrivateKey.generate()) for message in messages),
        *(_signed_anew(message, "gateway.another", own) for message in messages),
        *_GARBAGE,
    ]


def _signed_anew(message: bytes, queue: str, key: Ed25519PrivateKey, *, expires: int = 2**33) -> bytes:
    """Return the message as somebody else would have made it, under an id of its own."""
    document = json.loads(message)
    headers = document["headers"]
    headers["id"] = f"{headers['id']}x{queue[-3:]}{expires % 7}"
    body = json.loads(base64.b64decode(document["body"]))
    headers[HEADER] = sign(
        key, name=headers["task"], message_id=headers["id"], queue=queue, args=body[0], kwargs={}, expires=expires
    )
    document["properties"]["correlation_id"] = headers["id"]
    document["properties"]["delivery_tag"] = headers["id"]
    return json.dumps(document).encode()

"""Messages as somebody else would have made them."""

from __future__ import annotations

import base64
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pam_jobs.jobs.signing import HEADER, sign

__all__ = ["signed_anew"]


def signed_anew(message: bytes, queue: str, key: Ed25519PrivateKey, *, expires: int = 2**33) -> bytes:
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

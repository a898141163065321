"""The KSM wire envelope: a key per request, wrapped to the router, and a signature over what was sent.

A request is ``AES-GCM(JSON)`` under a fresh 32-byte transmission key; the key comes ECIES-wrapped in a header; the client
signs the wrapped key and the body together. The answer is sealed with the same transmission key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pam_jobs.crypto import aes, p256
from pam_jobs.crypto.blob import from_base64
from pam_jobs.crypto.keystore import SERVER_KEY_ID
from pam_jobs.errors import AccessDenied, PamJobsError, VaultError

__all__ = ["BadRequest", "Expired", "InvalidClientVersion", "Opened", "Throttled", "WrongKey", "open_request", "seal"]

_KEY_BYTES = 32
_SCHEME = "Signature"


class BadRequest(PamJobsError):
    """The request cannot be read."""

    code = "bad_request"


class InvalidClientVersion(PamJobsError):
    """The client does not say what it is."""

    code = "invalid_client_version"


class WrongKey(PamJobsError):
    """The transmission key is wrapped to another server's key."""

    code = "key"


class Expired(AccessDenied):
    """The time of this device's access is over."""


class Throttled(PamJobsError):
    """The device asks too often."""

    code = "throttled"

    def __init__(self, retry_after_seconds: float, *, is_first: bool) -> None:
        """Keep when to come back, and whether this is the first refusal of its window."""
        super().__init__(remedy=f"wait {retry_after_seconds:.1f} s")
        self.retry_after_seconds = retry_after_seconds
        self.is_first = is_first


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A request whose body could be opened; whose it is, its signature has yet to show."""

    payload: dict[str, Any] = field(repr=False)
    transmission_key: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def is_signed_by(self, public_key: bytes) -> bool:
        """Say whether the holder of the key signed the request."""
        return p256.verify(public_key, self.signature, self.signed)


def open_request(server_key: p256.PrivateKey, headers: Mapping[str, str], body: bytes) -> Opened:
    """Return the opened request.

    Raises:
        WrongKey: it names another server key. Never for our own id: some clients would ask again without any pause.
        BadRequest: headers or body are missing, damaged or cut off.
    """
    key_id = headers.get("publickeyid", "").strip()
    if key_id.isdigit() and key_id != SERVER_KEY_ID:
        raise WrongKey(f"the request is for server key {key_id[:16]}", remedy=f"use the server key {SERVER_KEY_ID}")
    if key_id != SERVER_KEY_ID:
        raise BadRequest("the request names no server key", remedy="send the header PublicKeyId")
    scheme, _, signature_text = headers.get("authorization", "").partition(" ")
    if scheme != _SCHEME:
        raise BadRequest("the request carries no signature", remedy="send the header Authorization: Signature …")
    try:
        wrapped = from_base64(headers.get("transmissionkey", ""))
        signature = from_base64(signature_text)
    except ValueError as error:
        raise BadRequest("a header of the request is not base64", remedy="send it again") from error
    try:
        key = p256.ecies_decrypt(wrapped, server_key)
        payload = json.loads(aes.decrypt(body, key))
    except (VaultError, ValueError) as error:
        raise BadRequest(
            "the request does not open with this server's key, or was cut off", remedy="check serverPublicKey"
        ) from error
    if not isinstance(payload, dict) or len(key) != _KEY_BYTES:
        raise BadRequest("the request holds no object under a 32-byte key", remedy="use one of the vendor's SDKs")
    return Opened(payload=payload, transmission_key=key, signed=wrapped + body, signature=signature)


def seal(answer: Mapping[str, Any] | None, transmission_key: bytes) -> bytes:
    """Return the answer's body: sealed JSON, or nothing where there is nothing to say."""
    if answer is None:
        return b""
    return aes.encrypt(json.dumps(answer, separators=(",", ":")).encode(), transmission_key)

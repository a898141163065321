"""Bytes in JSON: raw in Python, padded standard base64 on the wire."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

__all__ = ["Blob", "from_base64", "to_base64"]


def to_base64(raw: bytes) -> str:
    """Return padded standard base64."""
    return base64.b64encode(raw).decode()


def from_base64(text: str) -> bytes:
    """Return the bytes of base64 in either alphabet, padded or not.

    Raises:
        ValueError: the text is not base64.
    """
    clean = text.strip().replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(clean + "=" * (-len(clean) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def _accept(value: Any) -> Any:
    return from_base64(value) if isinstance(value, str) else value


Blob = Annotated[
    bytes,
    BeforeValidator(_accept),
    PlainSerializer(to_base64, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "byte"}),
]

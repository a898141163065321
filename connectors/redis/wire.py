"""The serialization of Redis (RESP 2): what is sent, and what comes back.

Source: redis.io documentation, "Redis serialization protocol specification".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from connectors.redis.errors import Garbled, ServerRefusal

__all__ = ["Reply", "encoded", "read_reply", "text_of"]

Reply: TypeAlias = "bytes | int | list[Reply] | ServerRefusal | None"

_LONGEST_LINE = 4096
_MOST_BYTES = 16 << 20
_MOST_ITEMS = 1 << 16
_DEEPEST = 6


def encoded(*parts: str | bytes) -> bytes:
    """Return one command; every part goes by its length, so that nothing in it is ever read as something else."""
    pieces = [b"*%d\r\n" % len(parts)]
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        pieces += [b"$%d\r\n" % len(data), data, b"\r\n"]
    return b"".join(pieces)


def read_reply(line: Callable[[int], bytes], exactly: Callable[[int], bytes], depth: int = 0) -> Reply:
    """Return one answer.

    Args:
        line: returns what came up to the next CR LF, without it, and fails beyond so many bytes.
        exactly: returns so many bytes.
        depth: of lists around it.

    Raises:
        Garbled: it is none.
        OSError: of the two functions.
    """
    head = line(_LONGEST_LINE)
    kind, rest = head[:1], head[1:]
    if kind == b"+":
        return rest
    if kind == b"-":
        return ServerRefusal.of(rest.decode("utf-8", "replace"))
    number = _number(rest, kind)
    if kind == b":":
        return number
    if number == -1:
        return None
    if kind == b"$" and 0 <= number <= _MOST_BYTES:
        data = exactly(number + 2)
        if data[-2:] != b"\r\n":
            raise Garbled
        return data[:-2]
    if kind == b"*" and 0 <= number <= _MOST_ITEMS and depth < _DEEPEST:
        return [read_reply(line, exactly, depth + 1) for _ in range(number)]
    raise Garbled


def text_of(reply: Reply) -> str:
    """Return an answer as text; empty when it is none."""
    return reply.decode("utf-8", "surrogateescape") if isinstance(reply, bytes) else ""


def _number(digits: bytes, kind: bytes) -> int:
    if kind not in {b":", b"$", b"*"} or not digits.lstrip(b"-").isdigit() or len(digits) > 20:
        raise Garbled
    return int(digits)

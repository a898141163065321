"""The first packets of Oracle's TNS: enough to recognise a listener, which waits for the client to begin."""

from __future__ import annotations

import socket
import struct

from connectors.base import Deadline

__all__ = ["is_oracle"]

_CONNECT_SECONDS = 5.0
_CONNECT = 1
_ANSWERS = frozenset({2, 4, 5, 11})  # accepted, refused, go elsewhere, say it again
_LONGEST = 8192
_QUESTION = b"(DESCRIPTION=(CONNECT_DATA=(SERVICE_NAME=pam-jobs-recognise)(CID=(PROGRAM=pam-jobs))))"


def is_oracle(host: str, port: int, deadline: Deadline) -> bool:
    """Say whether what listens answers a connection as a listener does, and leave.

    Raises:
        OSError: it cannot be reached, or says nothing in time.
    """
    deadline = Deadline(deadline.remaining(_CONNECT_SECONDS))
    head = struct.pack(">HHHHHHHHHHIBB", 317, 300, 0, 8192, 8192, 0x4F98, 0, 1, len(_QUESTION), 74, 0, 0x84, 0x84)
    body = head + bytes(24) + struct.pack(">IIII", 8192, 8192, 0, 0) + _QUESTION
    with socket.create_connection((host, port), timeout=deadline.remaining()) as raw:
        raw.sendall(struct.pack(">HHBBH", len(body) + 8, 0, _CONNECT, 0, 0) + body)
        got = b""
        while len(got) < 8:
            raw.settimeout(deadline.remaining())
            piece = raw.recv(8 - len(got))
            if not piece or deadline.is_over:
                return False
            got += piece
    length, checksum, kind, _, other = struct.unpack(">HHBBH", got)
    return kind in _ANSWERS and 8 <= length <= _LONGEST and (checksum, other) == (0, 0)

"""The text of an ``authorized_keys`` file. No input or output here.

Rule of the line: ours ends with the comment ``keeper-security-<record uid>``. The first time it is added and everything else
stays, the old key included, so that nobody is locked out; from then on that line alone is replaced.
"""

from __future__ import annotations

import base64
import binascii
import re

from pam_jobs.errors import InvalidInput

__all__ = ["KEY_TYPES", "with_key"]

KEY_TYPES = ("ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-ed25519")
"""The algorithms that can be rotated, as they begin a line."""

_KEY_WORD = re.compile(rb"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.-]+")  # whatever type an older line of ours had


def with_key(existing: bytes, public_key: str, comment: str) -> bytes:
    """Return the file with our line in it; every other line stays as it is, to the byte.

    Options that somebody put before the key on our line stay in force. A second line of ours is dropped: it would keep
    an old key alive.

    Args:
        existing: the file as it is; empty when there is none.
        public_key: "type base64".
        comment: one word that marks the line.

    Raises:
        InvalidInput: key or comment would not make one well-formed line.
    """
    key, mark = _checked(public_key, comment)
    kept: list[bytes] = []
    is_placed = False
    for line in _lines(existing):
        if not _is_ours(line, mark):
            kept.append(line)
        elif not is_placed:
            kept.append(_options(line) + key + b" " + mark + _ending(line))
            is_placed = True
    if not is_placed:
        if kept and not kept[-1].endswith(b"\n"):
            kept.append(b"\n")
        kept.append(key + b" " + mark + b"\n")
    return b"".join(kept)


def _lines(raw: bytes) -> list[bytes]:
    """Return the lines by newline alone, as sshd reads them."""
    pieces = raw.split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def _checked(public_key: str, comment: str) -> tuple[bytes, bytes]:
    parts = public_key.split(" ")
    if len(parts) != 2 or parts[0] not in KEY_TYPES or not _is_blob_of(parts[1], parts[0]):
        raise InvalidInput("the public key is not one that can be rotated", remedy=f"use one of {', '.join(KEY_TYPES)}")
    if not comment or not comment.isascii() or not comment.isprintable() or " " in comment:
        raise InvalidInput("the comment of a key is one word", remedy="use keeper-security-<record uid>")
    return public_key.encode(), comment.encode()


def _is_blob_of(text: str, key_type: str) -> bool:
    """Say whether the base64 text is a key that names this type itself."""
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    name = key_type.encode()
    return blob.startswith(len(name).to_bytes(4, "big") + name)


def _is_ours(line: bytes, mark: bytes) -> bool:
    words = line.split()
    return len(words) >= 3 and not words[0].startswith(b"#") and words[-1] == mark


def _options(line: bytes) -> bytes:
    """Return what stands before the key's type on a line, with its space; quoted text is not looked into."""
    is_quoted = False
    start = 0
    for index, byte in enumerate(line):
        if byte == ord('"') and line[index - 1 : index] != b"\\":
            is_quoted = not is_quoted
        elif byte in b" \t" and not is_quoted:
            if _KEY_WORD.fullmatch(line[start:index]):
                return line[:start]
            start = index + 1
    return b""


def _ending(line: bytes) -> bytes:
    for ending in (b"\r\n", b"\n"):
        if line.endswith(ending):
            return ending
    return b""

"""Syslog messages as RFC 5424 writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from pam_jobs.audit.aram import timestamp
from pam_jobs.audit.sinks.base import SinkEvent

__all__ = ["PRIORITY", "format_message", "header_field", "structured_data"]

PRIORITY = 110  # facility 13 (log audit), severity 6 (informational)
_BOM = b"\xef\xbb\xbf"  # says that the text is UTF-8 (section 6.4)
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")
_NOT_IN_NAMES = re.compile(r"[^\x21-\x7e]|[=\]\"]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_ESCAPED = re.compile(r"([\"\\\]])")


def header_field(text: str, length: int) -> str:
    """Return the text as a header field: printable ASCII, no space, at most so long; ``-`` when nothing is left."""
    return _NOT_PRINTABLE.sub("_", text)[:length] or "-"


def structured_data(identifier: str, values: Mapping[str, object]) -> str:
    r"""Return one SD-ELEMENT.

    In values ``"``, ``\`` and ``]`` are escaped (section 6.3.3), and control characters become spaces, for a line feed
    would end the message where lines frame it.
    """
    parts = [_NOT_IN_NAMES.sub("_", identifier)[:32]]
    for name, value in values.items():
        text = _ESCAPED.sub(r"\\\1", _CONTROL.sub(" ", _text(value)))
        parts.append(f'{_NOT_IN_NAMES.sub("_", name)[:32] or "_"}="{text}"')
    return f"[{' '.join(parts)}]"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)


def format_message(event: SinkEvent, *, hostname: str, app_name: str, identifier: str, as_json: bool) -> bytes:
    """Return the whole message without framing.

    Args:
        event: what is told.
        hostname: of this installation.
        app_name: APP-NAME.
        identifier: SD-ID of the structured data, ``name@number``.
        as_json: the message part is the JSON document; else it is the sentence.
    """
    head = (
        f"<{PRIORITY}>1 {timestamp(event.created_at)} {header_field(hostname, 255)} {header_field(app_name, 48)}"
        f" - {header_field(event.name, 32)} {structured_data(identifier, event.body)} "
    ).encode(errors="replace")
    if as_json:  # ASCII alone, so no mark stands between a parser and the brace
        return head + json.dumps(event.body, ensure_ascii=True, separators=(",", ":")).encode()
    text = _CONTROL.sub(" ", event.sentence)
    return head + (b"" if text.isascii() else _BOM) + text.encode(errors="replace")

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pam_jobs.audit.sinks.base import SinkEvent
from pam_jobs.audit.sinks.rfc5424 import format_message, header_field, structured_data
from tests.support.audit import START

pytestmark = pytest.mark.unit

# section 6, as far as we write it
MESSAGE = re.compile(
    rb"<(\d{1,3})>1 (\S+) ([\x21-\x7e]{1,255}) ([\x21-\x7e]{1,48}) - ([\x21-\x7e]{1,32}) "
    rb'(\[[\x21-\x7e]{1,32}(?: [!#-<>-\\^-~]{1,32}="(?:[^"\\\]]|\\["\\\]])*")*\]) (.*)',
    re.DOTALL,
)


def event(sentence: str = "all well", **body: object) -> SinkEvent:
    return SinkEvent(position=1, name="record_add", created_at=START, body=body, sentence=sentence)


def message(one: SinkEvent, *, as_json: bool = True) -> bytes:
    return format_message(
        one, hostname="host.example", app_name="pam-jobs", identifier="pam-jobs@32473", as_json=as_json
    )


def test_a_message_has_the_parts_of_the_standard() -> None:
    assert message(event(record_uid="R", position=7)) == (
        b"<110>1 2025-03-01T12:00:00.123Z host.example pam-jobs - record_add "
        b'[pam-jobs@32473 record_uid="R" position="7"] {"record_uid":"R","position":7}'
    )


def test_quote_backslash_and_bracket_are_escaped() -> None:
    assert structured_data("x@1", {"a": 'q" b\\ c]'}) == '[x@1 a="q\\" b\\\\ c\\]"]'


def test_text_beyond_ascii_is_marked_as_utf8() -> None:
    assert message(event("für alle"), as_json=False).endswith(b" \xef\xbb\xbff\xc3\xbcr alle")
    assert b"\xef\xbb\xbf" not in message(event("for all"), as_json=False)


def test_a_header_field_is_printable_and_bounded() -> None:
    assert header_field("a b\u00e9", 10) == "a_b_"
    assert header_field("x" * 300, 255) == "x" * 255
    assert header_field("", 10) == "-"


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()), st.text(), st.booleans())
def test_whatever_the_values_are_it_is_one_message_of_one_line(
    body: dict[str, object], sentence: str, as_json: bool
) -> None:
    one = SinkEvent(position=1, name="record_add", created_at=START, body=body, sentence=sentence)
    written = message(one, as_json=as_json)
    assert MESSAGE.fullmatch(written)
    assert not any(byte in written for byte in (b"\n", b"\r", b"\0"))

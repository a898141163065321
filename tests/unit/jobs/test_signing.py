from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pam_jobs.jobs.signing import MessageRefused, key_id, sign, verify

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
MESSAGE: dict[str, Any] = {
    "name": "pam.rotate", "message_id": "job.1", "queue": "gateway.A", "args": ["job"], "kwargs": {},
}  # fmt: skip


def header(**changes: Any) -> dict[str, Any]:
    return dict(sign(KEY, **{**MESSAGE, "expires": int(NOW.timestamp()) + 60, **changes}))


def check(signed: Any, **changes: Any) -> None:
    verify(PUBLIC, signed, **{**MESSAGE, "now": NOW, **changes})


def reason(signed: Any, **changes: Any) -> str:
    with pytest.raises(MessageRefused) as caught:
        check(signed, **changes)
    return caught.value.reason


def test_a_signed_message_is_accepted_also_with_its_arguments_as_a_tuple():
    check(header())
    check(header(), args=("job",))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "pam.discover"}, {"message_id": "job.2"}, {"queue": "gateway.B"}, {"args": ["other"]},
        {"args": []}, {"kwargs": {"force": True}},
    ],
)  # fmt: skip
def test_no_part_of_a_signed_message_serves_in_another(change: dict[str, Any]):
    assert reason(header(), **change) == "bad_signature"


def test_an_expired_message_is_refused():
    assert reason(header(expires=int(NOW.timestamp()))) == "expired"


def test_the_expiry_cannot_be_moved():
    assert reason({**header(), "exp": int(NOW.timestamp()) + 999}) == "bad_signature"


def test_another_key_is_refused_by_name_and_by_signature():
    other = Ed25519PrivateKey.generate()
    signed = sign(other, **MESSAGE, expires=int(NOW.timestamp()) + 60)
    assert reason(signed) == "unknown_key"
    assert reason({**signed, "kid": key_id(PUBLIC)}) == "bad_signature"


@pytest.mark.parametrize(
    ("signed", "why"),
    [
        (None, "unsigned"),
        ("text", "malformed"),
        ({}, "malformed"),
        ({"kid": key_id(PUBLIC), "exp": True, "sig": "AAAA"}, "malformed"),
        ({"kid": key_id(PUBLIC), "exp": "soon", "sig": "AAAA"}, "malformed"),
        ({"kid": key_id(PUBLIC), "exp": 2**40, "sig": 7}, "malformed"),
        ({"kid": key_id(PUBLIC), "exp": 2**40, "sig": "not base64!"}, "malformed"),
        ({"kid": key_id(PUBLIC), "exp": 2**40, "sig": ""}, "bad_signature"),
    ],
)
def test_what_is_no_signature_is_refused_with_its_reason(signed: Any, why: str):
    assert reason(signed) == why


def test_arguments_that_are_no_json_are_refused():
    assert reason(header(), args=[object()]) == "malformed"

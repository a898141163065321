from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pam_jobs.records.keys import generate_key
from pam_jobs.records.record import Record
from workers.scrub import MASK, Scrubber, secrets_of

pytestmark = pytest.mark.unit

SECRET = 'p&ss "wörd"/+1'


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET,
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        html.escape(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="),
        base64.b64encode(SECRET.encode() + b"\n").decode(),
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
    ],
)
def test_every_spelling_is_masked(spelling: str) -> None:
    assert Scrubber([SECRET]).clean(f"before {spelling} after") == f"before {MASK} after"


@pytest.mark.parametrize("before", ["", "u", "us", "usr:", "user:"])
def test_the_inside_of_a_longer_base64_is_masked(before: str) -> None:
    whole = base64.b64encode(f"{before}{SECRET}:and more".encode()).decode()
    cleaned = Scrubber([SECRET]).clean(whole)
    assert MASK in cleaned
    assert len(cleaned) < len(whole)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=3, max_size=40), st.text(max_size=40))
def test_no_secret_survives(secret: str, around: str) -> None:
    cleaned = Scrubber([secret]).clean(f"{around}{secret}{around}")
    assert secret not in cleaned or secret in MASK


def test_each_line_of_a_key_is_masked() -> None:
    pem = generate_key("ssh-ed25519").private_pem.reveal()
    cleaned = Scrubber([pem]).clean("\n".join(f"  {line}" for line in pem.splitlines()))
    assert all(line not in cleaned for line in pem.splitlines() if not line.startswith("-----"))


def test_the_longest_spelling_goes_first() -> None:
    assert Scrubber(["abc", "abcdef"]).clean("abcdef") == MASK


def test_a_secret_too_short_to_mask_withholds_everything() -> None:
    assert "ab" not in Scrubber(["ab"]).clean("lab")
    assert Scrubber(["ab"]).clean("") == ""


def test_without_secrets_nothing_changes() -> None:
    assert Scrubber(["", "  "]).clean("as it was") == "as it was"


def test_secret_fields_are_found_wherever_they_stand() -> None:
    record = Record.parse({
        "type": "pamUser", "title": "t",
        "fields": [{"type": "login", "value": ["app"]}, {"type": "password", "value": ["one"]},
                   {"type": "keyPair", "value": [{"publicKey": "p", "privateKey": "two"}]}],
        "custom": [{"type": "secret", "label": "token", "value": ["three", ""]}, {"type": "text", "value": ["four"]}],
    })  # fmt: skip
    assert secrets_of(record) == {"one", "two", "p", "three"}

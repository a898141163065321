"""The one statement whose quoting is ours to get right."""

from __future__ import annotations

import pytest

from connectors.postgresql.scram import scram_verifier
from connectors.postgresql.statements import alter_role

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("login", "quoted"),
    [
        ("joe", b'"joe"'),
        ('a"b', b'"a""b"'),
        ("x'; DROP ROLE y; --", b'"x\'; DROP ROLE y; --"'),
        ("back\\slash", b'"back\\slash"'),
        ("Ümläut", '"Ümläut"'.encode()),
        ("-dash %s {}", b'"-dash %s {}"'),
    ],
)
def test_login_is_quoted_as_a_name(login, quoted):
    assert alter_role(login, "v") == b"ALTER ROLE " + quoted + b" PASSWORD 'v'"


def test_verifier_is_quoted_as_a_literal():
    assert alter_role("x", "it's").endswith(b"PASSWORD 'it''s'")
    assert b"\\" not in alter_role("x", scram_verifier("it's \\ there")[0])

"""Values become Transact-SQL in one place, and cannot leave their quotes there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sqlserver.quoting import (
    alter_login,
    alter_user,
    checked_database,
    checked_name,
    checked_password,
    identifier,
    literal,
)
from pam_jobs.errors import PolicyRefused, Unsupported

pytestmark = pytest.mark.unit


@given(st.text(), st.text(), st.text())
def test_a_statement_holds_its_values_and_nothing_else(login, password, old):
    statement = alter_login(login, password, old=old, unlocks=True)
    read = re.fullmatch(
        r"ALTER LOGIN \[((?:[^\]]|\]\])*)\] WITH PASSWORD = N'((?:[^']|'')*)' OLD_PASSWORD = N'((?:[^']|'')*)' UNLOCK",
        statement,
    )
    assert read is not None
    assert (read[1].replace("]]", "]"), read[2].replace("''", "'"), read[3].replace("''", "'")) == (
        login,
        password,
        old,
    )


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        ("sa]; DROP LOGIN [x", "[sa]]; DROP LOGIN [x]", "N'sa]; DROP LOGIN [x'"),
        ("'; SHUTDOWN --", "['; SHUTDOWN --]", "N'''; SHUTDOWN --'"),
        ("", "[]", "N''"),
    ],
)
def test_what_would_end_a_quote_is_doubled(value, name, text):
    assert identifier(value) == name
    assert literal(value) == text


def test_a_statement_without_old_password_has_none():
    assert alter_user("a", "b") == "ALTER USER [a] WITH PASSWORD = N'b'"


@pytest.mark.parametrize("login", ["", "CORP\\ann", "a\0b", "x" * 129, "😀" * 65, "\ud800"])
def test_what_is_no_sql_login_is_refused_by_name(login):
    with pytest.raises(Unsupported):
        checked_name(login)


@pytest.mark.parametrize("password", ["", "a\0b", "x" * 129, "😀" * 65, "\udfff"])
def test_what_is_no_password_is_refused(password):
    with pytest.raises(PolicyRefused):
        checked_password(password)


def test_the_longest_values_are_taken():
    assert checked_name("x" * 128)
    assert checked_password("😀" * 64)
    assert checked_database("a\\b")
    with pytest.raises(Unsupported):
        checked_database("")

"""Values become Oracle's SQL in one place, and cannot leave their quotes there."""

from __future__ import annotations

import pytest

from connectors.oracle.errors import DriverFailure, ServerRefusal, map_error, verdict_of
from connectors.oracle.quoting import alter_user, checked_password, stored_name
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    ConnectionLost,
    EffectUnknown,
    Forbidden,
    Locked,
    NotApplied,
    PolicyRefused,
    Unreachable,
    Unsupported,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("login", "name"),
    [("scott", "SCOTT"), ('"scott"', "scott"), ("a'b", "a'b"), ("C##ADM", "C##ADM"), ("ann@x", "ann@x"), ("ü", "ü")],
)
def test_a_login_names_a_user_as_in_sql(login, name):
    assert stored_name(login) == name


@pytest.mark.parametrize("login", ["", '""', 'a"b', "a\0b", "proxy[user]", "x" * 129, "ü" * 65, "\ud800"])
def test_what_is_no_user_is_refused_by_name(login):
    with pytest.raises(Unsupported):
        stored_name(login)


@pytest.mark.parametrize("password", ["", 'a"b', "a\0b", "x" * 31, "ü" * 16, "\udfff"])
def test_what_is_no_password_is_refused(password):
    with pytest.raises(PolicyRefused):
        checked_password(password, 30)


def test_a_statement_holds_its_values_and_no_double_quote_more():
    assert alter_user("X", "p'; DROP", "o") == 'ALTER USER "X" IDENTIFIED BY "p\'; DROP" REPLACE "o"'
    for values in (('a"', "b", None), ("a", 'b"', None), ("a", "b", 'c"')):
        with pytest.raises(Unsupported):
            alter_user(*values)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1017, AuthRejected), (28008, AuthRejected), (28000, Locked), (28001, Locked), (1031, Forbidden), (942, Forbidden),
        (1918, Unsupported), (28003, PolicyRefused), (28007, PolicyRefused), (65066, Unsupported), (65040, Unsupported),
        (12514, Unsupported), (1033, ConnectionLost), (3113, ConnectionLost), (4021, NotApplied), (600, AmbiguousReply),
    ],
)  # fmt: skip
def test_an_error_of_oracle_means_what_it_says_of_the_user(code, kind):
    assert type(map_error(ServerRefusal(code=code), sent=True)) is kind


@pytest.mark.parametrize("error", [DriverFailure(code="DPY-4011"), TimeoutError(), OSError()])
def test_failures_of_the_driver_prove_nothing_once_the_change_was_sent(error):
    assert type(map_error(error, sent=False)) is Unreachable
    assert isinstance(map_error(error, sent=True), EffectUnknown)
    assert verdict_of(error).state == "unknown"


@pytest.mark.parametrize(
    ("code", "state", "cause"),
    [
        (1017, "refused", "wrong_password"), (28001, "accepted", "expired"), (28000, "locked", "account_locked"),
        (1045, "unknown", "no_connect_right"), (12514, "unknown", "no_database"), (20, "unknown", "too_many_connections"),
        (1033, "unknown", "starting_up"), (28040, "unknown", "method_not_allowed"), (600, "unknown", "refused_login"),
    ],
)  # fmt: skip
def test_failed_logins_of_oracle_are_told_apart_by_their_code(code, state, cause):
    verdict = verdict_of(ServerRefusal(code=code))
    assert (verdict.state, verdict.cause) == (state, cause)

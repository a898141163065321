"""What a controller's words mean, and what its policies and the record ask for, without a controller."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from connectors.activedirectory.accounts import AccountState
from connectors.activedirectory.addresses import addresses_of
from connectors.activedirectory.errors import BY_LOGIN, map_error, verdict_of
from connectors.activedirectory.policy import PasswordRules
from connectors.base import Target, VerdictState
from connectors.ldap.errors import LdapRefusal
from connectors.ldap.link import Entry
from connectors.ldap.names import UserMatch
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    Forbidden,
    Locked,
    NotApplied,
    PolicyRefused,
    Unreachable,
    Unsupported,
)
from pam_jobs.metrics.totals import CAUSES

pytestmark = pytest.mark.unit


def login_refused(data: str) -> LdapRefusal:
    text = f"80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data {data}, v2580\0"
    return LdapRefusal(code=49, name="invalidCredentials", text=text, is_login=True)


@pytest.mark.parametrize(
    ("data", "state", "kind"),
    [
        ("52e", VerdictState.REFUSED, AuthRejected), ("525", VerdictState.UNKNOWN, AuthRejected),
        ("52f", VerdictState.UNKNOWN, Forbidden), ("530", VerdictState.ACCEPTED, Locked),
        ("531", VerdictState.ACCEPTED, Locked), ("532", VerdictState.ACCEPTED, Locked),
        ("533", VerdictState.LOCKED, Locked), ("569", VerdictState.UNKNOWN, Forbidden),
        ("701", VerdictState.LOCKED, Locked), ("773", VerdictState.ACCEPTED, Locked),
        ("775", VerdictState.LOCKED, Locked), ("57", VerdictState.UNKNOWN, AuthRejected),
    ],
)  # fmt: skip
def test_a_refused_login_means_what_its_data_says(data, state, kind):
    verdict = verdict_of(login_refused(data))
    assert verdict.state is state
    assert verdict.cause in CAUSES
    assert type(map_error(login_refused(data), sent=False)) is kind


def test_every_meaning_of_a_login_has_a_cause_that_is_counted():
    assert {cause for _, cause, _ in BY_LOGIN.values()} <= CAUSES


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (19, "0000052D: Constraint violation - the password is too short", PolicyRefused),
        (19, "0000052D: AtrErr: DSID-03190F80, #1: 0: 0000052D: DSID-03190F80, problem 1005", PolicyRefused),
        (19, "00000056: AtrErr: DSID-03190F80, problem 1005 (CONSTRAINT_ATT_TYPE), data 0", AuthRejected),
        (50, "00000005: SecErr: DSID-03190F4C, problem 4003 (INSUFF_ACCESS_RIGHTS), data 0", Forbidden),
        (50, "error in module acl", Forbidden), (53, "0000001F: SvcErr: DSID-031A12D2, problem 5003", Unsupported),
        (32, "00002030: NameErr: DSID-0310020A, problem 2001 (NO_OBJECT), data 0", Unsupported),
        (10, "0000202B: RefErr: DSID-0310082F, data 0, 1 access points", Unsupported),
        (1, "00002020: Operation unavailable without authentication", AuthRejected),
        (8, "00002028: LdapErr: DSID-0C090169, comment: The server requires binds to turn on", Forbidden),
        (53, "00002077: SvcErr: DSID-031903A4, problem 5003", Unsupported), (51, "0000200E: busy", Unreachable),
        (80, "00000001: LdapErr: internal", AmbiguousReply), (53, "no number", NotApplied),
    ],
)  # fmt: skip
def test_a_refused_change_means_what_its_number_says(code, text, kind):
    assert type(map_error(LdapRefusal(code=code, text=text), sent=True)) is kind


def state(last_set: datetime | None) -> AccountState:
    return AccountState(
        entry=Entry("cn=x"),
        locked=False,
        disabled=False,
        expired=False,
        must_change=False,
        last_set=last_set,
        expires=None,
    )


def test_a_password_that_is_too_young_is_refused_with_the_instant_it_is_not():
    rules = PasswordRules(min_age=timedelta(days=1))
    with pytest.raises(PolicyRefused) as caught:
        rules.check_age(state(datetime.now(UTC)))
    assert "wait until" in caught.value.remedy
    rules.check_age(state(datetime.now(UTC) - timedelta(days=2)))
    rules.check_age(state(None))


def test_parts_of_names_are_forbidden_where_passwords_are_complex():
    entry = Entry("cn=x", {"samaccountname": (b"svc.app",), "displayname": ("The App, of-x_Ünit".encode(),)})
    assert PasswordRules(is_complex=True).forbidden_words(entry) == ("svc.app", "The", "App", "Ünit")
    assert PasswordRules(is_complex=False).forbidden_words(entry) == ()
    assert PasswordRules(is_complex=None).min_classes == 3  # not readable: better too strict


def test_controllers_are_tried_in_the_order_of_the_record():
    target = Target(host="a", port=636, protocol="ldaps", options={"alternative_ips": "b\n c, a;d"})
    assert addresses_of(target) == ["a", "b", "c", "d"]
    assert addresses_of(target, "c") == ["c", "a", "b", "d"]
    assert addresses_of(target, "elsewhere") == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("text", "taken", "not_taken"),
    [
        ("", ["cn=a,dc=x"], []),
        (
            "Service",
            ["cn=a,OU=service,dc=x", "cn=a,ou=b,ou=SERVICE,dc=x"],
            ["cn=a,ou=services,dc=x", "ou=service,dc=x"],
        ),
        ("OU=Service;Other", ["cn=a,ou=other,dc=x"], ["cn=service,ou=b,dc=x"]),
        ("One\nou=two,dc=x", ["cn=a,ou=two,dc=x", "cn=a,ou=b,ou=TWO,dc=x"], ["cn=a,ou=two,dc=y", "cn=a,dc=x"]),
    ],
)
def test_accounts_are_matched_by_unit_and_place(text, taken, not_taken):
    match = UserMatch.of({"user_match": text})
    assert all(match.takes(dn) for dn in taken)
    assert not any(match.takes(dn) for dn in not_taken)


def test_accounts_below_places_are_searched_there():
    assert UserMatch.of({"user_match": "ou=a,dc=x\nou=b,dc=x"}).bases(["dc=x"]) == ["ou=a,dc=x", "ou=b,dc=x"]
    assert UserMatch.of({"user_match": "Service"}).bases(["dc=x"]) == ["dc=x"]
    assert UserMatch.of({"user_match": "(cn=a)"}).filter == "(cn=a)"

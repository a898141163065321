"""What is a directory's own: names, password policies, locks, TLS, referrals, and servers without RFC 3062."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import ldap3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Credential, Deadline, Finding, Unseen, VerdictState
from connectors.openldap.connector import OpenldapConnector
from pam_jobs.errors import (
    AuthRejected,
    Effect,
    Forbidden,
    HostKeyMismatch,
    Locked,
    NotApplied,
    PolicyRefused,
    Unsupported,
)
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.openldap import OpenldapBench

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


@pytest.fixture
def bench(openldap_server) -> Iterator[OpenldapBench]:
    made = OpenldapBench(openldap_server)
    yield made
    made.connector.close_idle()


def under(bench: OpenldapBench, account: Account, policy: str) -> None:
    bench.modify(account.login, {"pwdPolicySubentry": [f"cn={policy},ou=policies,{bench.server.base}"]})


def as_itself(bench: OpenldapBench, current: Credential):
    return bench.connector.open(bench.target, current, Deadline(20))


def with_options(bench: OpenldapBench, **options: str):
    return replace(bench.target, options={**bench.target.options, **options})


DATABASE = "olcDatabase={1}mdb,cn=config"
OVERLAY = f"olcOverlay={{0}}ppolicy,{DATABASE}"


@contextmanager
def configured(bench: OpenldapBench, attribute: str, value: str, usual: str, where: str) -> Iterator[None]:
    """Change the running server's configuration for a while."""
    server = ldap3.Server(bench.server.host, bench.server.port, get_info=ldap3.NONE)
    with ldap3.Connection(server, "cn=config", bench.server.admin_password, auto_bind=True) as connection:
        assert connection.modify(where, {attribute: [(ldap3.MODIFY_REPLACE, [value])]}), connection.result
        try:
            yield
        finally:
            assert connection.modify(where, {attribute: [(ldap3.MODIFY_REPLACE, [usual])]}), connection.result


# Names


@pytest.mark.parametrize("way", ["login", "field", "login is a name"])
def test_account_is_found_by_login_and_by_distinguished_name(bench, way):
    made, _ = bench.new_account()
    dn = bench.dn(made.login)
    account = {
        "login": made,
        "field": Account(login="called differently", record_uid="x", distinguished_name=dn),
        "login is a name": Account(login=dn.upper(), record_uid="x"),
    }[way]
    new = Candidate(password=new_password())
    with bench.open(new.credential(account)) as session:
        assert session.preflight(account).account_exists
        session.change(account, new, lambda: None)
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
    with bench.look() as session:
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED


@pytest.mark.parametrize(
    "login", ["Mixed Case", 'quote"d', "star*", "(paren)", "back\\slash", "ünï☃", "com,ma", "plus+", "a=b", "-x", "#no"]
)
def test_hostile_logins_are_rotated(bench, login):
    login = f"{login}{secrets.token_hex(2)}"
    dn = f"uid={ldap3.utils.dn.escape_rdn(login)},ou=people,{bench.server.base}"
    with bench.connect() as connection:
        assert connection.add(dn, "inetOrgPerson", {"cn": "x", "sn": "x", "userPassword": "Some-Start-1"})
    account, new = Account(login=login, record_uid="x"), Candidate(password=new_password())
    with bench.open(new.credential(account)) as session:
        assert session.preflight(account).may_change
        session.change(account, new, lambda: None)
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
    by_template = with_options(bench, user_dn_template=f"uid={{login}},ou=people,{bench.server.base}")
    with bench.look(target=by_template) as session:
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED


_logins = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200).filter(str.strip)
_passwords = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(login=_logins, password=_passwords)
def test_hostile_logins_and_passwords_are_set_as_they_are(bench, login, password):
    login = f"{secrets.token_hex(4)}{login}z"  # spaces at its ends are no part of a name
    dn = f"cn={secrets.token_hex(8)},ou=people,{bench.server.base}"
    with bench.connect() as connection:
        values = {"sn": "x", "uid": login.encode(), "userPassword": "Some-Start-1"}
        assert connection.add(dn, "inetOrgPerson", values), connection.result
    named = Account(login="x", record_uid="x", distinguished_name=dn)
    new = Candidate(password=SecretValue(password))
    with bench.open(new.credential(named)) as session:
        session.change(named, new, lambda: None)
        assert session.probe(named, new.credential(named)).state is VerdictState.ACCEPTED
        by_login = Account(login=login, record_uid="x")
        assert session.probe(by_login, new.credential(by_login)).state is VerdictState.ACCEPTED


def test_wildcard_in_a_login_finds_nobody(bench):
    account, current = bench.new_account()
    with bench.open(current) as session, pytest.raises(Unsupported):
        session.preflight(Account(login=account.login[:-1] + "*", record_uid="x"))


def test_login_that_several_entries_have_is_refused(bench):
    account, current = bench.new_account()
    with bench.connect() as connection:
        twin = f"uid={account.login},ou=hidden,{bench.server.base}"
        assert connection.add(twin, "inetOrgPerson", {"cn": "x", "sn": "x"})
    with bench.open(current) as session, pytest.raises(Unsupported, match="2 entries"):
        session.preflight(account)
    narrowed = with_options(bench, base_dn=f"ou=people,{bench.server.base}")
    with bench.open(current, target=narrowed) as session:
        assert session.preflight(account).may_change


def test_login_that_nobody_may_look_up_says_what_to_set(bench):
    account, current = bench.new_account()
    nowhere = with_options(bench, base_dn=f"ou=hidden,{bench.server.base}")
    with bench.look(target=nowhere) as session:
        verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.UNKNOWN, "not_found")
    with pytest.raises(AuthRejected) as caught:
        bench.connector.open(nowhere, current, Deadline(10))
    assert "distinguishedName" in caught.value.remedy


# Password policies


@pytest.mark.parametrize(
    ("policy", "password", "kind", "words"),
    [
        ("default", "short", PolicyRefused, "too short"),
        ("default", "the same", PolicyRefused, "history"),
        ("young", "Long-enough-for-all-1", PolicyRefused, "too young"),
        ("frozen", "Long-enough-for-all-1", Forbidden, "mod not allowed"),
        ("strict", "Not-long-enough-1", PolicyRefused, "too short"),
    ],
)
def test_what_the_policy_refuses_of_an_account_itself(bench, policy, password, kind, words):
    account, current = bench.new_account()
    if password == "the same":
        password = "Used-before-Zq-1"
        with as_itself(bench, current) as session:
            for text in (password, "Another-Zq-12"):
                session.change(account, Candidate(password=SecretValue(text)), lambda: None)
        current = replace(current, password=SecretValue("Another-Zq-12"))
    under(bench, account, policy)
    bench.modify(account.login, {"pwdChangedTime": [time.strftime("%Y%m%d%H%M%SZ", time.gmtime())]})
    with as_itself(bench, current) as session, pytest.raises(kind) as caught:
        session.change(account, Candidate(password=SecretValue(password)), lambda: None)
    assert words in str(caught.value)
    assert caught.value.remedy
    with bench.look() as session:
        assert session.probe(account, current).state is VerdictState.ACCEPTED


def test_policy_is_read_before_the_change(bench):
    account, current = bench.new_account()
    under(bench, account, "strict")
    with bench.open(current) as session:
        assert session.preflight(account).min_length == 24
    under(bench, account, "frozen")
    with as_itself(bench, current) as session, pytest.raises(Forbidden):
        session.preflight(account)


def test_policy_that_demands_the_old_password_lets_the_account_rotate_itself(bench):
    account, current = bench.new_account()
    under(bench, account, "safe")
    new = Candidate(password=new_password())
    with as_itself(bench, current) as session:
        assert session.preflight(account).is_self
        assert session.change(account, new, lambda: None) is Effect.APPLIED
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED


def test_locked_account_is_locked_and_not_refused(bench):
    account, current = bench.new_account()
    wrong = replace(current, password=SecretValue("certainly not"))
    with bench.open(current) as session:
        assert session.probe(account, wrong).state is VerdictState.REFUSED
        for _ in range(4):
            session.probe(account, wrong)
        assert session.probe(account, current).state is VerdictState.LOCKED
        assert session.metadata(account).locked is True
        assert session.preflight(account).may_change
    with configured(bench, "olcPPolicyUseLockout", "TRUE", "FALSE", OVERLAY), bench.look() as session:
        assert session.probe(account, current).state is VerdictState.LOCKED  # the server itself tells
        with pytest.raises(Locked):
            as_itself(bench, current)
    with bench.open(current) as session:  # a new password by an administrator unlocks
        session.change(account, Candidate(password=SecretValue("Unlocked-By-This-1")), lambda: None)
        assert session.metadata(account).locked is False


def test_expired_password_is_locked_and_not_refused(bench):
    account, current = bench.new_account()
    under(bench, account, "ageing")
    with bench.open(current) as session:
        bench.modify(account.login, {"pwdChangedTime": ["20200101000000Z"]})
        verdict = session.probe(account, current)
        assert (verdict.state, verdict.cause) == (VerdictState.LOCKED, "expired")
        told = session.metadata(account)
        assert told.last_set.year == 2020
        assert (told.expires - told.last_set).total_seconds() == 1
        wrong = replace(current, password=SecretValue("certainly not"))
        assert session.probe(account, wrong).state is VerdictState.REFUSED


def test_expired_password_in_grace_is_accepted(bench):
    account, current = bench.new_account()
    under(bench, account, "graceful")
    bench.modify(account.login, {"pwdChangedTime": ["20200101000000Z"]})
    with bench.look() as session:
        verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.ACCEPTED, "expired_in_grace")


def test_password_that_must_be_changed_is_accepted_and_the_account_can_change_it(bench):
    account, current = bench.new_account()
    under(bench, account, "resetting")
    bench.modify(account.login, {"pwdReset": ["TRUE"]})
    with bench.look() as session:
        verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.ACCEPTED, "change_after_reset")
    named = replace(account, distinguished_name=bench.dn(account.login))
    new = Candidate(password=new_password())
    with as_itself(bench, replace(current, distinguished_name=bench.dn(account.login))) as session:
        assert session.preflight(named).is_self
        assert session.change(named, new, lambda: None) is Effect.APPLIED
        assert session.probe(named, new.credential(named)).cause == ""


def test_demand_for_another_password_ends_where_the_record_says_so(bench):
    account, current = bench.new_account()
    under(bench, account, "resetting")
    for wish, cause in (("", "change_after_reset"), ("clear", "")):
        new = Candidate(password=new_password())
        with bench.open(current, target=with_options(bench, change_at_next_logon=wish)) as session:
            session.change(account, new, lambda: None)
            verdict = session.probe(account, new.credential(account))
        assert (verdict.state, verdict.cause) == (VerdictState.ACCEPTED, cause)
    unknown = with_options(bench, change_at_next_logon="perhaps")
    with bench.open(current, target=unknown) as session, pytest.raises(Unsupported):
        session.change(account, Candidate(password=new_password()), lambda: pytest.fail("fenced"))


def test_accounts_are_listed_by_place_and_searched_in_the_records_domain(bench):
    account, current = bench.new_account()
    for match, is_listed in ((f"ou=people,{bench.server.base}", True), ("People", True), ("hidden", False)):
        target = with_options(bench, user_match=match, domain_name="lab.test")
        with bench.open(current, target=target) as session:
            names = {each.name for each in session.discover() if isinstance(each, Finding)}
            assert (account.login in names) is is_listed, match
            assert session.preflight(account).may_change


# Ways to the server


def test_server_without_the_operation_gets_the_attribute_and_hashes_it(bench):
    account, current = bench.new_account()
    by_attribute = with_options(bench, password_change="userPassword")
    new = Candidate(password=new_password())
    with bench.open(current, target=by_attribute) as session:
        assert "userPassword" in session.preflight(account).server
        assert session.change(account, new, lambda: None) is Effect.APPLIED
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
    assert "{SSHA}" in bench.fingerprint(account)
    with bench.open(current) as session:
        assert "RFC 3062" in session.preflight(account).server


def test_certificate_is_checked_with_its_host_name(bench):
    other_name = replace(bench.target, host="127.1")  # the same address
    for target in (replace(bench.target, options={}), other_name):
        with pytest.raises(HostKeyMismatch) as caught:
            bench.connector.open(target, bench.admin, Deadline(10))
        assert "ssl_ca" in caught.value.remedy
    any_name = {**bench.target.options, "tls_verify": "ca"}
    bench.connector.open(replace(other_name, options=any_name), bench.admin, Deadline(10)).close()
    bench.connector.open(with_options(bench, ssl_ca="", tls_verify="none"), bench.admin, Deadline(10)).close()
    for wrong in ({"ssl_ca": "/no/such/file"}, {"tls_verify": "perhaps"}, {"ldap_security": "perhaps"}):
        with pytest.raises(Unsupported):
            bench.connector.open(with_options(bench, **wrong), bench.admin, Deadline(10))


def test_passwords_travel_in_the_clear_only_where_the_record_says_so(openldap_server):
    bench = OpenldapBench(openldap_server, secure=False)
    account, current = bench.new_account()
    with configured(bench, "olcSecurity", "simple_bind=128", "simple_bind=0", DATABASE):
        with bench.look() as session:
            assert session.probe(account, current).state is VerdictState.ACCEPTED  # by StartTLS
        clear = with_options(bench, ldap_security="none", user_dn_template="uid={login},ou=people," + bench.server.base)
        with bench.look(target=clear) as session:
            verdict = session.probe(account, current)
        assert (verdict.state, verdict.cause) == (VerdictState.UNKNOWN, "tls_required")
    with bench.look(target=clear) as session:
        assert session.probe(account, current).state is VerdictState.ACCEPTED
    for contradiction in (replace(clear, use_ssl=True), replace(clear, protocol="ldaps")):
        with pytest.raises(Unsupported):
            bench.connector.open(contradiction, bench.admin, Deadline(10))


def test_other_server_that_is_referred_to_is_told_and_not_followed(bench):
    account, current = bench.new_account()
    place = f"ou=elsewhere{secrets.token_hex(2)},{bench.server.base}"
    with bench.connect() as connection:
        assert connection.add(place, ["referral", "extensibleObject"], {"ref": f"ldap://127.0.0.1:1/{place}"})
    there = replace(account, distinguished_name=f"uid=x,{place}")
    try:
        with bench.open(current) as session:
            with pytest.raises(Unsupported, match="referral"):
                session.preflight(there)
            with pytest.raises(Unsupported, match="referral"):
                session.change(there, Candidate(password=new_password()), lambda: None)
            assert session.preflight(account).may_change
            told = [each for each in session.discover() if isinstance(each, Unseen)]
        assert [place in each.what for each in told] == [True]
    finally:
        with bench.connect() as connection:
            assert connection.delete(place, [("2.16.840.1.113730.3.4.2", True, None)])


def test_server_that_takes_no_writes_leaves_the_account_as_it_was(bench):
    account, current = bench.new_account()
    with bench.open(current) as session:
        session.preflight(account)
        with configured(bench, "olcReadOnly", "TRUE", "FALSE", DATABASE), pytest.raises(NotApplied):
            session.change(account, Candidate(password=new_password()), lambda: None)
    with bench.look() as session:
        assert session.probe(account, current).state is VerdictState.ACCEPTED


# Rights, discovery, the rotator itself


def test_helper_with_the_documented_rights_rotates(bench):
    account, current = bench.new_account()
    helper = f"cn=helper,{bench.server.base}"
    with bench.connect() as connection:
        connection.delete(helper)
        values = {"userPassword": "Helper-Secret-1"}
        assert connection.add(helper, ["organizationalRole", "simpleSecurityObject"], values), connection.result
    rotator = Credential(login="helper", password=SecretValue("Helper-Secret-1"))  # found by its cn
    new = Candidate(password=new_password())
    with bench.connector.open(bench.target, rotator, Deadline(10)) as session:
        found = session.preflight(account)
        assert (found.may_change, found.is_self) == (True, False)
        session.change(account, new, lambda: None)
        assert session.probe(account, current).state is VerdictState.REFUSED
        under(bench, account, "strict")
        with pytest.raises(PolicyRefused):  # only the root of the directory is above the policy
            session.change(account, Candidate(password=SecretValue("short")), lambda: None)
        under(bench, account, "safe")
        with pytest.raises(Forbidden):
            session.change(account, Candidate(password=new_password()), lambda: None)


def test_discovery_says_where_the_servers_limit_ended_it(bench):
    account, current = bench.new_account()
    bench.new_account()
    with bench.open(current) as session:
        found = [each for each in session.discover() if isinstance(each, Finding)]
    mine = next(each for each in found if each.name == account.login)
    assert mine.facts["distinguished_name"] == bench.dn(account.login)
    limit = "size.soft=1 size.hard=1 size.prtotal=1"
    usual = "size.soft=500 size.hard=soft size.prtotal=unlimited"
    with configured(bench, "olcSizeLimit", limit, usual, DATABASE), as_itself(bench, current) as session:
        unseen = [each for each in session.discover() if isinstance(each, Unseen)]
    assert [each.cause for each in unseen] == ["refused"]


def test_session_that_rotates_its_own_rotator_stays_open_and_is_not_kept(bench):
    account, current = bench.new_account()
    with as_itself(bench, current) as session:
        for _ in range(2):
            new = Candidate(password=new_password())
            assert session.change(account, new, lambda: None) is Effect.APPLIED
            assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
    assert len(bench.connector.kept) == 0


def test_what_is_no_directory_is_not_recognised(sshd_server):
    began = time.monotonic()
    assert OpenldapConnector().recognise(sshd_server.host, sshd_server.port, Deadline(10)) is None
    assert time.monotonic() - began < 5

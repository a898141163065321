"""What is a domain's own: names, policies, locks, the next logon, controllers, and accounts that nobody may rotate."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import ldap3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Credential, Deadline, Finding, VerdictState
from deploy.lab import LdapServer
from pam_jobs.errors import (
    AuthRejected,
    Effect,
    Forbidden,
    HostKeyMismatch,
    Locked,
    PolicyRefused,
    Unreachable,
    Unsupported,
    WrongTarget,
)
from pam_jobs.secret import SecretValue
from tests.support.benches.activedirectory import NORMAL, ActiveDirectoryBench
from tests.support.benches.base import new_password
from tests.support.benches.openldap import OpenldapBench

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

NOW_AS_COUNT = int((datetime.now(UTC) - datetime(1601, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 10


@pytest.fixture
def bench(samba_server) -> Iterator[ActiveDirectoryBench]:
    made = ActiveDirectoryBench(samba_server)
    yield made
    made.connector.close_idle()


def with_options(bench: ActiveDirectoryBench, **options: str):
    return replace(bench.target, options={**bench.target.options, **options})


def set_on(bench: ActiveDirectoryBench, account: Account, **values: str) -> None:
    bench.modify(bench.dn(account.login), {name: [value] for name, value in values.items()})


def rotate(bench: ActiveDirectoryBench, account: Account, current: Credential, target=None) -> Candidate:
    """Rotate as the engine does and return what was proven."""
    new = Candidate(password=new_password())
    with bench.open(current, target=target) as session:
        assert session.preflight(account).account_exists
        assert session.change(account, new, lambda: None) is Effect.APPLIED
    return new


def logs_in(bench: ActiveDirectoryBench, account: Account, credential: Credential):
    with bench.look() as session:
        return session.probe(account, credential)


# Names


@pytest.mark.parametrize("form", ["{0}", "{0}@ad.lab.test", "{0}@LAB", "LAB\\{0}", "ad.lab.test\\{0}", "{1}"])
def test_account_is_found_by_every_form_of_its_name(bench, form):
    made, current = bench.new_account()
    account = Account(login=form.format(made.login, bench.dn(made.login).upper()), record_uid="x")
    new = rotate(bench, account, current)
    with bench.open(current) as session:
        named = "AD.LAB.TEST\\" in account.login.upper()  # Samba takes the short name alone before the backslash
        if not named:
            assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
        assert session.probe(made, new.credential(made)).state is VerdictState.ACCEPTED
    assert logs_in(bench, made, new.credential(made)).state is VerdictState.ACCEPTED


def test_a_user_principal_name_goes_before_a_logon_name(bench):
    one, current = bench.new_account()
    other, _ = bench.new_account()
    set_on(bench, other, userPrincipalName="elsewhere." + other.login + "@example.org")
    account = Account(login=f"elsewhere.{other.login}@example.org", record_uid="x")
    new = rotate(bench, account, current)
    assert logs_in(bench, other, new.credential(other)).state is VerdictState.ACCEPTED
    with bench.open(current) as session:
        for foreign in (f"OTHER\\{one.login}", f"{one.login}@other.example.org"):
            with pytest.raises(Unsupported):
                session.preflight(Account(login=foreign, record_uid="x"))


def test_the_kind_of_directory_is_told_by_the_server_where_the_record_does_not(bench, openldap_server: LdapServer):
    account, current = bench.new_account()
    untold = replace(bench.target, options={"ssl_ca": str(bench.server.ca)})
    with bench.open(current, target=untold) as session:
        assert session.preflight(account).may_change
    other = OpenldapBench(openldap_server).target
    for rotator in (None, bench.admin):
        with pytest.raises(WrongTarget):
            bench.connector.open(other, rotator, Deadline(10))
    misled = replace(other, options={**other.options, "directory_type": "active_directory"})
    with pytest.raises(WrongTarget):
        bench.connector.open(misled, bench.admin, Deadline(10))


# Policies


def test_the_domains_policy_or_a_finer_one_is_read_before_the_change(bench):
    account, current = bench.new_account()
    set_on(bench, account, displayName="Given Middle-Family")
    with bench.open(current) as session:
        found = session.preflight(account)
        assert (found.min_length, found.min_classes, found.forbidden_words) == (0, None, ())
        policy = f"CN=strict{secrets.token_hex(3)},CN=Password Settings Container,CN=System,{bench.server.base}"
        values = {
            "msDS-PasswordSettingsPrecedence": "10", "msDS-PasswordReversibleEncryptionEnabled": "FALSE",
            "msDS-PasswordHistoryLength": "5", "msDS-PasswordComplexityEnabled": "TRUE",
            "msDS-MinimumPasswordLength": "19", "msDS-MinimumPasswordAge": "-36000000000",
            "msDS-MaximumPasswordAge": "-9223372036854775808", "msDS-LockoutThreshold": "0",
            "msDS-LockoutObservationWindow": "-18000000000", "msDS-LockoutDuration": "-18000000000",
            "msDS-PSOAppliesTo": bench.dn(account.login),
        }  # fmt: skip
        with bench.connect() as connection:
            assert connection.add(policy, "msDS-PasswordSettings", values), connection.result
        found = session.preflight(account)
        assert (found.min_length, found.min_classes) == (19, 3)
        assert found.forbidden_words == (account.login, "Given", "Middle", "Family")
        assert "fine-grained" in found.server
        for refused in ("Sh0rt-of-19", "only-small-letters-here"):
            with pytest.raises(PolicyRefused) as caught:
                session.change(account, Candidate(password=SecretValue(refused)), lambda: None)
            assert caught.value.remedy
        session.change(account, Candidate(password=SecretValue("Long-enough-for-19-x")), lambda: None)
    itself = Credential(login=account.login, password=SecretValue("Long-enough-for-19-x"))
    with bench.connector.open(bench.target, itself, Deadline(20)) as session:
        assert session.preflight(account).min_length == 0  # the policy is not for everybody to read
        with pytest.raises(PolicyRefused, match="too young"):
            session.change(account, Candidate(password=new_password()), lambda: None)


def test_what_history_refuses_of_an_account_itself_is_applied_only_where_it_is_the_current_one(bench):
    account, current = bench.new_account()
    first, second = (Candidate(password=new_password()) for _ in range(2))
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        session.change(account, first, lambda: None)
        session.change(account, second, lambda: None)
        assert session.change(account, second, lambda: None) is Effect.APPLIED
        with pytest.raises(PolicyRefused):
            session.change(account, first, lambda: None)
    with bench.connector.open(bench.target, second.credential(account), Deadline(20)) as session:
        with bench.open(current) as other:
            other.change(account, Candidate(password=SecretValue("Changed-meanwhile-1")), lambda: None)
        with pytest.raises(AuthRejected):  # what it logged in with is not its password any more
            session.change(account, Candidate(password=new_password()), lambda: None)


@pytest.mark.parametrize("text", ["x" * 257, "\U0001f600" * 129, "half \ud800"])
def test_a_password_that_no_controller_holds_is_refused_before_the_fence(bench, text):
    account, current = bench.new_account()
    with bench.open(current) as session, pytest.raises(PolicyRefused):
        session.change(account, Candidate(password=SecretValue(text)), lambda: pytest.fail("fenced"))
    assert logs_in(bench, account, current).state is VerdictState.ACCEPTED


# What a login tells


@pytest.mark.parametrize(
    ("values", "state", "cause"),
    [
        ({"pwdLastSet": "0"}, VerdictState.ACCEPTED, "change_after_reset"),
        ({"userAccountControl": str(NORMAL | 2)}, VerdictState.LOCKED, "disabled"),
        ({"accountExpires": "129000000000000000"}, VerdictState.LOCKED, "account_expired"),
        ({"logonHours": bytes(21)}, VerdictState.ACCEPTED, "not_at_this_hour"),
        ({"userWorkstations": "ELSEWHERE"}, VerdictState.ACCEPTED, "not_allowed_from_here"),
    ],
)
def test_a_login_that_is_not_let_in_tells_why(bench, values, state, cause):
    account, current = bench.new_account()
    set_on(bench, account, **values)
    verdict = logs_in(bench, account, current)
    assert (verdict.state, verdict.cause) == (state, cause)
    wrong = replace(current, password=SecretValue("certainly not"))
    assert logs_in(bench, account, wrong).state is VerdictState.REFUSED
    with pytest.raises(Locked):
        bench.connector.open(bench.target, current, Deadline(10))
    if state is VerdictState.LOCKED:
        with bench.open(current) as session, pytest.raises(Locked):
            session.preflight(account)


def test_a_locked_account_is_unlocked_where_the_record_says_so(bench):
    account, current = bench.new_account()
    wrong = replace(current, password=SecretValue("certainly not"))
    for _ in range(5):
        logs_in(bench, account, wrong)
    assert logs_in(bench, account, current).state is VerdictState.LOCKED
    with bench.open(current) as session:
        assert session.metadata(account).locked is True
        with pytest.raises(Locked) as caught:
            session.preflight(account)
        assert "Unlock Account" in caught.value.remedy
    new = rotate(bench, account, current, with_options(bench, unlock_account="true"))
    assert logs_in(bench, account, new.credential(account)).state is VerdictState.ACCEPTED
    with pytest.raises(Unsupported), bench.open(current, target=with_options(bench, unlock_account="maybe")) as session:
        session.preflight(account)


@pytest.mark.parametrize(
    ("wish", "before", "after"), [("", True, False), ("keep", True, True), ("keep", False, False), ("set", False, True)]
)
def test_the_demand_for_another_password_at_the_next_logon_is_what_the_record_says(bench, wish, before, after):
    account, current = bench.new_account()
    if before:
        set_on(bench, account, pwdLastSet="0")
    new = rotate(bench, account, current, with_options(bench, change_at_next_logon=wish))
    verdict = logs_in(bench, account, new.credential(account))
    assert (verdict.state, verdict.cause == "change_after_reset") == (VerdictState.ACCEPTED, after)


# Accounts that nobody may rotate


def test_special_accounts_are_refused_by_name(bench):
    account, current = bench.new_account()
    group, computer = f"inner{secrets.token_hex(3)}", f"PC{secrets.token_hex(3)}"
    base = f"CN=Users,{bench.server.base}"
    with bench.connect() as connection:
        assert connection.add(
            f"CN={group},{base}", "group", {"sAMAccountName": group, "member": bench.dn(account.login)}
        )
        machine = {"sAMAccountName": f"{computer}$", "userAccountControl": str(0x1000)}
        assert connection.add(f"CN={computer},CN=Computers,{bench.server.base}", "computer", machine)
        protected = f"CN=Protected Users,{base}"
        assert connection.modify(protected, {"member": [(ldap3.MODIFY_ADD, [f"CN={group},{base}"])]})
    assert logs_in(bench, account, current).state is VerdictState.UNKNOWN
    card, _ = bench.new_account()
    set_on(bench, card, userAccountControl=str(NORMAL | 0x40000))
    names = {
        account.login: "Protected Users",
        "krbtgt": "Kerberos",
        f"{computer}$": "computer",
        card.login: "smart card",
    }
    with bench.open(current) as session:
        for login, word in names.items():
            special = Account(login=login, record_uid="x")
            with pytest.raises(Unsupported, match=word):
                session.preflight(special)
            with pytest.raises(Unsupported, match=word):
                session.change(special, Candidate(password=new_password()), lambda: pytest.fail("fenced"))


# Controllers


def test_the_next_controller_is_asked_while_nothing_was_sent(bench):
    account, current = bench.new_account()
    nobody = "127.99.0.1"
    target = with_options(bench, alternative_ips=f"127.99.0.2\n{bench.server.host}")
    new = rotate(bench, account, current, replace(target, host=nobody))
    with bench.look(target=replace(target, host=nobody)) as session:
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
        assert session.probe(account, current).state is VerdictState.REFUSED
    with pytest.raises(Unreachable):
        bench.connector.open(replace(bench.target, host=nobody), bench.admin, Deadline(10))
    wrong = replace(bench.admin, password=SecretValue("wrong"))
    with pytest.raises(AuthRejected):  # a controller that answered is not passed over
        bench.connector.open(with_options(bench, alternative_ips="127.99.0.2"), wrong, Deadline(10))


def test_a_certificate_is_for_the_host_or_for_the_domain(bench):
    other_name = replace(bench.target, host="127.1")  # no controller listens there
    with pytest.raises(Unreachable):
        bench.connector.open(other_name, bench.admin, Deadline(10))
    spelled = replace(bench.target, host=str(int.from_bytes(bytes(map(int, bench.server.host.split("."))))))
    bench.connector.open(spelled, bench.admin, Deadline(10)).close()  # another name of the address: by domainName
    for untold in ({"domain_name": ""}, {"domain_name": "other.example.org"}):
        with pytest.raises(HostKeyMismatch) as caught:
            bench.connector.open(
                replace(spelled, options={**bench.target.options, **untold}), bench.admin, Deadline(10)
            )
        assert "ssl_ca" in caught.value.remedy
    with pytest.raises(HostKeyMismatch):
        bench.connector.open(
            with_options(bench, ssl_ca=ssl.get_default_verify_paths().cafile or ""), bench.admin, Deadline(9)
        )
    with pytest.raises(Unsupported, match="TLS"):
        bench.connector.open(
            replace(with_options(bench, ldap_security="none"), protocol="ldap", port=389), bench.admin, Deadline(9)
        )


# Rights and discovery


def test_a_helper_with_the_right_to_reset_rotates(bench):
    account, current = bench.new_account()
    helper, login = bench.new_account()
    with bench.connector.open(bench.target, login, Deadline(20)) as session, pytest.raises(Forbidden) as caught:
        session.preflight(account)
    assert "Reset password" in caught.value.remedy
    bench.connector.close_idle()
    operators = f"CN=Account Operators,CN=Builtin,{bench.server.base}"
    with bench.connect() as connection:
        assert connection.modify(operators, {"member": [(ldap3.MODIFY_ADD, [bench.dn(helper.login)])]})
    new = Candidate(password=new_password())
    with bench.connector.open(bench.target, login, Deadline(20)) as session:
        assert session.preflight(account).may_change
        session.change(account, new, lambda: None)
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
        assert session.probe(account, current).state is VerdictState.REFUSED


def test_discovery_tells_users_computers_and_units(bench):
    unit = f"Unit {secrets.token_hex(3)}"
    place, inside = f"OU={unit},{bench.server.base}", f"in{secrets.token_hex(3)}"
    with bench.connect() as connection:
        assert connection.add(place, "organizationalUnit")
        user = {"sAMAccountName": inside, "servicePrincipalName": [f"http/{inside}", f"http/{inside}.example.org"]}
        assert connection.add(f"CN={inside},{place}", "user", user), connection.result
    with bench.open(bench.admin) as session:
        found = [each for each in session.discover() if isinstance(each, Finding)]
        named = {(each.kind, each.name): each.facts for each in found}
        assert ("units", place) in named
        assert "operating_system" in named["machines", "DC1"] or named["machines", "DC1"]["dns_name"]
        facts = named["users", inside]
        assert (facts["organizational_unit"], facts["disabled"]) == (unit.casefold(), True)
        assert facts["service_principal_names"].split("\n") == user["servicePrincipalName"]
        assert named["users", "krbtgt"]["managed"] is True
    for match in (unit, f"OU={unit.upper()}", place, f"(sAMAccountName={inside})"):
        with bench.open(bench.admin, target=with_options(bench, user_match=match)) as session:
            listed = {each.name for each in session.discover() if isinstance(each, Finding) and each.kind == "users"}
        assert listed == {inside}, match


def test_metadata_is_what_the_domain_keeps(bench):
    account, current = bench.new_account()
    in_a_day = NOW_AS_COUNT + 24 * 36_000_000_000
    set_on(bench, account, accountExpires=str(in_a_day))
    with bench.open(current) as session:
        told = session.metadata(account)
    assert abs(datetime.now(UTC) - told.last_set) < timedelta(minutes=5)
    assert timedelta(hours=20) < told.expires - datetime.now(UTC) < timedelta(hours=28)
    assert (told.locked, told.disabled) == (False, False)


# Hostile values

_names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters='"/\\[]:;|=,+*?<>@'),
    min_size=1,
    max_size=18,
)
_passwords = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=100)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=_names, password=_passwords)
def test_hostile_names_and_passwords_are_set_as_they_are(bench, name, password):
    login = f"{name.strip(' .')}{secrets.token_hex(3)}"[-20:].strip(" .")
    account = Account(login=login, record_uid="x", distinguished_name=bench.dn(login))
    current = Credential(login=login, password=new_password(), distinguished_name=bench.dn(login))
    bench.make_account(login, current)
    new = Candidate(password=SecretValue(password))
    with bench.open(current) as session:
        session.change(account, new, lambda: None)
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
        by_login = replace(account, distinguished_name=None)
        assert session.probe(by_login, new.credential(by_login)).state is VerdictState.ACCEPTED


def test_a_wildcard_in_a_login_finds_nobody(bench):
    account, current = bench.new_account()
    with bench.open(current) as session:
        for login in (
            account.login[:-1] + "*",
            f"LAB\\{account.login[:-1]}*",
            "*)(objectClass=*",
            f"{account.login}\0",
        ):
            with pytest.raises(Unsupported):
                session.preflight(Account(login=login, record_uid="x"))

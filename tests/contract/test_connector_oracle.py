"""What is Oracle's own: names, profiles, locks, expiry, containers. The server is emulated, the driver is real."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Credential, Deadline, VerdictState
from deploy.lab import EmulatedServer
from pam_jobs.errors import Effect, Locked, PolicyRefused, Unsupported
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.oracle import OracleBench

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

TEXT = st.characters(exclude_categories=["Cs"], exclude_characters='"\0[]')


@pytest.fixture
def bench(target_oracle: EmulatedServer) -> Iterator[OracleBench]:
    made = OracleBench(target_oracle)
    yield made
    made.connector.close_idle()


def rotate(bench: OracleBench, account: Account, rotator: Credential | None = None) -> Credential:
    candidate = Candidate(password=new_password())
    with bench.connector.open(bench.target, rotator or bench.admin, Deadline(20)) as session:
        session.preflight(account)
        assert session.change(account, candidate, lambda: None) is Effect.APPLIED
    return candidate.credential(account)


def verdict(bench: OracleBench, credential: Credential, service: str = "labpdb") -> tuple[VerdictState, str]:
    with bench.connector.open(replace(bench.target, database=service), None, Deadline(20)) as session:
        found = session.probe(Account(login=credential.login, record_uid="x"), credential)
    return found.state, found.cause


ACCEPTED = (VerdictState.ACCEPTED, "")
REFUSED = (VerdictState.REFUSED, "wrong_password")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(TEXT, min_size=1, max_size=20), password=st.text(TEXT, min_size=1, max_size=7))
def test_any_text_is_a_name_and_a_password_that_logs_in(bench, name, password):
    login = f'"{secrets.token_hex(3)}{name}"'
    bench.make_account(login, Credential(login=login, password=new_password()))
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session:
        session.change(Account(login=login, record_uid="x"), Candidate(password=SecretValue(password)), lambda: None)
    assert verdict(bench, Credential(login=login, password=SecretValue(password))) == ACCEPTED


def test_rules_of_a_profile_refuse_and_a_present_value_counts_as_set(bench):
    account, current = bench.new_account()
    bench.execute(f'ALTER USER "{account.login}" PROFILE STRICT')
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session:
        assert session.preflight(account).min_length == 8
        with pytest.raises(PolicyRefused, match="28003"):
            session.change(account, Candidate(password=SecretValue("Too-short1")), lambda: None)
    new = rotate(bench, account, current)
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session:
        with pytest.raises(PolicyRefused, match="28007"):
            session.change(account, Candidate(password=current.password), lambda: None)
        assert session.change(account, Candidate(password=new.password), lambda: None) is Effect.APPLIED


def test_a_locked_user_is_no_wrong_password(bench):
    account, current = bench.new_account()
    bench.execute(f'ALTER USER "{account.login}" PROFILE STRICT')
    for _ in range(3):
        assert verdict(bench, replace(current, password=new_password())) == REFUSED
    assert verdict(bench, current) == (VerdictState.LOCKED, "account_locked")
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session:
        assert session.metadata(account).locked is True
        with pytest.raises(Locked):
            session.preflight(account)


def test_an_expired_user_renews_itself_at_the_login_or_by_an_administrator(bench):
    account, current = bench.new_account()
    bench.execute(f'ALTER USER "{account.login}" PASSWORD EXPIRE')
    assert verdict(bench, current) == (VerdictState.ACCEPTED, "expired")
    mine = rotate(bench, account, current)
    assert (verdict(bench, mine), verdict(bench, current)) == (ACCEPTED, REFUSED)
    bench.execute(f'ALTER USER "{account.login}" PASSWORD EXPIRE')
    assert verdict(bench, rotate(bench, account)) == ACCEPTED
    bench.execute(f'ALTER USER "{account.login}" PROFILE GRACEFUL')
    newest = rotate(bench, account)
    bench.execute(f'ALTER USER "{account.login}" PASSWORD EXPIRE')
    assert verdict(bench, newest) == (VerdictState.ACCEPTED, "expired_in_grace")


def test_what_this_container_cannot_change_is_refused_beforehand(bench):
    login = f"EXT{secrets.token_hex(3).upper()}"
    bench.execute(f'CREATE USER "{login}" IDENTIFIED EXTERNALLY')
    for name, words in ((login, "EXTERNAL"), ("C##COMMON", "common")):
        with (
            bench.connector.open(bench.target, bench.admin, Deadline(20)) as session,
            pytest.raises(Unsupported) as told,
        ):
            session.preflight(Account(login=name, record_uid="x"))
        assert words in told.value.message


def test_an_unknown_service_refuses_no_password(bench):
    _, current = bench.new_account()
    assert verdict(bench, current, "nowhere") == (VerdictState.UNKNOWN, "no_database")
    for target in (
        replace(bench.target, database=None),
        replace(bench.target, database="a)(b"),
        replace(bench.target, host="(x)"),
    ):
        with pytest.raises(Unsupported):
            bench.connector.open(target, bench.admin, Deadline(20))


def test_a_password_crosses_a_network_in_clear_only_where_the_record_allows_it(bench):
    remote = replace(bench.target, host="db.example.com")
    bench.connector.check_private(bench.target)
    bench.connector.check_private(replace(remote, use_ssl=True))
    bench.connector.check_private(replace(remote, options={"Allow Clear Text": "TRUE"}))
    with pytest.raises(Unsupported):
        bench.connector.check_private(remote)

"""What is SQL Server's own: contained users, policies, locks, rights, TLS. The server is emulated, the driver is real."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Credential, Deadline, Finding, Unseen, VerdictState
from connectors.sqlserver.quoting import identifier, literal
from deploy.lab import EmulatedServer, mssql
from pam_jobs.errors import Effect, Forbidden, Locked, PolicyRefused, Unreachable, Unsupported
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.sqlserver import SqlserverBench
from tests.support.tls_front import make_certificate

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

SHOP = "Shop]'s"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedServer]:
    folder = tmp_path_factory.mktemp("mssql")
    certificate, key = make_certificate(folder)
    databases = {SHOP: {"contained": True}, "Old": {"contained": True, "read_only": True}, "Off": {"online": False}}
    made = mssql.start(folder, databases=databases, lockout=3, history=3, certificate=str(certificate), key=str(key))
    yield made
    made.stop()


@pytest.fixture
def bench(server: EmulatedServer) -> Iterator[SqlserverBench]:
    made = SqlserverBench(server)
    yield made
    made.connector.close_idle()


def account_of(login: str, database: str | None = None) -> Account:
    return Account(login=login, record_uid="x", database=database)


def made(bench: SqlserverBench, options: str = "") -> Credential:
    credential = Credential(login=f"u{secrets.token_hex(4)}", password=new_password())
    bench.make_account(credential.login, credential, options)
    return credential


def contained(bench: SqlserverBench, database: str = SHOP) -> Credential:
    credential = Credential(login=f"c{secrets.token_hex(4)}", password=new_password(), database=database)
    text = literal(credential.password.reveal())
    bench.execute(f"USE {identifier(database)}; CREATE USER {identifier(credential.login)} WITH PASSWORD = {text}")
    return credential


def rotate(bench: SqlserverBench, account: Account, rotator: Credential | None = None, **options: str) -> SecretValue:
    candidate = Candidate(password=new_password())
    target = replace(bench.target, options=options)
    with bench.connector.open(target, rotator or bench.admin, Deadline(20)) as session:
        session.preflight(account)
        assert session.change(account, candidate, lambda: None) is Effect.APPLIED
        assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED
    return candidate.password


def verdict(bench: SqlserverBench, credential: Credential, **options: str) -> tuple[VerdictState, str]:
    target = replace(bench.target, options=options)
    with bench.connector.open(target, None, Deadline(20)) as session:
        found = session.probe(account_of(credential.login, credential.database), credential)
    return found.state, found.cause


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    login=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\\"), min_size=1, max_size=40),
    password=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60),
)
def test_any_text_is_a_name_and_a_password_that_logs_in(bench, login, password):
    login = f"{secrets.token_hex(3)}{login}"
    bench.make_account(login, Credential(login=login, password=new_password()))
    account, candidate = account_of(login), Candidate(password=SecretValue(password))
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session:
        session.change(account, candidate, lambda: None)
        assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED


def test_what_looks_like_a_statement_stays_a_name_and_a_password(bench):
    victim = made(bench)
    attack = f"x]; DROP LOGIN [{victim.login}]; --{secrets.token_hex(3)}"
    bench.make_account(attack, Credential(login=attack, password=new_password()))
    account = account_of(attack)
    for text in (f"a'; DROP LOGIN [{victim.login}]; --", "]]''--/*", "😀\u202e\r\n\t%s%n$(x)`"):
        with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session:
            session.change(account, Candidate(password=SecretValue(text)), lambda: None)
        assert verdict(bench, Credential(login=attack, password=SecretValue(text)))[0] is VerdictState.ACCEPTED
    assert verdict(bench, victim)[0] is VerdictState.ACCEPTED


def test_a_contained_user_is_rotated_by_an_administrator_and_by_itself(bench):
    current = contained(bench)
    account = account_of(current.login, SHOP)
    new = rotate(bench, account)
    assert verdict(bench, current) == (VerdictState.REFUSED, "wrong_password")
    mine = replace(current, password=new)
    newer = rotate(bench, account, mine)
    assert verdict(bench, mine) == (VerdictState.REFUSED, "wrong_password")
    assert verdict(bench, replace(current, password=newer))[0] is VerdictState.ACCEPTED
    with bench.connector.open(replace(bench.target, database=SHOP), bench.admin, Deadline(20)) as session:
        found = [each for each in session.discover() if isinstance(each, Finding)]
    assert (current.login, SHOP) in {(each.name, each.facts.get("database")) for each in found}


def test_a_user_of_a_read_only_database_is_refused_beforehand(bench):
    current = contained(bench, "Old")
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session, pytest.raises(Unsupported):
        session.preflight(account_of(current.login, "Old"))


@pytest.mark.parametrize("database", ["Nowhere", "Off", SHOP])
def test_a_database_that_cannot_be_opened_refuses_no_password(bench, database):
    """The server ends such a login with the number of a wrong password, too."""
    current = replace(made(bench), database=database)
    assert verdict(bench, current) == (VerdictState.UNKNOWN, "no_database")
    assert verdict(bench, replace(current, password=new_password())) == (VerdictState.REFUSED, "wrong_password")


@pytest.mark.parametrize(("text", "number"), [("Sh0rt!", "15116"), ("onlylowercase", "15118")])
def test_a_password_against_the_policy_is_refused_and_nothing_changes(bench, text, number):
    current = made(bench)
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session:
        assert session.preflight(account_of(current.login)).min_length == 8
        with pytest.raises(PolicyRefused, match=number):
            session.change(account_of(current.login), Candidate(password=SecretValue(text)), lambda: None)
    assert verdict(bench, current)[0] is VerdictState.ACCEPTED


def test_a_value_that_the_history_refuses_because_it_is_the_present_one_counts_as_set(bench):
    current = made(bench)
    new = rotate(bench, account_of(current.login), current)
    mine = replace(current, password=new)
    with bench.connector.open(bench.target, mine, Deadline(20)) as session:
        again = session.change(account_of(current.login), Candidate(password=new), lambda: None)
        assert again is Effect.APPLIED
        session.change(account_of(current.login), Candidate(password=new_password()), lambda: None)
        with pytest.raises(PolicyRefused, match="15115"):
            session.change(account_of(current.login), Candidate(password=new), lambda: None)


def test_a_locked_login_is_no_wrong_password_and_unlocks_only_when_asked(bench):
    current = made(bench)
    for _ in range(3):
        assert verdict(bench, replace(current, password=new_password()))[0] is VerdictState.REFUSED
    assert verdict(bench, current) == (VerdictState.LOCKED, "account_locked")
    account = account_of(current.login)
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session:
        assert session.metadata(account).locked is True
        new = new_password()
        session.change(account, Candidate(password=new), lambda: None)
    assert verdict(bench, replace(current, password=new)) == (VerdictState.LOCKED, "account_locked")
    newer = rotate(bench, account, Unlock="TRUE")
    assert verdict(bench, replace(current, password=newer))[0] is VerdictState.ACCEPTED


def test_disabled_and_reset_logins_are_told_from_wrong_passwords(bench):
    current = made(bench)
    bench.execute(f"ALTER LOGIN {identifier(current.login)} DISABLE")
    assert verdict(bench, current) == (VerdictState.LOCKED, "disabled")
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session:
        assert session.metadata(account_of(current.login)).disabled is True
        with pytest.raises(Unsupported):
            session.preflight(account_of(current.login))
    fresh = made(bench, " MUST_CHANGE, CHECK_POLICY = ON, CHECK_EXPIRATION = ON")
    assert verdict(bench, fresh) == (VerdictState.ACCEPTED, "change_after_reset")
    with pytest.raises(Locked):
        bench.connector.open(bench.target, fresh, Deadline(20))
    new = rotate(bench, account_of(fresh.login))
    assert verdict(bench, replace(fresh, password=new)) == (VerdictState.ACCEPTED, "")


def test_windows_logins_are_refused_by_name(bench):
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session, pytest.raises(Unsupported) as told:
        session.preflight(account_of("CORP\\ann"))
    assert "Windows" in told.value.message
    login = f"machine{secrets.token_hex(3)}"
    bench.execute(f"CREATE LOGIN {identifier(login)} FROM WINDOWS")
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session, pytest.raises(Unsupported) as told:
        session.preflight(account_of(login))
    assert "WINDOWS_LOGIN" in told.value.message


def test_rights_on_logins_do_not_reach_members_of_sysadmin(bench):
    helper, chief, plain = made(bench), made(bench), made(bench)
    bench.execute(f"GRANT ALTER ANY LOGIN TO {identifier(helper.login)}")
    bench.execute(f"GRANT CONTROL SERVER TO {identifier(chief.login)}")
    rotate(bench, account_of(plain.login), helper)
    with bench.connector.open(bench.target, helper, Deadline(20)) as session:
        with pytest.raises(Forbidden):
            session.preflight(account_of(chief.login))
        assert not [each for each in session.discover() if isinstance(each, Unseen)]
    with bench.connector.open(bench.target, chief, Deadline(20)) as session:
        assert session.preflight(account_of(helper.login)).may_change


def test_a_certificate_is_checked_where_the_record_says_so(bench, tmp_path, server):
    current = made(bench)
    ca = str(Path(server.folder) / "crt")
    assert verdict(bench, current, sslmode="verify-full", ssl_ca=ca)[0] is VerdictState.ACCEPTED
    other = tmp_path / "other"
    other.mkdir()
    stranger, _ = make_certificate(other)
    assert verdict(bench, current, sslmode="verify-ca", ssl_ca=str(stranger)) == (VerdictState.UNKNOWN, "unreachable")
    with pytest.raises(Unreachable):
        bench.connector.open(replace(bench.target, use_ssl=True), bench.admin, Deadline(20))  # by the system's CAs
    assert verdict(bench, current, sslmode="disable")[0] is VerdictState.ACCEPTED
    for options in ({"sslmode": "maybe"}, {"sslmode": "verify-ca", "ssl_ca": "/nowhere"}):
        with pytest.raises(Unsupported):
            bench.connector.open(replace(bench.target, options=options), bench.admin, Deadline(20))


def test_a_password_is_not_sent_in_clear_beyond_this_machine(bench):
    remote = replace(bench.target, host="db.example.com", options={"sslmode": "disable"})
    assert bench.connector.is_private(bench.target)
    assert bench.connector.is_private(replace(remote, host="127.0.0.1"))
    assert not bench.connector.is_private(remote)
    for host in ("a\nhost = b", "", "x;y"):
        with pytest.raises(Unsupported):
            bench.connector.open(replace(bench.target, host=host), bench.admin, Deadline(20))


def test_logins_at_the_same_time_get_their_own_refusals(bench):
    right, locked, wrong = made(bench), made(bench), made(bench)
    bench.execute(f"ALTER LOGIN {identifier(locked.login)} DISABLE")
    asked = [right, locked, replace(wrong, password=SecretValue("Wrong-1")), replace(right, database="Nowhere")] * 3
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda credential: verdict(bench, credential)[1], asked))
    assert told == ["", "disabled", "wrong_password", "no_database"] * 3

"""What is MySQL 8's own: caching_sha2_password, dual passwords, rules, locks, roles. The server is emulated, the driver is real."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Credential, Deadline, VerdictState
from connectors.mysql.connector import MysqlConnector
from deploy.lab import EmulatedServer, MariadbServer, mysql8
from pam_jobs.errors import Effect, Forbidden, PolicyRefused, Unsupported
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.mariadb import MariadbBench, Mysql8Bench
from tests.support.tls_front import make_certificate

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

DUAL = {"Dual Password": "TRUE"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedServer]:
    """A server with TLS and rules for passwords."""
    folder = tmp_path_factory.mktemp("mysql8")
    certificate, key = make_certificate(folder)
    made = mysql8.start(folder, min_length=14, certificate=str(certificate), key=str(key))
    yield made
    made.stop()


@pytest.fixture
def bench(target_mysql8: EmulatedServer) -> Iterator[Mysql8Bench]:
    made = Mysql8Bench(target_mysql8)
    yield made
    made.connector.close_idle()


def strong() -> SecretValue:
    return SecretValue(f"Aa1!{secrets.token_urlsafe(12)}")


def account_of(login: str) -> Account:
    return Account(login=login, record_uid="x")


def made(bench: Mysql8Bench, host: str = "%", plugin: str = "caching_sha2_password") -> Credential:
    credential = Credential(login=f"u{secrets.token_hex(4)}", password=strong())
    value = credential.password.reveal()
    bench.execute(f"CREATE USER %s@%s IDENTIFIED WITH {plugin} BY %s", credential.login, host, value)
    return credential


def rotate(bench: Mysql8Bench, login: str, rotator: Credential | None = None, **options: str) -> Credential:
    candidate = Candidate(password=strong())
    target = replace(bench.target, options=options)
    with bench.connector.open(target, rotator or bench.admin, Deadline(20)) as session:
        session.preflight(account_of(login))
        assert session.change(account_of(login), candidate, lambda: None) is Effect.APPLIED
    return Credential(login=login, password=candidate.password)


def verdict(bench: Mysql8Bench, credential: Credential, **options: str) -> tuple[VerdictState, str]:
    with bench.connector.open(replace(bench.target, options=options), None, Deadline(20)) as session:
        found = session.probe(account_of(credential.login), credential)
    return found.state, found.cause


ACCEPTED = (VerdictState.ACCEPTED, "")
REFUSED = (VerdictState.REFUSED, "wrong_password")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0@"), min_size=1, max_size=20),
    password=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200),
)
def test_any_text_is_a_name_and_a_password_that_logs_in(bench, name, password):
    login = f"{secrets.token_hex(3)}{name}x"
    bench.make_account(login, Credential(login=login, password=new_password()))
    with bench.connector.open(bench.target, bench.admin, Deadline(20)) as session:
        session.change(account_of(login), Candidate(password=SecretValue(password)), lambda: None)
    assert verdict(bench, Credential(login=login, password=SecretValue(password))) == ACCEPTED


@pytest.mark.parametrize("host", ["%", "127.0.0.1"])
@pytest.mark.parametrize("plugin", ["caching_sha2_password", "mysql_native_password"])
def test_dual_passwords_accept_the_old_one_until_the_next_rotation(bench, host, plugin):
    first = made(bench, host, plugin)
    second = rotate(bench, first.login, **DUAL)
    assert (verdict(bench, first), verdict(bench, second)) == (ACCEPTED, ACCEPTED)
    third = rotate(bench, first.login, **DUAL)
    assert [verdict(bench, each) for each in (first, second, third)] == [REFUSED, ACCEPTED, ACCEPTED]


def test_a_rotation_without_the_option_ends_what_an_earlier_one_left_valid(bench):
    first = made(bench)
    second = rotate(bench, first.login, **DUAL)
    third = rotate(bench, first.login)
    assert [verdict(bench, each) for each in (first, second, third)] == [REFUSED, REFUSED, ACCEPTED]


def test_an_account_keeps_its_own_old_password_only_with_the_right_to(bench):
    first = made(bench)
    with pytest.raises(Forbidden):
        rotate(bench, first.login, first, **DUAL)
    bench.execute("GRANT APPLICATION_PASSWORD_ADMIN ON *.* TO %s@'%%'", first.login)
    second = rotate(bench, first.login, first, **DUAL)
    assert (verdict(bench, first), verdict(bench, second)) == (ACCEPTED, ACCEPTED)


def test_a_login_goes_the_long_way_once_and_the_short_way_from_then_on(bench):
    current = rotate(bench, made(bench).login)
    assert verdict(bench, current) == ACCEPTED
    assert verdict(bench, current) == ACCEPTED
    assert verdict(bench, replace(current, password=strong())) == REFUSED


def test_rules_locks_and_expiry_are_told_apart_over_tls(server):
    bench = Mysql8Bench(server)
    ca = {"sslmode": "verify-full", "ssl_ca": str(Path(server.folder) / "crt")}
    current = made(bench)
    with bench.connector.open(replace(bench.target, options=ca), bench.admin, Deadline(20)) as session:
        assert session.preflight(account_of(current.login)).min_length == 14
        with pytest.raises(PolicyRefused):
            session.change(account_of(current.login), Candidate(password=SecretValue("too weak 1")), lambda: None)
    new = rotate(bench, current.login, **ca)
    assert verdict(bench, new, **ca) == ACCEPTED
    bench.execute("ALTER USER %s@'%%' PASSWORD EXPIRE", new.login)
    assert verdict(bench, new, **ca) == (VerdictState.ACCEPTED, "expired")
    bench.execute("ALTER USER %s@'%%' ACCOUNT LOCK", new.login)
    assert verdict(bench, new, **ca) == (VerdictState.LOCKED, "account_locked")
    assert verdict(bench, replace(new, password=strong()), **ca) == REFUSED
    bench.connector.close_idle()


def test_rights_come_by_a_role_too(bench):
    admin, other = made(bench), made(bench)
    role = f"keeper`'{secrets.token_hex(3)}"
    bench.execute("CREATE ROLE %s", role)
    bench.execute("GRANT CREATE USER, SELECT ON *.* TO %s", role)
    with pytest.raises(Forbidden):
        rotate(bench, other.login, admin)
    bench.execute("GRANT %s TO %s@'%%'", role, admin.login)
    bench.connector.close_idle()
    assert verdict(bench, rotate(bench, other.login, admin)) == ACCEPTED


def test_mariadb_gives_rights_by_a_role_and_keeps_no_second_password(target_mariadb: MariadbServer):
    bench = MariadbBench(target_mariadb)
    role, admin, other = f"keeper{secrets.token_hex(3)}", f"a{secrets.token_hex(3)}", f"o{secrets.token_hex(3)}"
    rotator = Credential(login=admin, password=new_password())
    for credential in (rotator, Credential(login=other, password=new_password())):
        bench.make_account(credential.login, credential)
    bench.execute(f"CREATE ROLE {role}")
    bench.execute(f"GRANT CREATE USER ON *.* TO {role}")
    bench.execute(f"GRANT SELECT ON mysql.* TO {role}")
    bench.execute(f"GRANT {role} TO {admin}@'%'")
    new = Candidate(password=new_password())
    with bench.connector.open(bench.target, rotator, Deadline(20)) as session:
        session.preflight(account_of(other))
        session.change(account_of(other), new, lambda: None)
        assert session.probe(account_of(other), new.credential(account_of(other))).state is VerdictState.ACCEPTED
    dual = replace(bench.target, options=DUAL)
    with bench.connector.open(dual, bench.admin, Deadline(20)) as session, pytest.raises(Unsupported):
        session.preflight(account_of(other))
    bench.connector.close_idle()


def test_the_emulated_server_refuses_as_mysql_does(bench):
    """So that what the connector reads from it is worth something."""
    for statement, code in (
        ("ALTER USER nobody@'%' IDENTIFIED BY 'x'", 1396),
        ("ALTER USER labadmin@'%' IDENTIFIED WITH mysql_native_password BY 'x' RETAIN CURRENT PASSWORD", 3894),
        ("ALTER USER labadmin@'%' IDENTIFIED BY 'x' REPLACE 'wrong'", 3891),
        ("SELECT nonsense FROM mysql.user", 1064),
    ):
        with pytest.raises(pymysql.err.MySQLError) as caught:
            bench.execute(statement)
        assert caught.value.args[0] == code, statement
    assert (
        MysqlConnector().recognise(bench.target.host, bench.target.port, Deadline(5)).banner == "MySQL 8.0.99-emulated"
    )

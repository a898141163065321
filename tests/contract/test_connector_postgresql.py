"""What is PostgreSQL's own: codes, rights, expiry, locks, TLS, and its rotator rotating itself."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from psycopg import sql

from connectors.base import Account, Candidate, Credential, Deadline, Target, Unseen, VerdictState
from connectors.postgresql.connector import PostgresqlConnector
from pam_jobs.errors import Effect, Forbidden, Locked, NotApplied, PolicyRefused, Unreachable, Unsupported
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.postgresql import PostgresBench
from tests.support.tls_front import TlsFront

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


@pytest.fixture
def bench(target_postgres) -> Iterator[PostgresBench]:
    made = PostgresBench(target_postgres)
    yield made
    made.connector.close_idle()


def alter(bench: PostgresBench, login: str, words: str) -> None:
    bench.execute(sql.SQL("ALTER ROLE {} " + words).format(sql.Identifier(login)))


def test_session_that_rotates_the_admin_itself_stays_open_and_is_not_kept(bench):
    admin, current = bench.new_account()
    alter(bench, admin.login, "SUPERUSER")
    other, _ = bench.new_account()
    new = Candidate(password=new_password())
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        assert session.preflight(admin).is_self
        assert session.change(admin, new, lambda: None) is Effect.APPLIED
        assert session.probe(admin, new.credential(admin)).state is VerdictState.ACCEPTED
        # the connection that changed it still works
        assert session.change(other, Candidate(password=new_password()), lambda: None) is Effect.APPLIED
    assert len(bench.connector.kept) == 0


def test_changing_an_admin_drops_its_kept_connections(bench):
    admin, current = bench.new_account()
    alter(bench, admin.login, "SUPERUSER")
    with bench.connector.open(bench.target, current, Deadline(20)):
        pass
    assert len(bench.connector.kept) == 1
    with bench.open(current) as session:  # as the lab's own admin
        session.change(admin, Candidate(password=new_password()), lambda: None)
    with pytest.raises(NotApplied):
        bench.connector.open(bench.target, current, Deadline(20))


def test_kept_connection_that_the_server_ended_is_replaced(bench):
    account, current = bench.new_account()
    with bench.open(current) as session:
        session.preflight(account)
    bench.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pam-jobs'")
    time.sleep(0.1)
    with bench.open(current) as session:
        assert session.preflight(account).may_change


def test_too_many_connections_is_unknown(bench):
    account, current = bench.new_account()
    alter(bench, account.login, "CONNECTION LIMIT 0")
    with bench.look() as session:
        verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.UNKNOWN, "too_many_connections")


def test_role_that_may_not_log_in_is_locked_and_refused_beforehand(bench):
    account, current = bench.new_account()
    alter(bench, account.login, "NOLOGIN")
    with bench.open(current) as session:
        assert session.probe(account, current).state is VerdictState.LOCKED
        assert session.metadata(account).disabled is True
        with pytest.raises(Unsupported):
            session.preflight(account)


def test_expired_role_is_locked_and_not_refused(bench):
    account, current = bench.new_account()
    alter(bench, account.login, "VALID UNTIL '2020-01-01'")
    with bench.open(current) as session:
        verdict = session.probe(account, current)
        assert (verdict.state, verdict.cause) == (VerdictState.LOCKED, "expired")
        assert session.metadata(account).expires.year in {2019, 2020}
        with pytest.raises(Locked):
            session.preflight(account)


def test_missing_database_is_unknown_and_refused_beforehand(bench):
    account, current = bench.new_account()
    elsewhere = Account(login=account.login, record_uid="x", database="no such database")
    with bench.open(current) as session:
        assert session.probe(elsewhere, current).cause == "no_database"
        with pytest.raises(Unsupported):
            session.preflight(elsewhere)


def test_same_value_set_by_another_attempt_with_another_salt_is_accepted(bench):
    account, current = bench.new_account()
    candidate = Candidate(password=new_password())
    with bench.open(current) as mine, bench.open(current) as other:
        mine.change(account, candidate, lambda: None)
        other.change(account, candidate, lambda: None)
        assert mine.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED


def test_login_with_a_name_that_the_server_would_cut_is_refused(bench):
    _, current = bench.new_account()
    with bench.open(current) as session, pytest.raises(Unsupported):
        session.preflight(Account(login="x" * 64, record_uid="x"))


@pytest.mark.parametrize("login", ["Mixed Case", 'quote"d', "semi;colon", "ünïcode", "-dash", "back\\slash", "sel'ect"])
def test_hostile_logins_are_rotated(bench, login):
    account, candidate = (
        Account(login=f"{login}{secrets.token_hex(2)}", record_uid="x"),
        Candidate(password=new_password()),
    )
    bench.make_account(account.login, Credential(login=account.login, password=new_password()))
    with bench.open(candidate.credential(account)) as session:
        assert session.preflight(account).may_change
        session.change(account, candidate, lambda: None)
        assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED


def test_change_waits_for_another_one_of_the_same_role_only_so_long(bench):
    account, current = bench.new_account()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        def fence() -> None:
            entered.set()
            leave.wait(20)

        with bench.open(current) as session:
            session.change(account, Candidate(password=new_password()), fence)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert entered.wait(10)
        with bench.open(current, seconds=1.5) as session, pytest.raises(NotApplied):
            session.change(account, Candidate(password=new_password()), lambda: None)
    finally:
        leave.set()
        thread.join()


def test_rule_of_the_server_that_refuses_the_value_is_policy(bench):
    account, current = bench.new_account()
    rotator, rotators = bench.new_account()
    alter(bench, rotator.login, "SUPERUSER")
    alter(bench, rotator.login, "SET session_preload_libraries = 'passwordcheck'")
    with bench.connector.open(bench.target, rotators, Deadline(20)) as session:
        found = session.preflight(account)
        assert (found.min_length, found.min_classes, found.forbidden_words) == (8, 3, (account.login,))
        with pytest.raises(PolicyRefused):
            session.change(account, Candidate(password=SecretValue(account.login)), lambda: None)
    with bench.look() as session:
        assert session.probe(account, current).state is VerdictState.ACCEPTED


def test_discovery_says_what_only_superusers_see(bench):
    _, current = bench.new_account()
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        unseen = [each for each in session.discover() if isinstance(each, Unseen)]
    assert [each.cause for each in unseen] == ["not_permitted"]


# A server that only talks: what no healthy server can be made to say on demand


@contextmanager
def talking(answer: bytes) -> Iterator[int]:
    """Answer every start-up with these bytes and close."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                first = client.recv(4096)
                if first[4:8] == struct.pack("!I", 80877103):
                    client.sendall(b"N")
                    first = client.recv(4096)
                if first:
                    client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def error(code: str, text: str) -> bytes:
    fields = f"SВАЖНО\0VFATAL\0C{code}\0M{text}\0Fx.c\0L1\0Rf\0\0".encode()  # noqa: RUF001
    return b"E" + struct.pack("!I", len(fields) + 4) + fields


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (error("57P03", "система баз данных запускается"), "starting_up"),
        (error("53300", "извините, уже слишком много клиентов"), "too_many_connections"),
        (error("28000", "в pg_hba.conf нет записи"), "not_allowed_from_here"),
        (
            b"R" + struct.pack("!II", 8, 0) + b"Z\0\0\0\5I",
            "unreachable",
        ),  # logged in without being asked: proves nothing
        (b"R" + struct.pack("!II", 8, 3), "cut_during_login"),  # asks for the password in the clear
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "unreachable"),
    ],
)
def test_servers_words_are_understood_by_their_code(answer, cause):
    connector, account = PostgresqlConnector(), Account(login="joe", record_uid="x")
    with talking(answer) as port:
        target = Target(host="127.0.0.1", port=port, protocol="postgresql")
        with connector.open(target, None, Deadline(5)) as session:
            verdict = session.probe(account, Credential(login="joe", password=SecretValue("x")))
    assert verdict.state is VerdictState.UNKNOWN
    assert verdict.cause == cause or cause in {"unreachable", "cut_during_login"}, verdict


def test_what_is_no_postgresql_is_not_recognised():
    with talking(b"ERROR\r\nERROR\r\n") as port:
        assert PostgresqlConnector().recognise("127.0.0.1", port, Deadline(5)) is None


# A server of its own


@pytest.fixture
def modern(target_postgres_18) -> Iterator[PostgresBench]:
    made = PostgresBench(target_postgres_18)
    yield made
    made.connector.close_idle()


def test_createrole_needs_admin_option_on_new_servers(modern):
    account, _ = modern.new_account()
    rotator, current = modern.new_account()
    alter(modern, rotator.login, "CREATEROLE")
    with modern.connector.open(modern.target, current, Deadline(20)) as session, pytest.raises(Forbidden):
        session.preflight(account)
    grant = sql.SQL("GRANT {} TO {} WITH ADMIN OPTION")
    modern.execute(grant.format(sql.Identifier(account.login), sql.Identifier(rotator.login)))
    candidate = Candidate(password=new_password())
    with modern.connector.open(modern.target, current, Deadline(20)) as session:
        assert session.preflight(account).may_change
        session.change(account, candidate, lambda: None)
        assert session.probe(account, candidate.credential(account)).state is VerdictState.ACCEPTED


def test_servers_own_count_of_iterations_is_kept(modern):
    account, current = modern.new_account()
    modern.execute("ALTER SYSTEM SET scram_iterations = 6000")
    modern.execute("SELECT pg_reload_conf()")
    time.sleep(0.3)
    with modern.open(current) as session:
        session.preflight(account)
        session.change(account, Candidate(password=new_password()), lambda: None)
    assert "SCRAM-SHA-256$6000:" in modern.fingerprint(account)
    modern.execute("ALTER SYSTEM RESET scram_iterations")


# TLS, by a front before the server, since not every build of PostgreSQL has it


@pytest.fixture
def front(bench) -> Iterator[TlsFront]:
    with TlsFront(bench.target.host, bench.target.port) as made:
        yield made


def test_tls_is_used_wherever_the_server_speaks_it(bench, front):
    account, current = bench.new_account()
    with bench.open(current, target=bench.at(front.port)) as session:
        assert session.probe(account, current).state is VerdictState.ACCEPTED
    assert (front.secure, front.plain) == (2, 0)
    assert bench.connector.recognise("127.0.0.1", front.port, Deadline(5)).facts["tls"] == "yes"


def test_wrong_password_costs_one_failure_even_with_tls(bench, front):
    account, _ = bench.new_account()
    wrong = Credential(login=account.login, password=SecretValue("wrong"))
    words = f'password authentication failed for user "{account.login}"'
    with bench.look(target=bench.at(front.port)) as session:
        assert session.probe(account, wrong).state is VerdictState.REFUSED
    time.sleep(0.1)
    assert bench.log_text().count(words) == 1
    assert front.plain == 0


def test_demanded_tls_is_verified(bench, front):
    account, current = bench.new_account()
    unverified = Target(host="localhost", port=front.port, protocol="postgresql", use_ssl=True)
    right = replace(unverified, options={"ssl_ca": str(front.certificate)})
    with bench.connector.open(right, bench.admin, Deadline(20)) as session:
        assert session.preflight(account).may_change
        assert session.probe(account, current).state is VerdictState.ACCEPTED
    with pytest.raises(Unreachable):
        bench.connector.open(unverified, bench.admin, Deadline(20))
    with bench.connector.open(unverified, None, Deadline(20)) as session:
        assert session.probe(account, current).state is VerdictState.UNKNOWN


def test_demanded_tls_that_the_server_lacks_is_unreachable(bench):
    target = Target(host="127.0.0.1", port=bench.target.port, protocol="postgresql", use_ssl=True)
    with pytest.raises(Unreachable):
        bench.connector.open(target, bench.admin, Deadline(20))


def test_md5_is_stored_where_the_record_asks_for_it(bench):
    account, _ = bench.new_account()
    target = replace(bench.target, options={"password_encryption": "md5"})
    candidate = Candidate(password=new_password())
    with bench.connector.open(target, bench.admin, Deadline(20)) as session:
        session.change(account, candidate, lambda: None)
    assert "'md5" in bench.fingerprint(account)
    with bench.look() as session:  # it does not log in where pg_hba.conf demands SCRAM, and the probe says so
        assert session.probe(account, candidate.credential(account)).state is VerdictState.REFUSED


def test_password_is_hashed_as_often_as_the_record_says(bench):
    account, current = bench.new_account()
    often = replace(bench.target, options={"scram_iterations": "20000"})
    with bench.open(current, target=often) as session:
        session.preflight(account)
        new = Candidate(password=new_password())
        assert session.change(account, new, lambda: None) is Effect.APPLIED
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
    assert "SCRAM-SHA-256$20000:" in bench.fingerprint(account)
    for wrong in ("4095", "many", "1000001"):
        target = replace(bench.target, options={"scram_iterations": wrong})
        with bench.open(current, target=target) as session, pytest.raises(Unsupported, match="SCRAM Iterations"):
            session.preflight(account)

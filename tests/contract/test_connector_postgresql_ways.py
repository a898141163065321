"""Who looks at a role's password: a pooler before PostgreSQL, or somebody whom the server asks."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg import sql

from connectors.base import Account, Candidate, Credential, Deadline, VerdictState
from connectors.postgresql.scram import scram_verifier
from deploy.lab import pgbouncer
from deploy.lab.pgbouncer import PgbouncerServer
from pam_jobs.errors import Effect, Forbidden, Unsupported
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.postgresql import PostgresBench
from tests.support.tls_front import TlsFront

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

TAG = secrets.token_hex(3)
COPIED, PLAIN, FORCED = f"copied_{TAG}", f"plain_{TAG}", f"forced_{TAG}"  # what the pooler's own file knows
FIRST = SecretValue("First-Secret-1")


@pytest.fixture(scope="module")
def pooler(target_postgres) -> Iterator[PgbouncerServer]:
    """A real pgbouncer that asks the server for verifiers, but for three roles."""
    bench = PostgresBench(target_postgres)
    verifier, _ = scram_verifier(FIRST.reveal())
    for login in (COPIED, PLAIN):
        bench.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(login), sql.Literal(verifier)))
    bench.make_account(FORCED, Credential(login=FORCED, password=FIRST))
    folder = Path(tempfile.mkdtemp(prefix="pam-targets-"))
    folder.chmod(0o755)
    users = {COPIED: verifier, PLAIN: FIRST.reveal()}
    made = pgbouncer.start(folder, target_postgres, users=users, forced=(FORCED, FIRST.reveal()))
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bench(target_postgres) -> Iterator[PostgresBench]:
    made = PostgresBench(target_postgres)
    yield made
    made.connector.close_idle()


def behind(bench: PostgresBench, pooler: PgbouncerServer, pool: str) -> PostgresBench:
    bench.target = replace(bench.target, port=pooler.port, database=pool)
    return bench


def state(
    bench: PostgresBench, account: Account, credential: Credential, **options: object
) -> tuple[VerdictState, str]:
    with bench.look(**options) as session:
        verdict = session.probe(account, credential)
    return verdict.state, verdict.cause


@pytest.mark.parametrize("pool", ["sessions", "transactions"])
def test_role_is_rotated_by_a_pooler_that_asks_the_server(bench, pooler, pool):
    straight = bench.target
    behind(bench, pooler, pool)
    account, current = bench.new_account()
    for _ in range(2):  # the second time over the kept connection
        new = Candidate(password=new_password())
        with bench.open(current) as session:
            assert session.preflight(account).server.endswith("by a pooler")
            assert session.change(account, new, lambda: None) is Effect.APPLIED
            assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
            refused = session.probe(account, current)
            assert (refused.state, refused.cause) == (VerdictState.REFUSED, "wrong_password")
        assert state(bench, account, new.credential(account), target=straight)[0] is VerdictState.ACCEPTED
        current = new.credential(account)
    assert len(bench.connector.kept) == 1


def test_rotator_that_rotates_itself_by_a_pooler_goes_on(bench, pooler):
    behind(bench, pooler, "transactions")
    admin, current = bench.new_account()
    bench.execute(sql.SQL("ALTER ROLE {} SUPERUSER").format(sql.Identifier(admin.login)))
    new = Candidate(password=new_password())
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        assert session.preflight(admin).is_self
        assert session.change(admin, new, lambda: None) is Effect.APPLIED
        assert session.probe(admin, new.credential(admin)).state is VerdictState.ACCEPTED
    with bench.connector.open(bench.target, new.credential(admin), Deadline(20)) as session:
        assert session.preflight(admin).may_change


@pytest.mark.parametrize("login", [COPIED, PLAIN], ids=["copied", "plain"])  # the names end with chance
def test_change_that_the_pooler_would_never_hear_of_is_taken_back(bench, pooler, login):
    account, current = Account(login=login, record_uid="x"), Credential(login=login, password=FIRST)
    before, straight = bench.fingerprint(account), bench.target
    behind(bench, pooler, "transactions")
    with bench.open(current) as session:
        session.preflight(account)
        with pytest.raises(Unsupported, match="keeps a copy"):
            session.change(account, Candidate(password=new_password()), lambda: None)
    assert bench.fingerprint(account) == before
    assert state(bench, account, current, target=straight)[0] is VerdictState.ACCEPTED


def test_login_that_only_the_pooler_believes_in_proves_nothing(bench, pooler):
    account, old = Account(login=COPIED, record_uid="x"), Credential(login=COPIED, password=FIRST)
    behind(bench, pooler, "sessions")
    assert state(bench, account, old)[0] is VerdictState.ACCEPTED  # the pooler now keeps a connection that logged in so
    before, new = bench.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", COPIED)[0][0], new_password()
    alter = sql.SQL("ALTER ROLE {} PASSWORD {}").format
    bench.execute(alter(sql.Identifier(COPIED), sql.Literal(scram_verifier(new.reveal())[0])))
    try:
        with bench.open(old) as session:
            for password in (FIRST, new):
                verdict = session.probe(account, Credential(login=COPIED, password=password))
                assert (verdict.state, verdict.cause) == (VerdictState.UNKNOWN, "stale_pooler")
    finally:
        bench.execute(alter(sql.Identifier(COPIED), sql.Literal(before)))


@pytest.mark.parametrize(("pool", "words"), [("statements", "by statement"), ("forced", "logs in as role")])
def test_pool_that_cannot_carry_a_change_is_refused_beforehand(bench, pooler, pool, words):
    behind(bench, pooler, pool)
    account, current = bench.new_account()
    with bench.open(current) as session, pytest.raises(Unsupported, match=words):
        session.preflight(account)


def test_rotator_that_cannot_see_what_a_pooler_knows_is_refused_beforehand(bench, pooler):
    behind(bench, pooler, "transactions")
    account, current = bench.new_account()
    with (
        bench.connector.open(bench.target, current, Deadline(20)) as session,
        pytest.raises(Forbidden, match="superuser"),
    ):
        session.preflight(account)


def test_pooler_that_cannot_log_in_to_its_server_refuses_nobodys_password(bench, pooler):
    behind(bench, pooler, "forced")
    account, current = bench.new_account()
    set_password = sql.SQL("ALTER ROLE {} PASSWORD {}").format
    bench.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", FORCED)
    bench.execute(set_password(sql.Identifier(FORCED), sql.Literal("Second")))
    try:
        assert state(bench, account, current, seconds=3)[0] is VerdictState.UNKNOWN
    finally:
        bench.execute(set_password(sql.Identifier(FORCED), sql.Literal(FIRST.reveal())))


# pg_hba.conf

LINES = {
    "gss": ("gss", Unsupported, "Kerberos"),
    "ldap": ('ldap ldapserver=127.0.0.1 ldapport=9 ldapprefix="uid="', Unsupported, "kept elsewhere .*ldap"),
    "radius": ('radius radiusservers="127.0.0.1" radiussecrets="x"', Unsupported, "kept elsewhere .*radius"),
    "pam": ("pam", Unsupported, "kept elsewhere .*pam"),
    "trust": ("trust", Unsupported, "without a password"),
    "ident": ("ident", Forbidden, "not let this login in"),
    "reject": ("reject", Forbidden, "not let this login in"),
}


@pytest.fixture(scope="module")
def ways(target_postgres) -> Iterator[dict[str, Account]]:
    """Roles by the method of their lines in the server's pg_hba.conf; ``password`` follows a line that is another's."""
    bench, file = PostgresBench(target_postgres), target_postgres.data / "pg_hba.conf"
    roles = {name: Account(login=f"by_{name}_{TAG}", record_uid="x") for name in (*LINES, "password")}
    for account in roles.values():
        bench.make_account(account.login, Credential(login=account.login, password=FIRST))
    bench.execute(f"CREATE ROLE group_{TAG}")
    bench.execute(f"GRANT group_{TAG} TO by_pam_{TAG}")
    named = {name: f"+group_{TAG}" if name == "pam" else account.login for name, account in roles.items()}
    lines = [f"host all {named[name]} 127.0.0.1/32 {line}" for name, (line, _, _) in LINES.items()]
    lines += [f"host {other} {LINES['ldap'][0]}" for other in (f"elsewhere {named['password']} all",
              f"all {named['password']} 10.0.0.0/8", f"all {named['password']} ::1/128")]  # fmt: skip
    lines += [f"host all {named['password']} all password"]
    before = file.read_text()
    file.write_text("\n".join((*lines, before)))
    bench.execute("SELECT pg_reload_conf()")
    end = time.monotonic() + 10
    while bench.connector.proof_asked(bench.target, roles["gss"].login, "postgres", Deadline(5)) != 7:
        assert time.monotonic() < end, bench.execute(
            "SELECT line_number, error FROM pg_hba_file_rules WHERE error <> ''"
        )
        time.sleep(0.02)
    yield roles
    file.write_text(before)
    bench.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("method", LINES)
def test_role_whose_password_is_looked_at_elsewhere_is_refused_beforehand(bench, ways, method):
    _, kind, words = LINES[method]
    account = ways[method]
    with bench.open(Credential(login=account.login, password=FIRST)) as session, pytest.raises(kind, match=words):
        session.preflight(account)


def test_role_that_sends_its_own_password_in_clear_is_not_taken_for_one_kept_elsewhere(bench, ways):
    account = ways["password"]
    with bench.open(Credential(login=account.login, password=FIRST)) as session:
        assert session.preflight(account).may_change


def test_rotator_that_cannot_tell_who_is_asked_is_told_so(bench, ways):
    rotator, current = bench.new_account()
    bench.execute(sql.SQL("ALTER ROLE {} CREATEROLE").format(sql.Identifier(rotator.login)))
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        with pytest.raises(Forbidden, match="may pass it on"):
            session.preflight(ways["ldap"])
        other, _ = bench.new_account()
        assert session.preflight(other).may_change


def test_server_is_asked_once_until_it_reads_its_rules_anew(bench, target_postgres):
    account, current = bench.new_account()
    file, made = target_postgres.data / "pg_hba.conf", []
    before = file.read_text()
    with TlsFront(bench.target.host, bench.target.port) as front:
        target = bench.at(front.port)
        for _ in range(3):
            new = Candidate(password=new_password())
            with bench.open(current, target=target) as session:
                assert session.preflight(account).may_change
                session.change(account, new, lambda: None)
                assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
            made.append(front.secure)
        assert made == [3, 4, 5]  # the rotator's login and the question, and each time the login that proves
        file.write_text(f"host all {account.login} all {LINES['ldap'][0]}\n{before}")
        try:
            reload_rules(bench)
            with bench.open(current, target=target) as session, pytest.raises(Unsupported, match="kept elsewhere"):
                session.preflight(account)
        finally:
            file.write_text(before)
            reload_rules(bench)


def test_rules_that_changed_unseen_lose_nothing_and_are_asked_for_again(bench):
    account, current = bench.new_account()
    new = Candidate(password=new_password())
    way = bench.connector.way(bench.target, account.login, "postgres", Deadline(20))
    with bench.open(current) as session:
        session.preflight(account)
        session.change(account, new, lambda: None)
        assert session.probe(account, new.credential(account)).state is VerdictState.ACCEPTED
        known = dict(bench.connector.ways._known)
        assert list(known) == [way]
        alter = sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format
        bench.execute(alter(sql.Identifier(account.login), 0))
        assert session.probe(account, new.credential(account)).state is VerdictState.UNKNOWN
    assert not bench.connector.ways.has(way, known[way])


def reload_rules(bench: PostgresBench) -> None:
    """Let the server read pg_hba.conf, and return when it has."""
    asked = "SELECT pg_conf_load_time()"
    before = bench.execute(asked)
    bench.execute("SELECT pg_reload_conf()")
    end = time.monotonic() + 10
    while bench.execute(asked) == before:
        assert time.monotonic() < end
        time.sleep(0.01)

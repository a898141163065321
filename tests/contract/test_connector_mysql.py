"""What is MySQL's and MariaDB's own: accounts by host, plugins, rules for passwords, locks, expiry, TLS."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest

from connectors.base import Account, Candidate, Credential, Deadline, Finding, Target, Unseen, VerdictState
from connectors.faults import Action, Fault, FaultProxy, When
from deploy.lab import MariadbServer, mariadb
from pam_jobs.errors import (
    Effect,
    EffectUnknown,
    Forbidden,
    LeaseLost,
    Locked,
    NotApplied,
    PolicyRefused,
    Unreachable,
    Unsupported,
)
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.mariadb import MariadbBench
from tests.support.tls_front import make_certificate

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server() -> Iterator[MariadbServer]:
    """A server with TLS, of which these tests change the settings."""
    folder = Path(tempfile.mkdtemp(prefix="pam-targets-"))
    folder.chmod(0o755)
    certificate, key = make_certificate(folder)
    key.chmod(0o644)  # of the test alone; the server's own user reads it
    made = mariadb.start(folder, settings=[f"--ssl-ca={certificate}", f"--ssl-cert={certificate}", f"--ssl-key={key}"])
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bench(server) -> Iterator[MariadbBench]:
    made = MariadbBench(server)
    yield made
    made.connector.close_idle()


def unique(prefix: str = "u") -> str:
    return f"{prefix}{secrets.token_hex(4)}"


def account_of(login: str) -> Account:
    return Account(login=login, record_uid="x")


def logs_in(bench: MariadbBench, login: str, password: SecretValue, **options: str) -> tuple[VerdictState, str]:
    target = replace(bench.target, options=options)
    with bench.connector.open(target, None, Deadline(20)) as session:
        verdict = session.probe(account_of(login), Credential(login=login, password=password))
    return verdict.state, verdict.cause


def rotate(bench: MariadbBench, login: str, current: Credential | None = None, **options: str) -> SecretValue:
    candidate = Candidate(password=new_password())
    rotator = current or bench.admin
    with bench.connector.open(replace(bench.target, options=options), rotator, Deadline(20)) as session:
        session.preflight(account_of(login))
        assert session.change(account_of(login), candidate, lambda: None) is Effect.APPLIED
        assert session.probe(account_of(login), candidate.credential(account_of(login))).state is VerdictState.ACCEPTED
    assert candidate.password
    return candidate.password


def stored(bench: MariadbBench, user: str) -> dict[str, str]:
    return dict(bench.execute("SELECT Host, Priv FROM mysql.global_priv WHERE User = %s", user))


def test_a_login_without_a_host_is_all_accounts_of_the_user(bench):
    user = unique()
    for host in ("%", "127.0.0.1", "10.0.0.%"):
        bench.make_account(f"{user}@{host}", Credential(login=user, password=new_password()))
    with bench.open(bench.admin) as session:
        assert all(f"{user}@{host}" in session.preflight(account_of(user)).server for host in ("%", "10.0.0.%"))
    rotate(bench, user)
    hashes = {priv.split('"authentication_string":"')[1][:41] for priv in stored(bench, user).values()}
    assert len(hashes) == 1


def test_a_login_with_a_host_is_that_account_alone(bench):
    user = unique()
    for host in ("127.0.0.%", "10.0.0.%"):
        bench.make_account(f"{user}@{host}", Credential(login=user, password=new_password()))
    before = stored(bench, user)
    rotate(bench, f"{user}@127.0.0.%")
    after = stored(bench, user)
    assert after["10.0.0.%"] == before["10.0.0.%"]
    assert after["127.0.0.%"] != before["127.0.0.%"]


def test_a_host_that_the_user_does_not_have_is_refused_with_those_it_has(bench):
    user = unique()
    bench.make_account(f"{user}@%", Credential(login=user, password=new_password()))
    with bench.open(bench.admin) as session, pytest.raises(Unsupported) as caught:
        session.preflight(account_of(f"{user}@10.9.9.9"))
    assert f"{user}@%" in caught.value.sentence()


@pytest.mark.parametrize("login", ["", "@%", "joe@", "nul\0", "x" * 129])
def test_what_is_no_login_is_refused(bench, login):
    with bench.open(bench.admin) as session:
        with pytest.raises(Unsupported):
            session.preflight(account_of(login))
        with pytest.raises(Unsupported):
            session.change(account_of(login), Candidate(password=new_password()), lambda: None)


def test_an_account_that_no_login_from_here_reaches_is_refused_beforehand(bench):
    user = unique()
    bench.make_account(f"{user}@10.0.0.%", Credential(login=user, password=new_password()))
    with bench.open(bench.admin) as session, pytest.raises(Unsupported, match="no host"):
        session.preflight(account_of(user))


@pytest.mark.parametrize("other", ["same user", "anonymous"])
def test_an_account_behind_another_one_is_refused_beforehand_and_never_proven_by_it(bench, other):
    user = unique()
    password = new_password()
    in_front = user if other == "same user" else ""
    bench.make_account(f"{user}@%", Credential(login=user, password=new_password()))
    bench.execute("CREATE USER %s@'127.0.0.1' IDENTIFIED BY %s", in_front, password.reveal())
    try:
        with bench.open(bench.admin) as session, pytest.raises(Unsupported, match="reaches the account"):
            session.preflight(account_of(f"{user}@%"))
        assert logs_in(bench, f"{user}@%", password) == (VerdictState.UNKNOWN, "other_account")
    finally:
        bench.execute("DROP USER %s@'127.0.0.1'", in_front)


def test_rights_on_users_alone_are_enough(bench):
    admin, current = bench.new_account()
    bench.execute("GRANT CREATE USER ON *.* TO %s@'%%'", admin.login)
    account, _ = bench.new_account()
    with bench.connector.open(bench.target, current, Deadline(20)) as session, pytest.raises(Forbidden, match="mysql"):
        session.preflight(account)
    bench.execute("GRANT SELECT ON mysql.* TO %s@'%%'", admin.login)
    bench.connector.close_idle()
    rotate(bench, account.login, current)


def test_session_that_rotates_the_admin_itself_stays_open_and_is_not_kept(bench):
    admin, current = bench.new_account()
    bench.execute("GRANT ALL ON *.* TO %s@'%%'", admin.login)
    other, _ = bench.new_account()
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        assert session.preflight(admin).is_self
        session.change(admin, Candidate(password=new_password()), lambda: None)
        assert session.change(other, Candidate(password=new_password()), lambda: None) is Effect.APPLIED
    assert len(bench.connector.kept) == 0


def test_kept_connection_that_the_server_ended_is_replaced(bench):
    account, current = bench.new_account()
    with bench.open(current) as session:
        session.preflight(account)
    for (number,) in bench.execute("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()"):
        bench.execute(f"KILL {number}")
    time.sleep(0.1)
    with bench.open(current) as session:
        assert session.preflight(account).may_change


def test_locked_account_is_locked_and_not_refused(bench):
    account, current = bench.new_account()
    bench.execute("ALTER USER %s@'%%' ACCOUNT LOCK", account.login)
    with bench.open(current) as session:
        assert session.metadata(account).locked is True
        verdict = session.probe(account, current)
    assert (verdict.state, verdict.cause) == (VerdictState.LOCKED, "account_locked")


def test_expired_password_is_accepted_as_expired_and_renewed_by_a_rotation(bench):
    account, current = bench.new_account()
    bench.execute("ALTER USER %s@'%%' PASSWORD EXPIRE", account.login)
    assert logs_in(bench, account.login, current.password) == (VerdictState.ACCEPTED, "expired")
    assert logs_in(bench, account.login, SecretValue("wrong")) == (VerdictState.REFUSED, "wrong_password")
    with bench.connector.open(bench.target, current, Deadline(20)) as session, pytest.raises(Locked):
        session.preflight(account)
    new = rotate(bench, account.login)
    assert logs_in(bench, account.login, new) == (VerdictState.ACCEPTED, "")


def test_metadata_tells_when_it_was_set_and_when_it_expires(bench):
    account, current = bench.new_account()
    bench.execute("ALTER USER %s@'%%' PASSWORD EXPIRE INTERVAL 30 DAY", account.login)
    with bench.open(current) as session:
        told = session.metadata(account)
    assert abs(told.last_set.timestamp() - time.time()) < 60
    assert (told.expires - told.last_set).days == 30


def test_too_many_wrong_passwords_lock(bench):
    account, current = bench.new_account()
    bench.execute("SET GLOBAL max_password_errors = 2")
    try:
        for _ in range(2):
            assert logs_in(bench, account.login, SecretValue("wrong"))[0] is VerdictState.REFUSED
        assert logs_in(bench, account.login, current.password) == (VerdictState.LOCKED, "too_many_failures")
    finally:
        bench.execute("SET GLOBAL max_password_errors = 4294967295")


def test_a_limit_of_connections_is_unknown(bench):
    account, current = bench.new_account()
    bench.execute("ALTER USER %s@'%%' WITH MAX_CONNECTIONS_PER_HOUR 1", account.login)
    states = [logs_in(bench, account.login, current.password) for _ in range(2)]
    assert states[-1] == (VerdictState.UNKNOWN, "too_many_connections")


@pytest.fixture
def ed25519(bench) -> Iterator[None]:
    bench.execute("INSTALL SONAME 'auth_ed25519'")
    yield
    bench.execute("UNINSTALL SONAME 'auth_ed25519'")


def test_an_account_keeps_its_plugins(bench, ed25519):
    modern, mixed = unique(), unique()
    bench.execute("CREATE USER %s@'%%' IDENTIFIED VIA ed25519 USING PASSWORD('First-1')", modern)
    bench.execute("CREATE USER %s@'%%' IDENTIFIED VIA unix_socket OR mysql_native_password USING ''", mixed)
    for login, plugin in ((modern, '"ed25519"'), (mixed, '"unix_socket"')):
        rotate(bench, login)
        assert plugin in stored(bench, login)["%"]
    with bench.open(bench.admin) as session:
        found = {each.name: each.facts for each in session.discover() if isinstance(each, Finding)}
    assert found[modern]["plugin"] == "ed25519"
    itself = Credential(login=modern, password=rotate(bench, modern))
    rotate(bench, modern, itself)
    assert '"ed25519"' in stored(bench, modern)["%"]
    bench.execute("DROP USER %s@'%%'", modern)


def test_an_account_whose_password_is_kept_elsewhere_is_refused(bench):
    user = unique()
    bench.execute("CREATE USER %s@'%%' IDENTIFIED VIA unix_socket", user)
    with bench.open(bench.admin) as session:
        with pytest.raises(Unsupported, match="unix_socket"):
            session.preflight(account_of(user))
        with pytest.raises(Unsupported):
            session.change(account_of(user), Candidate(password=new_password()), lambda: None)
    assert logs_in(bench, user, new_password())[0] is VerdictState.UNKNOWN


def test_of_all_hosts_those_with_a_password_are_changed(bench):
    user = unique()
    bench.make_account(f"{user}@%", Credential(login=user, password=new_password()))
    bench.execute("CREATE USER %s@'localhost' IDENTIFIED VIA unix_socket", user)
    before = stored(bench, user)
    rotate(bench, user)
    assert stored(bench, user)["localhost"] == before["localhost"]


def test_rules_of_the_server_are_not_passed_by_and_its_log_stays_clean(bench):
    account, current = bench.new_account()
    bench.execute("INSTALL SONAME 'simple_password_check'")
    try:
        with bench.open(current) as session:
            assert session.preflight(account).min_length == 8
            with pytest.raises(PolicyRefused):
                session.change(account, Candidate(password=SecretValue("short")), lambda: None)
        new = rotate(bench, account.login)
    finally:
        bench.execute("UNINSTALL SONAME 'simple_password_check'")
    assert new.reveal() not in bench.log_text()


@pytest.mark.parametrize("login", ["Mixed Case", 'quote"d', "semi;colon", "ünïcode", "-dash", "back\\slash", "sel'ect",
                                   "per%cent %s", "under_score", "back`tick", "at@sign", "' OR 1=1 -- "])  # fmt: skip
def test_hostile_logins_are_rotated(bench, login):
    login = f"{login}{secrets.token_hex(2)}" + ("@%" if "@" in login else "")
    bench.make_account(login if "@" in login else f"{login}@%", Credential(login=login, password=new_password()))
    rotate(bench, login)


def test_a_name_that_differs_by_a_space_at_its_end_is_another_account(bench):
    account, _ = bench.new_account()
    before = bench.fingerprint(account)
    with bench.open(bench.admin) as session, pytest.raises(Unsupported):
        session.preflight(account_of(account.login + " "))
    assert bench.fingerprint(account) == before


def test_roles_are_no_accounts(bench):
    role = unique("role")
    bench.execute(f"CREATE ROLE {role}")
    with bench.open(bench.admin) as session:
        assert role not in {each.name for each in session.discover() if isinstance(each, Finding)}
        with pytest.raises(Unsupported):
            session.preflight(account_of(role))


def test_discovery_says_what_it_may_not_see(bench):
    _, current = bench.new_account()
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        unseen = [each for each in session.discover() if isinstance(each, Unseen)]
    assert [each.cause for each in unseen] == ["not_permitted"]


def test_change_waits_for_another_one_of_the_same_user_only_so_long(bench):
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
        with bench.open(current, seconds=1.5) as session, pytest.raises(NotApplied, match="under way"):
            session.change(account, Candidate(password=new_password()), lambda: None)
    finally:
        leave.set()
        thread.join()


def test_lock_of_a_gateway_that_died_does_not_last(bench, monkeypatch):
    """Its line hangs: the server never hears that the connection is gone."""
    monkeypatch.setattr("connectors.mysql.session._IDLE_SECONDS", 1)
    account, current = bench.new_account()
    candidate = bench.candidate(account)
    with FaultProxy(bench.target.host, bench.target.port) as proxy:

        def die() -> None:
            proxy.arm(Fault(action=Action.HANG, when=When.REQUEST_SENT, times=None))
            raise LeaseLost("somebody else has it")

        with bench.open(current, seconds=20, target=bench.at(proxy.port)) as session, pytest.raises(LeaseLost):
            session.change(account, candidate, die)
        began = time.monotonic()
        with bench.open(current, seconds=20) as session:
            assert session.change(account, candidate, lambda: None) is Effect.APPLIED
        assert time.monotonic() - began < 10


def test_session_that_changed_is_not_ended_by_the_locks_limit(bench, monkeypatch):
    """An administrator that changed itself keeps it until the new password is durable, however long that takes."""
    monkeypatch.setattr("connectors.mysql.session._IDLE_SECONDS", 1)
    account, current = bench.new_account()
    with bench.open(current, seconds=20) as session:
        session.change(account, bench.candidate(account), lambda: None)
        time.sleep(2.5)
        assert session.change(account, bench.candidate(account), lambda: None) is Effect.APPLIED


def test_a_backup_that_holds_the_grant_tables_ends_the_change_in_time_and_for_good(bench):
    account, current = bench.new_account()
    place = {"host": bench.server.host, "port": bench.server.port}
    holder = pymysql.connect(**place, user=bench.server.admin_login, password=bench.server.admin_password)
    candidate = Candidate(password=new_password())
    try:
        with holder.cursor() as cursor:
            cursor.execute("FLUSH TABLES WITH READ LOCK")
        with bench.open(current, seconds=3) as session, pytest.raises(EffectUnknown):
            session.change(account, candidate, lambda: None)
    finally:
        holder.close()
    assert logs_in(bench, account.login, candidate.password)[0] is VerdictState.REFUSED
    assert logs_in(bench, account.login, current.password)[0] is VerdictState.ACCEPTED


def test_a_replica_is_refused(bench):
    account, current = bench.new_account()
    bench.execute("SET GLOBAL read_only = ON")
    try:
        with bench.open(current) as session, pytest.raises(Unsupported, match="read-only"):
            session.preflight(account)
    finally:
        bench.execute("SET GLOBAL read_only = OFF")


# TLS


def test_tls_is_used_wherever_the_server_speaks_it(bench, server):
    account, _ = bench.new_account()
    bench.execute("ALTER USER %s@'%%' REQUIRE SSL", account.login)
    rotate(bench, account.login)
    assert bench.connector.recognise(server.host, server.port, Deadline(5)).facts["tls"] == "yes"


def test_account_that_demands_tls_is_not_refused_without_it(bench, server):
    account, current = bench.new_account()
    bench.execute("ALTER USER %s@'%%' REQUIRE SSL", account.login)
    assert logs_in(bench, account.login, current.password, sslmode="disable")[0] is VerdictState.UNKNOWN
    plain = replace(bench.target, options={"sslmode": "disable"})
    with bench.connector.open(plain, bench.admin, Deadline(20)) as session, pytest.raises(Unsupported, match="demands"):
        session.preflight(account)
    bench.execute("ALTER USER %s@'%%' REQUIRE X509", account.login)
    with bench.open(current) as session:
        with pytest.raises(Unsupported, match="client certificate"):
            session.preflight(account)
        assert session.probe(account, current).state is VerdictState.UNKNOWN
    rotate(bench, account.login, ssl_cert=str(server.folder / "crt"), ssl_key=str(server.folder / "key"))


def test_demanded_tls_is_verified(bench, server):
    account, current = bench.new_account()
    unverified = Target(host="localhost", port=server.port, protocol="mariadb", use_ssl=True)
    right = replace(unverified, options={"ssl_ca": str(server.folder / "crt")})
    with bench.connector.open(right, bench.admin, Deadline(20)) as session:
        assert session.probe(account, current).state is VerdictState.ACCEPTED
    with pytest.raises(Unreachable):
        bench.connector.open(unverified, bench.admin, Deadline(20))
    with bench.connector.open(unverified, None, Deadline(20)) as session:
        assert session.probe(account, current).state is VerdictState.UNKNOWN
    for wrong in ({"ssl_ca": "/nonexistent"}, {"sslmode": "prefer"}):
        with pytest.raises(Unsupported):
            bench.connector.open(replace(unverified, options=wrong), bench.admin, Deadline(20))


def test_demanded_tls_that_the_server_lacks_is_unreachable(target_mariadb):
    plain = MariadbBench(target_mariadb)
    target = replace(plain.target, use_ssl=True)
    with pytest.raises(Unreachable):
        plain.connector.open(target, plain.admin, Deadline(20))

"""What is Redis' own: users that are off or take any password, restarts, replicas, clusters, TLS, older servers."""

from __future__ import annotations

import dataclasses
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Credential, Deadline, Finding, Target, Unseen, VerdictState
from connectors.redis.errors import FAILURES, Garbled, ServerRefusal, map_error, verdict_of
from connectors.redis.link import Link
from connectors.redis.nodes import places_of
from connectors.redis.wire import read_reply
from deploy.lab import redis as lab
from deploy.lab.processes import free_port, port_is_open
from deploy.lab.redis import RedisServer
from pam_jobs.errors import (
    Effect,
    EffectUnknown,
    Forbidden,
    NotApplied,
    PolicyRefused,
    TimedOutAfterSend,
    Unreachable,
    Unsupported,
)
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.redis import RedisBench
from tests.support.lab import target_folder
from tests.support.tls_front import make_certificate

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with target_folder() as path:
        yield path


@pytest.fixture
def bench(target_redis: RedisServer) -> Iterator[RedisBench]:
    made = RedisBench(target_redis)
    yield made
    made.connector.close_idle()


def account_of(login: str) -> Account:
    return Account(login=login, record_uid="x")


def logs_in(bench: RedisBench, credential: Credential) -> tuple[VerdictState, str]:
    with bench.look() as session:
        verdict = session.probe(account_of(credential.login), credential)
    return verdict.state, verdict.cause


def rotate(bench: RedisBench, login: str, password: SecretValue | None = None, **options: str) -> Credential:
    candidate = Candidate(password=password or new_password())
    target = dataclasses.replace(bench.target, options=options)
    with bench.connector.open(target, bench.admin, Deadline(20)) as session:
        session.preflight(account_of(login))
        assert session.change(account_of(login), candidate, lambda: None) is Effect.APPLIED
        new = candidate.credential(account_of(login))
        assert session.probe(account_of(login), new).state is VerdictState.ACCEPTED
    return new


def test_a_user_that_is_off_is_locked_where_an_administrator_can_tell(bench):
    account, current = bench.new_account()
    bench.execute("ACL", "SETUSER", account.login, "off")
    assert logs_in(bench, current)[0] is VerdictState.REFUSED  # the server says no more than that
    with bench.open(current) as session:
        verdict = session.probe(account, current)
        assert (verdict.state, verdict.cause) == (VerdictState.LOCKED, "disabled")
        assert session.metadata(account).disabled is True
        found = {each.name: each.facts for each in session.discover() if isinstance(each, Finding)}
    assert found[account.login]["disabled"] is True


def test_a_user_that_takes_any_password_proves_nothing_until_it_is_rotated(bench):
    account, current = bench.new_account()
    bench.execute("ACL", "SETUSER", account.login, "nopass")
    with bench.open(current) as session:
        assert session.probe(account, current).cause == "any_password"
    new = rotate(bench, account.login)
    assert logs_in(bench, current) == (VerdictState.REFUSED, "wrong_password")
    assert logs_in(bench, new)[0] is VerdictState.ACCEPTED


def test_rights_and_other_rules_of_the_user_stay(bench):
    account, _ = bench.new_account()
    bench.execute("ACL", "SETUSER", account.login, "resetkeys", "~app:*", "&news", "+set", ">second password")
    before = bench.fingerprint(account)
    rotate(bench, account.login)
    after = bench.fingerprint(account)
    assert [word for word in after.split() if word[0] != "#"] == [word for word in before.split() if word[0] != "#"]
    assert after.count("#") == 1


def test_the_rights_of_the_page_are_enough_and_an_admin_may_rotate_itself(bench):
    admin, current = bench.new_account()
    rights = "+auth +info +config|get +config|rewrite +acl|whoami +acl|list +acl|getuser +acl|setuser +acl|save"
    bench.execute("ACL", "SETUSER", admin.login, "-@all", *rights.split())
    account, _ = bench.new_account()
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        assert session.preflight(admin).is_self
        session.change(admin, Candidate(password=new_password()), lambda: None)
        session.preflight(account)
        assert session.change(account, Candidate(password=new_password()), lambda: None) is Effect.APPLIED
    assert len(bench.connector.kept) == 0
    for missing in ("acl|setuser", "acl|getuser", "config|get"):
        bench.execute("ACL", "SETUSER", admin.login, *rights.split(), f"-{missing}", ">again")
        again = Credential(login=admin.login, password=SecretValue("again"))
        with bench.connector.open(bench.target, again, Deadline(20)) as session, pytest.raises(Forbidden):
            session.preflight(account)
        bench.connector.close_idle()


@pytest.mark.parametrize("login", ["", "two words", "tab\tbed", "nul\0", "new\nline"])
def test_what_is_no_login_is_refused(bench, login):
    with bench.open(bench.admin) as session:
        with pytest.raises(Unsupported):
            session.preflight(account_of(login))
        with pytest.raises(Unsupported):
            session.change(account_of(login), Candidate(password=new_password()), lambda: None)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


@given(login=text.map(lambda word: "".join(word.split()) or "x"), password=text)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_logins_and_passwords_are_set_exactly(bench, login, password):
    login = f"-{login}{secrets.token_hex(2)}"
    bench.execute("ACL", "SETUSER", login, "on", ">first", "resetkeys")
    new = rotate(bench, login, SecretValue(password))
    assert logs_in(bench, Credential(login=login, password=SecretValue("first")))[0] is VerdictState.REFUSED
    with redis.Redis(host=bench.server.host, port=bench.server.port, username=login, password=password) as client:
        assert client.execute_command("AUTH", login, new.password.reveal())


def test_a_password_that_is_no_text_or_too_long_is_refused_beforehand(bench):
    account, current = bench.new_account()
    for wrong in ("\ud800", "x" * 16385):
        with bench.open(current) as session, pytest.raises(PolicyRefused):
            session.change(account, Candidate(password=SecretValue(wrong)), pytest.fail)


@pytest.mark.parametrize("program", lab.programs(), ids=lambda path: Path(path).name)
@pytest.mark.parametrize("users", ["file", "configuration", "common"])
def test_the_new_password_outlives_a_restart(folder, program, users):
    server = lab.start(folder, name="restarted", program=program, users=users)
    bench = RedisBench(server)
    login = server.admin_login
    if users != "common":
        login = bench.new_account()[0].login
    new = rotate(bench, login, SecretValue('with "quotes" \\ and spaces'))
    server = server.restart()
    try:
        assert logs_in(bench, new)[0] is VerdictState.ACCEPTED, logs_in(bench, new)
        assert logs_in(bench, dataclasses.replace(new, password=bench.admin.password))[0] is VerdictState.REFUSED
        if users == "common":
            with bench.connector.open(bench.target, new, Deadline(5)) as session:
                assert [each.name for each in session.discover()] == ["default"]
                assert session.preflight(account_of("default")).max_length == 512
                with pytest.raises(Unsupported, match="one password"):
                    session.preflight(account_of("somebody"))
    finally:
        bench.connector.close_idle()
        server.stop()


def test_a_server_that_cannot_write_its_users_down_keeps_the_old_password(folder):
    server = lab.start(folder, name="readonly")
    bench = RedisBench(server)
    account, current = bench.new_account()
    before = bench.fingerprint(account)
    moved = server.base.rename(server.base.with_name("elsewhere"))
    try:
        with bench.open(current) as session:
            session.preflight(account)
            with pytest.raises(NotApplied, match="restart"):
                session.change(account, Candidate(password=new_password()), lambda: None)
        assert bench.fingerprint(account) == before
        assert logs_in(bench, current)[0] is VerdictState.ACCEPTED
    finally:
        moved.rename(server.base)
        bench.connector.close_idle()
        server.stop()


def test_a_server_without_any_file_is_refused_unless_the_record_allows_it(target_redis):
    port = free_port()
    lines = f'bind 127.0.0.1\nport {port}\nsave ""\nuser labadmin on >{target_redis.admin_password} ~* &* +@all\n'
    running = subprocess.Popen([target_redis.program, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    running.stdin.write(lines.encode())
    running.stdin.close()
    bench = RedisBench(dataclasses.replace(target_redis, port=port))
    try:
        while not port_is_open("127.0.0.1", port):
            time.sleep(0.02)
        account, current = bench.new_account()
        with bench.open(current) as session, pytest.raises(Unsupported, match="restart"):
            session.preflight(account)
        rotate(bench, account.login, persistence="memory")
    finally:
        bench.connector.close_idle()
        running.kill()
        running.wait(5)


@pytest.fixture(scope="module")
def pair(folder) -> Iterator[tuple[RedisBench, RedisBench]]:
    """A primary and its replica, which replicates as the admin."""
    first = lab.start(folder, name="primary")
    auth = [f"replicaof {first.host} {first.port}", "masteruser labadmin", f"masterauth {first.admin_password}"]
    second = lab.start(folder, name="replica", settings=auth, password=first.admin_password)
    benches = RedisBench(first), RedisBench(second)
    with benches[0].connect() as client:
        for _ in range(400):
            if client.info("replication")["connected_slaves"] == 1:
                break
            client.execute_command("PING")
            time.sleep(0.02)
        else:
            pytest.fail("the replica never came")
    yield benches
    for bench, server in zip(benches, (first, second), strict=True):
        bench.connector.close_idle()
        server.stop()


def test_replicas_get_the_password_too(pair):
    primary, replica = pair
    account, current = primary.new_account()
    with primary.open(current) as session, pytest.raises(Unsupported, match="no user"):
        session.preflight(account)  # users are not replicated: it is on the primary alone
    replica.make_account(account.login, current)
    new = rotate(primary, account.login)
    for bench in pair:
        assert logs_in(bench, new)[0] is VerdictState.ACCEPTED, logs_in(bench, new)
        assert logs_in(bench, current)[0] is VerdictState.REFUSED
        assert bench.fingerprint(account).count("#") == 1
    replica.execute("ACL", "SETUSER", account.login, "resetpass", ">by hand")
    with primary.open(current) as session:
        verdict = session.probe(account, new)
    assert verdict.state is VerdictState.REFUSED
    assert str(replica.server.port) in verdict.detail


def test_a_replica_that_cannot_keep_it_leaves_both_servers_as_they_were(pair):
    primary, replica = pair
    account, current = primary.new_account()
    replica.make_account(account.login, current)
    before = [bench.fingerprint(account) for bench in pair]
    moved = replica.server.base.rename(replica.server.base.with_name("gone"))
    try:
        with primary.open(current) as session, pytest.raises(NotApplied, match=str(replica.server.port)):
            session.change(account, Candidate(password=new_password()), lambda: None)
    finally:
        moved.rename(replica.server.base)
    assert [bench.fingerprint(account) for bench in pair] == before


def test_the_account_of_replication_is_refused_and_so_is_a_replica_as_the_resource(pair):
    primary, replica = pair
    with primary.open(primary.admin) as session, pytest.raises(Unsupported, match="replicates as"):
        session.preflight(account_of("labadmin"))
    with replica.open(replica.admin) as session, pytest.raises(Unsupported, match="replica"):
        session.preflight(account_of("anybody"))


def test_the_record_may_name_the_servers(pair):
    primary, _ = pair
    account, current = primary.new_account()
    rotate(primary, account.login, nodes="this")
    assert logs_in(primary, current)[0] is VerdictState.REFUSED
    target = dataclasses.replace(primary.target, options={"nodes": "127.0.0.1:1"})
    with (
        primary.connector.open(target, primary.admin, Deadline(5)) as session,
        pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"),
    ):
        session.preflight(account)
    with pytest.raises(Unsupported, match="no server"):
        places_of(dataclasses.replace(primary.target, options={"nodes": "nowhere"}))


def test_every_node_of_a_cluster_gets_the_password(folder):
    buses = [free_port(), free_port()]  # by default 10000 above the port, which may be too high
    on = [["cluster-enabled yes", "cluster-node-timeout 2000", f"cluster-port {bus}"] for bus in buses]
    first = lab.start(folder, name="node1", settings=on[0], users="configuration")
    servers = [
        first, lab.start(folder, name="node2", settings=on[1], users="configuration", password=first.admin_password)
    ]  # fmt: skip
    benches = [RedisBench(server) for server in servers]
    try:
        benches[0].execute("CLUSTER", "MEET", "127.0.0.1", str(servers[1].port), str(buses[1]))
        for _ in range(300):
            if len(benches[0].execute("CLUSTER", "NODES")) > 1:
                break
            time.sleep(0.02)
        account, current = benches[0].new_account()
        benches[1].make_account(account.login, current)
        new = rotate(benches[0], account.login)
        assert [logs_in(bench, new)[0] for bench in benches] == [VerdictState.ACCEPTED] * 2
        assert [logs_in(bench, current)[0] for bench in benches] == [VerdictState.REFUSED] * 2
    finally:
        for bench, server in zip(benches, servers, strict=True):
            bench.connector.close_idle()
            server.stop()


def test_tls_is_found_and_checked_where_the_record_demands_it(folder):
    certificate, key = make_certificate(folder)
    program = next(path for path in lab.programs() if Path(path).name == "redis-server")
    port = free_port()
    files = [f"tls-cert-file {certificate}", f"tls-key-file {key}", f"tls-ca-cert-file {certificate}"]
    server = lab.start(
        folder, name="tls", program=program, settings=[f"tls-port {port}", "tls-auth-clients no", *files]
    )
    bench = RedisBench(server)
    plain = bench.target
    bench.target = Target(host="127.0.0.1", port=port, protocol="redis")
    try:
        assert port_is_open("127.0.0.1", port)
        assert bench.connector.recognise("127.0.0.1", port, Deadline(5)).facts == {"tls": "yes"}
        account, _ = bench.new_account()
        rotate(bench, account.login)
        demanding = dataclasses.replace(bench.target, use_ssl=True)
        with pytest.raises(Unreachable, match="certificate"):
            bench.connector.open(demanding, bench.admin, Deadline(5))
        trusting = dataclasses.replace(demanding, options={"ssl_ca": str(certificate)})
        bench.connector.open(trusting, bench.admin, Deadline(5)).close()
        with pytest.raises(Unreachable):
            bench.connector.open(dataclasses.replace(trusting, port=plain.port), bench.admin, Deadline(1))
        for options in ({"sslmode": "sometimes"}, {"ssl_ca": "/nowhere"}, {"sslmode": "disable"}):
            with pytest.raises(Unsupported):
                bench.connector.open(dataclasses.replace(demanding, options=options), bench.admin, Deadline(5))
    finally:
        bench.connector.close_idle()
        server.stop()


def test_protected_mode_is_recognised_and_says_nothing_of_a_password():
    refusal = ServerRefusal.of("DENIED Redis is running in protected mode because protected mode is enabled")
    assert verdict_of(refusal).cause == "not_allowed_from_here"


@pytest.mark.parametrize(
    ("line", "kind", "state", "cause"),
    [
        ("WRONGPASS invalid username-password pair or user is disabled.", "auth_rejected", VerdictState.REFUSED, "wrong_password"),
        ("ERR invalid password", "auth_rejected", VerdictState.REFUSED, "wrong_password"),
        ("NOPERM this user has no permissions", "forbidden", VerdictState.UNKNOWN, "refused_login"),
        ("LOADING Redis is loading the dataset in memory", "unreachable", VerdictState.UNKNOWN, "starting_up"),
        ("ERR max number of clients reached", "unreachable", VerdictState.UNKNOWN, "too_many_connections"),
        ("ERR unknown command 'ACL', with args beginning with: 'x'", "unsupported", VerdictState.UNKNOWN, "refused_login"),
        ("ERR AUTH <password> called without any password configured", "auth_rejected", VerdictState.UNKNOWN, "any_password"),
        ("READONLY You can't write against a read only replica.", "unsupported", VerdictState.UNKNOWN, "refused_login"),
        ("SOMETHING new", "not_applied", VerdictState.UNKNOWN, "refused_login"),
    ],
)  # fmt: skip
def test_an_error_of_the_server_means_nothing_was_changed(line, kind, state, cause):
    refusal = ServerRefusal.of(line)
    assert map_error(refusal, sent=True).code == kind
    assert (verdict_of(refusal).state, verdict_of(refusal).cause) == (state, cause)


def test_an_error_never_repeats_what_was_sent():
    for line in (
        "ERR Error in ACL SETUSER modifier '#secret': x",
        "ERR unknown command 'A', with args beginning with: 's'",
    ):
        assert "secret" not in str(ServerRefusal.of(line))
        assert "'" not in str(ServerRefusal.of(line))


@pytest.mark.parametrize("kind", FAILURES)
def test_only_a_refusal_proves_anything_once_the_change_was_sent(kind):
    error = ServerRefusal(code="ERR") if kind is ServerRefusal else kind.__new__(kind)
    expected = TimedOutAfterSend if kind is TimeoutError else NotApplied if kind is ServerRefusal else EffectUnknown
    assert isinstance(map_error(error, sent=True), expected)
    assert isinstance(map_error(error, sent=False), NotApplied)
    assert verdict_of(error).state is VerdictState.UNKNOWN


@pytest.mark.parametrize(
    "answer", [b"$-7\r\n", b"$5\r\nabcdefg", b"*99999999\r\n", b"HTTP/1.1 400\r\n", b"*1\r\n" * 9, b":x\r\n"]
)
def test_what_is_no_answer_of_redis_is_garbled(answer):
    left = bytearray(answer)

    def exactly(count: int) -> bytes:
        taken = bytes(left[:count])
        del left[:count]
        return taken.ljust(count, b"x")

    def line(_: int) -> bytes:
        end = left.find(b"\r\n")
        taken = bytes(left[: end if end >= 0 else len(left)])
        del left[: len(taken) + 2]
        return taken

    with pytest.raises(Garbled):
        read_reply(line, exactly)


def test_a_link_whose_answer_is_missing_is_not_used_again(bench):
    link = Link.connect(bench.target.host, bench.target.port, None, Deadline(5))
    link.close()
    assert not link.is_idle()
    with pytest.raises(ConnectionResetError):
        link.ask("PING")


def test_discovery_says_what_it_may_not_see(bench):
    _, current = bench.new_account()
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        assert [each.cause for each in session.discover() if isinstance(each, Unseen)] == ["not_permitted"]

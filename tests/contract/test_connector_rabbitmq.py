"""What is RabbitMQ's own: tags and algorithms that stay, logins over AMQP and over the API, TLS."""

from __future__ import annotations

import http.client
import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import amqp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Credential, Deadline, Finding, Unseen, VerdictState
from connectors.faults import Action, Fault, FaultProxy, When
from connectors.rabbitmq.amqp import log_in
from connectors.rabbitmq.api import HASHES
from connectors.rabbitmq.errors import FAILURES, AmqpRefusal, ApiRefusal, Garbled, map_error, verdict_of
from deploy.lab.rabbitmq import RabbitmqServer
from pam_jobs.errors import (
    AmbiguousReply,
    AuthRejected,
    Effect,
    EffectUnknown,
    Forbidden,
    NotApplied,
    PolicyRefused,
    Unreachable,
    Unsupported,
)
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.rabbitmq import RabbitmqBench

pytestmark = [pytest.mark.contract, pytest.mark.timeout(180)]


@pytest.fixture
def bench(target_rabbitmq: RabbitmqServer) -> Iterator[RabbitmqBench]:
    made = RabbitmqBench(target_rabbitmq)
    yield made
    made.connector.close_idle()


def account_of(login: str) -> Account:
    return Account(login=login, record_uid="x")


def logs_in(bench: RabbitmqBench, credential: Credential, **options: str) -> tuple[VerdictState, str]:
    target = replace(bench.target, options={**bench.target.options, **options})
    with bench.connector.open(target, None, Deadline(20)) as session:
        verdict = session.probe(account_of(credential.login), credential)
    return verdict.state, verdict.cause


def rotate(bench: RabbitmqBench, login: str, password: SecretValue | None = None) -> Credential:
    candidate = Candidate(password=password or new_password())
    with bench.open(bench.admin) as session:
        session.preflight(account_of(login))
        assert session.change(account_of(login), candidate, lambda: None) is Effect.APPLIED
    return candidate.credential(account_of(login))


@pytest.mark.parametrize("algorithm", HASHES)
def test_tags_and_algorithm_of_the_user_stay(bench, algorithm):
    login = f"u{secrets.token_hex(4)}"
    stored = {"password_hash": "AAAAAAAA", "hashing_algorithm": algorithm, "tags": "policymaker,my own"}
    bench.ask("PUT", "users", login, content=stored)
    before = bench.ask("GET", "users", login)
    new = rotate(bench, login)
    after = bench.ask("GET", "users", login)
    assert after.pop("password_hash") != before.pop("password_hash")
    assert after == before
    assert logs_in(bench, new)[0] is VerdictState.ACCEPTED


def test_a_users_permissions_are_not_asked_for(bench):
    """A user without tag and without any virtual host logs in all the same; both ways prove it."""
    login = f"u{secrets.token_hex(4)}"
    bench.set_by_hand(login, "First-1", tags="")
    new = rotate(bench, login)
    old = replace(new, password=SecretValue("First-1"))
    for options in ({}, {"amqp_port": "1"}, {"virtual_host": "there is none"}):
        assert logs_in(bench, new, **options) == (VerdictState.ACCEPTED, "")
        assert logs_in(bench, old, **options) == (VerdictState.REFUSED, "wrong_password")
    port = bench.server.amqp_port
    with pytest.raises(amqp.NotAllowed):  # an independent client gets as far
        amqp.Connection(f"127.0.0.1:{port}", userid=login, password=new.password.reveal()).connect()
    log = bench.log_text()
    assert "client unexpectedly closed" not in log.replace(" ", " ")
    assert new.password.reveal() not in log


def test_an_admin_may_rotate_itself_and_goes_on(bench):
    login = f"admin{secrets.token_hex(4)}"
    bench.set_by_hand(login, "First-1", tags="administrator")
    current = Credential(login=login, password=SecretValue("First-1"))
    account, _ = bench.new_account()
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        assert session.preflight(account_of(login)).is_self
        session.change(account_of(login), Candidate(password=new_password()), lambda: None)
        assert session.change(account, Candidate(password=new_password()), lambda: None) is Effect.APPLIED
    assert len(bench.connector.kept) == 0


def test_who_is_no_management_user_cannot_be_the_rotator(bench):
    login = f"u{secrets.token_hex(4)}"
    bench.set_by_hand(login, "First-1", tags="")
    with pytest.raises(Forbidden):
        bench.connector.open(bench.target, Credential(login=login, password=SecretValue("First-1")), Deadline(20))


@pytest.mark.parametrize("login", ["", "nul\0"])
def test_what_is_no_login_is_refused(bench, login):
    with bench.open(bench.admin) as session:
        with pytest.raises(Unsupported):
            session.preflight(account_of(login))
        with pytest.raises(Unsupported):
            session.change(account_of(login), Candidate(password=new_password()), lambda: None)
    with pytest.raises(Unsupported):
        bench.connector.open(bench.target, Credential(login="a:b", password=new_password()), Deadline(5))


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)


@given(login=text, password=text)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_logins_and_passwords_are_set_exactly(bench, login, password):
    login = f"-{login}/{secrets.token_hex(2)}"
    bench.set_by_hand(login, "First-1", tags="")
    try:
        new = rotate(bench, login, SecretValue(password))
        assert logs_in(bench, new)[0] is VerdictState.ACCEPTED
        assert logs_in(bench, replace(new, password=SecretValue("First-1")))[0] is VerdictState.REFUSED
    finally:
        bench.ask("DELETE", "users", login)


def test_a_password_that_is_no_text_or_too_long_is_refused_beforehand(bench):
    account, current = bench.new_account()
    for wrong in ("\ud800", "x" * 4097):
        with bench.open(current) as session, pytest.raises(PolicyRefused):
            session.change(account, Candidate(password=SecretValue(wrong)), pytest.fail)


def test_tls_is_checked_where_the_record_demands_it(target_rabbitmq):
    bench = RabbitmqBench(target_rabbitmq, secure=True)
    account, current = bench.new_account()
    new = rotate(bench, account.login)
    assert logs_in(bench, new)[0] is VerdictState.ACCEPTED
    assert logs_in(bench, current)[0] is VerdictState.REFUSED
    with bench.connector.open(
        replace(bench.target, options={"ssl_ca": str(bench.server.ca)}), bench.admin, Deadline(20)
    ) as s:
        assert f"port {bench.server.secure_amqp_port}" in s.preflight(account).server
    for options in ({}, {"ssl_ca": str(bench.server.ca), "amqp_port": "no"}):
        target = replace(bench.target, options=options)
        if not options:
            with pytest.raises(Unreachable, match="certificate"):
                bench.connector.open(target, bench.admin, Deadline(5))
        with bench.connector.open(target, None, Deadline(5)) as session:
            assert session.probe(account, new).state is VerdictState.UNKNOWN
    for port in (bench.server.secure_port, bench.server.secure_amqp_port, bench.server.amqp_port):
        service = bench.connector.recognise("127.0.0.1", port, Deadline(5))
        assert service.protocol == "rabbitmq"
        assert ("AMQP" in service.banner) is (port != bench.server.secure_port)
    bench.connector.close_idle()


def test_passwords_do_not_travel_in_clear_over_a_network(bench, monkeypatch):
    monkeypatch.setattr("connectors.rabbitmq.connector._is_local", lambda _: False)
    account, current = bench.new_account()
    with pytest.raises(Unsupported, match="in clear"):
        bench.open(current)
    assert logs_in(bench, current)[0] is VerdictState.UNKNOWN
    assert logs_in(bench, current, sslmode="disable")[0] is VerdictState.ACCEPTED
    assert account.login


def test_discovery_tells_administrators(bench):
    _, current = bench.new_account()
    with bench.open(current) as session:
        found = {each.name: each.facts for each in session.discover() if isinstance(each, Finding)}
    assert found[bench.server.admin_login]["administrator"] is True
    assert found[current.login] == {"tags": "management", "administrator": False, "disabled": False}
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        assert [each.cause for each in session.discover() if isinstance(each, Unseen)] == ["not_permitted"]


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("action", [Action.CUT, Action.HANG])
def test_a_login_over_amqp_that_is_cut_proves_nothing(bench, when, action):
    _, current = bench.new_account()
    with FaultProxy("127.0.0.1", bench.server.amqp_port) as proxy:
        logs_in(bench, current, amqp_port=str(proxy.port))
        proxy.arm(Fault(action=action, when=when, times=None))
        target = replace(bench.target, options={"amqp_port": str(proxy.port)})
        with bench.connector.open(target, None, Deadline(0.5)) as session:
            verdict = session.probe(account_of(current.login), current)
    assert verdict.state is VerdictState.UNKNOWN


def _answering(*answers: bytes) -> int:
    """Listen, answer each thing that comes with the next of the answers, and return the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            for answer in answers:
                connection.recv(4096)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def _frame(number: int, arguments: bytes = b"") -> bytes:
    payload = b"\x00\x0a" + number.to_bytes(2, "big") + arguments
    return b"\x01\x00\x00" + len(payload).to_bytes(4, "big") + payload + b"\xce"


_START = _frame(10, b"\x00\x09" + b"\x00" * 4 + b"\x00\x00\x00\x05PLAIN" + b"\x00\x00\x00\x05en_US")


@pytest.mark.parametrize(
    ("answers", "state", "cause"),
    [
        ((b"AMQP\x00\x01\x00\x00",), VerdictState.UNKNOWN, "unreachable"),
        ((b"HTTP/1.1 400 Bad",), VerdictState.UNKNOWN, "unreachable"),
        ((_frame(10, b"\x00\x09" + b"\x00" * 4 + b"\x00\x00\x00\x08EXTERNAL"),), VerdictState.UNKNOWN, "refused_login"),
        ((_START, _frame(20, b"\x00\x00\x00\x00")), VerdictState.UNKNOWN, "refused_login"),
        ((_START, _frame(50, b"\x01\x40\x05bye b")), VerdictState.UNKNOWN, "starting_up"),
        ((_START, _frame(50, b"\x01\x93\x05no no")), VerdictState.REFUSED, "wrong_password"),
        ((_START, b""), VerdictState.UNKNOWN, "unreachable"),
        ((_START[:-1] + b"\x00",), VerdictState.UNKNOWN, "unreachable"),
    ],
)
def test_only_403_refuses_a_password_over_amqp(answers, state, cause):
    with pytest.raises(FAILURES) as caught:
        log_in("127.0.0.1", _answering(*answers), None, "u", SecretValue("p"), "/", Deadline(3))
    verdict = verdict_of(caught.value)
    assert (verdict.state, verdict.cause) == (state, cause)


@pytest.mark.parametrize(
    ("status", "reason", "kind", "state"),
    [
        (401, "Login failed", AuthRejected, VerdictState.REFUSED),
        (401, "", AuthRejected, VerdictState.UNKNOWN),
        (401, "Not management user", Forbidden, VerdictState.ACCEPTED),
        (401, "User can only log in via localhost", Forbidden, VerdictState.UNKNOWN),
        (400, "", PolicyRefused, VerdictState.UNKNOWN), (404, "", Unsupported, VerdictState.UNKNOWN),
        (503, "", Unreachable, VerdictState.UNKNOWN), (500, "", AmbiguousReply, VerdictState.UNKNOWN),
        (302, "", AmbiguousReply, VerdictState.UNKNOWN),
    ],
)  # fmt: skip
def test_answers_of_the_api_are_told_apart(status, reason, kind, state):
    refusal = ApiRefusal(status=status, reason=reason)
    assert type(map_error(refusal, sent=True)) is kind
    assert verdict_of(refusal).state is state


@pytest.mark.parametrize("kind", [Garbled, http.client.BadStatusLine, TimeoutError, ConnectionResetError])
def test_silence_after_the_change_was_sent_proves_nothing(kind):
    error = kind.__new__(kind)
    assert isinstance(map_error(error, sent=True), EffectUnknown)
    assert isinstance(map_error(error, sent=False), NotApplied)
    assert verdict_of(error).state is VerdictState.UNKNOWN
    assert isinstance(map_error(AmqpRefusal(code=403), sent=False), AuthRejected)

"""What is MongoDB's own: users of databases, mechanisms, self-change, TLS. The server is a stand-in, not mongod."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace

import bson
import pymongo.errors
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.base import Account, Candidate, Credential, Deadline, Finding, Target, Unseen, VerdictState
from connectors.mongodb.accounts import User, grants, user_of
from connectors.mongodb.errors import BY_CODE, FAILURES, Garbled, ServerRefusal, map_error, verdict_of
from connectors.mongodb.scram import Conversation
from deploy.lab import mongodb as lab
from deploy.lab.mongodb import MongoServer
from pam_jobs.errors import AmbiguousReply, Effect, EffectUnknown, NotApplied, PolicyRefused, Unreachable, Unsupported
from pam_jobs.secret import SecretValue
from tests.support.benches.base import new_password
from tests.support.benches.mongodb import MongodbBench
from tests.support.lab import target_folder
from tests.support.tls_front import make_certificate

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


@pytest.fixture
def bench(target_mongodb: MongoServer) -> Iterator[MongodbBench]:
    made = MongodbBench(target_mongodb)
    yield made
    made.connector.close_idle()


def logs_in(bench: MongodbBench, account: Account, password: SecretValue) -> VerdictState:
    credential = Credential(login=account.login, password=password, database=account.database)
    with bench.look() as session:
        return session.probe(account, credential).state


def rotate(
    bench: MongodbBench, account: Account, rotator: Credential, password: SecretValue | None = None
) -> SecretValue:
    candidate = Candidate(password=password or new_password())
    with bench.connector.open(bench.target, rotator, Deadline(20)) as session:
        session.preflight(account)
        assert session.change(account, candidate, lambda: None) is Effect.APPLIED
    assert candidate.password
    return candidate.password


@pytest.mark.parametrize("as_login", [True, False])
def test_a_user_belongs_to_its_database(bench, as_login):
    name = f"u{secrets.token_hex(3)}"
    for database in ("admin", "shop"):
        bench.make_account(name, Credential(login=name, password=SecretValue(f"First-{database}")), database)
    login, database = (f"{name}@shop", None) if as_login else (name, "shop")
    account = Account(login=login, record_uid="x", database=database)
    new = rotate(bench, account, bench.admin)
    assert logs_in(bench, account, new) is VerdictState.ACCEPTED
    assert logs_in(bench, account, SecretValue("First-shop")) is VerdictState.REFUSED
    other = Account(login=name, record_uid="x")
    assert logs_in(bench, other, SecretValue("First-admin")) is VerdictState.ACCEPTED
    with bench.client(name, new.reveal(), "shop") as client:  # MongoDB's own driver
        assert client.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"][0]["db"] == "shop"
        assert client.admin.command("connectionStatus")["authInfo"]["authenticatedUserRoles"][0]["role"] == "read"
    with bench.client(name, "First-shop", "shop") as client, pytest.raises(pymongo.errors.OperationFailure):
        client.admin.command("connectionStatus")
    with bench.open(bench.admin) as session:
        found = {each.name: each.facts for each in session.discover() if isinstance(each, Finding)}
    assert found[f"{name}@shop"]["roles"] == "read@shop"
    assert found[name]["mechanisms"] == "SCRAM-SHA-256"


def test_an_admin_may_rotate_itself_and_goes_on(bench):
    login = f"admin{secrets.token_hex(3)}"
    bench.execute("createUser", login, pwd="First-1", roles=["root"])
    account, _ = bench.new_account()
    own = Account(login=login, record_uid="x")
    current = Credential(login=f"{login}@admin", password=SecretValue("First-1"))
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        assert session.preflight(own).is_self
        session.change(own, Candidate(password=new_password()), lambda: None)
        assert session.change(account, Candidate(password=new_password()), lambda: None) is Effect.APPLIED
    assert len(bench.connector.kept) == 0


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)


# the stand-in takes back neither "=3D" nor "=2C" of RFC 5802, so MongoDB's own driver cannot log in with such a name either
@given(login=text.map(lambda word: word.replace("=", "").replace(",", "")), password=text)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_logins_and_passwords_are_set_exactly_or_refused_beforehand(bench, login, password):
    login = f"-{login}{secrets.token_hex(2)}"
    account = Account(login=login, record_uid="x", database="admin")
    bench.make_account(login, Credential(login=login, password=SecretValue("First-1")))
    with bench.open(bench.admin) as session:
        try:
            session.change(account, Candidate(password=SecretValue(password)), lambda: None)
        except PolicyRefused:
            password = "First-1"
    assert logs_in(bench, account, SecretValue(password)) is VerdictState.ACCEPTED
    with bench.client(login, password) as client:
        client.admin.command("connectionStatus")


@pytest.mark.parametrize(
    ("login", "database", "options", "expected"),
    [
        ("ann", None, {}, User(name="ann", database="admin")),
        ("ann", "shop", {}, User(name="ann", database="shop")),
        ("ann@shop", None, {}, User(name="ann", database="shop")),
        ("ann@shop", "admin", {}, User(name="ann@shop", database="admin")),
        ("ann@example.com", None, {}, User(name="ann@example.com", database="admin")),
        ("ann", None, {"authsource": "shop"}, User(name="ann", database="shop")),
    ],
)
def test_a_login_means_one_user(login, database, options, expected):
    target = Target(host="x", port=1, protocol="mongodb", options=options)
    assert user_of(login, database, target) == expected


@pytest.mark.parametrize(
    ("login", "database"), [("", None), ("nul\0", None), ("ann", "$external"), ("ann", "a/b"), ("ann", "x" * 64)]
)
def test_what_is_no_login_is_refused(bench, login, database):
    account = Account(login=login, record_uid="x", database=database)
    with bench.open(bench.admin) as session:
        with pytest.raises(Unsupported):
            session.preflight(account)
        with pytest.raises(Unsupported):
            session.change(account, Candidate(password=new_password()), lambda: None)


def test_rights_are_read_from_what_the_server_tells():
    every, one = {"db": "", "collection": ""}, {"db": "shop", "collection": ""}
    assert grants([{"resource": every, "actions": ["changePassword"]}], "changePassword", "shop")
    assert grants([{"resource": one, "actions": ["changePassword"]}], "changePassword", "shop")
    assert not grants([{"resource": one, "actions": ["changePassword"]}], "changePassword", "admin")
    assert not grants(
        [{"resource": {"db": "shop", "collection": "c"}, "actions": ["changePassword"]}], "changePassword", "shop"
    )
    assert grants([{"resource": {"anyResource": True}, "actions": ["changePassword"]}], "changePassword", "shop")
    assert not grants([{"resource": one, "actions": ["find"]}, "x", {}], "changePassword", "shop")


def test_passwords_do_not_travel_in_clear_over_a_network(bench, monkeypatch):
    account, current = bench.new_account()
    with bench.open(current) as session:
        monkeypatch.setattr(session._link, "is_private", lambda: False)
        with pytest.raises(Unsupported, match="in clear"):
            session.preflight(account)
        with pytest.raises(Unsupported, match="in clear"):
            session.change(account, Candidate(password=new_password()), pytest.fail)


def test_tls_is_found_and_checked_where_the_record_demands_it():
    with target_folder() as folder:
        certificate, key = make_certificate(folder)
        server = lab.start(folder, options=["--tls-cert-file", str(certificate), "--tls-key-file", str(key)])
        target = Target(host=server.host, port=server.port, protocol="mongodb")
        connector = MongodbBench(server).connector
        admin = Credential(login=server.admin_login, password=SecretValue(server.admin_password))
        try:
            assert connector.recognise(server.host, server.port, Deadline(5)).facts["tls"] == "yes"
            with connector.open(target, admin, Deadline(5)) as session:
                assert session._link.is_encrypted
            with pytest.raises(Unreachable, match="certificate"):
                connector.open(replace(target, use_ssl=True), admin, Deadline(5))
            connector.open(
                replace(target, use_ssl=True, options={"ssl_ca": str(certificate)}), admin, Deadline(5)
            ).close()
        finally:
            connector.close_idle()
            server.stop()


def _answering(*documents: dict) -> int:
    """Be a server that answers each message with the next of the documents, and return its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            for document in documents:
                asked = connection.recv(1 << 16)
                body = struct.pack("<IB", 0, 0) + bson.encode(document)
                connection.sendall(
                    struct.pack("<iiii", 16 + len(body), 1, struct.unpack("<i", asked[4:8])[0], 2013) + body
                )

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("documents", "state", "cause"),
    [
        ([{"ok": 1}, {"ok": 0, "code": 18, "errmsg": "Authentication failed."}], VerdictState.REFUSED, "wrong_password"),
        ([{"ok": 1}, {"ok": 0, "code": 8000, "errmsg": "bad auth : authentication failed"}], VerdictState.REFUSED, "wrong_password"),
        ([{"ok": 1}, {"ok": 0, "code": 8000, "errmsg": "you are over your quota"}], VerdictState.UNKNOWN, "refused_login"),
        ([{"ok": 1}, {"ok": 0, "code": 11600}], VerdictState.UNKNOWN, "starting_up"),
        ([{"ok": 1}, {"ok": 1, "payload": b"r=somebody else's,s=AAAA,i=4096"}], VerdictState.UNKNOWN, "unreachable"),
        ([{"ok": 1}, {"ok": 1, "payload": "text"}], VerdictState.UNKNOWN, "unreachable"),
        ([{"ok": 1}], VerdictState.UNKNOWN, "unreachable"),
    ],
)  # fmt: skip
def test_only_a_failed_authentication_refuses_a_password(bench, documents, state, cause):
    target = replace(bench.target, port=_answering(*documents), options={"sslmode": "disable"})
    account = Account(login="u", record_uid="x")
    with bench.connector.open(target, None, Deadline(5)) as session:
        verdict = session.probe(account, Credential(login="u", password=new_password()))
    assert (verdict.state, verdict.cause) == (state, cause)


def test_a_server_that_does_not_know_the_password_is_not_believed():
    talk = Conversation("SCRAM-SHA-256", "u", SecretValue("p"))
    nonce = talk.first().decode().split("r=")[1]
    for weak in (f"r={nonce}x,s=AAAA,i=1", f"r={nonce}x,s=AAAA,i=99999999", f"r={nonce}x,s=!,i=4096", "e=other"):
        with pytest.raises(Garbled):
            talk.final(weak.encode())
    assert talk.final(f"r={nonce}x,s=AAAA,i=4096".encode()).startswith(b"c=biws,r=")
    for wrong in (b"v=AAAA", b"e=invalid-proof"):
        with pytest.raises(Garbled):
            talk.check(wrong)


def test_scram_sha_1_of_rfc_5802s_kind_is_the_digest_of_user_and_password(monkeypatch):
    """The example of MongoDB's driver specification."""
    monkeypatch.setattr("connectors.mongodb.scram.secrets.token_bytes", lambda _: b"")
    talk = Conversation("SCRAM-SHA-1", "user", SecretValue("pencil"))
    talk._nonce, talk._bare = "fyko+d2lbbFgONRv9qkxdawL", "n=user,r=fyko+d2lbbFgONRv9qkxdawL"
    answer = b"r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,s=rQ9ZY3MntBeuP3E1TDVC4w==,i=10000"
    assert talk.final(answer).endswith(b"p=MC2T8BvbmWRckDw8oWl5IVghwCY=")
    talk.check(b"v=UMWeI25JD1yNYZRMpZ4VHvhZ9e0=")


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_a_known_code_says_that_nothing_was_changed(code):
    assert isinstance(map_error(ServerRefusal(code=code), sent=True), NotApplied)


@pytest.mark.parametrize("code", [0, 64, 91, 189, 11600, 99999])
def test_an_unknown_code_after_the_change_was_sent_proves_nothing(code):
    assert isinstance(map_error(ServerRefusal(code=code), sent=True), AmbiguousReply)
    assert isinstance(map_error(ServerRefusal(code=code), sent=False), NotApplied)


@pytest.mark.parametrize("kind", [kind for kind in FAILURES if kind is not ServerRefusal])
def test_silence_after_the_change_was_sent_proves_nothing(kind):
    assert isinstance(map_error(kind(), sent=True), EffectUnknown)
    assert isinstance(map_error(kind(), sent=False), NotApplied)
    assert verdict_of(kind()).state is VerdictState.UNKNOWN


def test_discovery_says_what_it_may_not_see(bench):
    _, current = bench.new_account()
    with bench.connector.open(bench.target, current, Deadline(20)) as session:
        assert [each.cause for each in session.discover() if isinstance(each, Unseen)] == ["not_permitted"]

"""Kerberos by its published vectors, and against controllers that answer as they please."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.base import Deadline, Target
from connectors.kerberos import cipher, messages
from connectors.kerberos.cipher import IntegrityError, Key
from connectors.kerberos.errors import KdcAwayError, KdcRefusedError, KerberosError, NotTrustedError, TicketRefusedError
from connectors.kerberos.tickets import Principal, Realm, get_ticket
from connectors.windows import errors as windows_errors
from connectors.windows.kerberos import KerberosWay, is_final
from pam_jobs.errors import AuthRejected, Locked, Unreachable, Unsupported
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit

SECRET = SecretValue("Sehr-Geheim-1")


@pytest.mark.parametrize(
    ("password", "salt", "iterations", "enctype", "key"),
    [
        ("password", "ATHENA.MIT.EDUraeburn", 1, 17, "42263c6e89f4fc28b8df68ee09799f15"),
        ("password", "ATHENA.MIT.EDUraeburn", 1200, 18, "55a6ac740ad17b4846941051e1e8b0a7548d93b0ab30a8bc3ff16280382b8c2a"),
        ("X" * 65, "pass phrase exceeds block size", 1200, 18, "d78c5c9cb872a8c9dad4697f0bb5b2d21496c82beb2caeda2112fceea057401b"),
        ("𝄞", "EXAMPLE.COMpianist", 50, 17, "f149c1f2e154a73452d43e7fe62a56e5"),
    ],
)  # fmt: skip
def test_a_password_makes_the_key_of_rfc_3962(password, salt, iterations, enctype, key):
    made = cipher._stretched(SecretValue(password), salt.encode(), iterations, cipher.ENCTYPES[enctype])
    assert made.hex() == key


def test_blocks_are_stolen_and_constants_folded_as_published():
    key = bytes.fromhex("636869636b656e207465726979616b69")
    assert cipher._encrypt_stealing(key, b"I would like the ").hex() == "c6353568f2bf8cb4d8a580362da7ff7f97"
    assert cipher._folded(b"kerberos").hex() == "6b65726265726f737b9b5b2b93132b93"


@pytest.mark.parametrize("enctype", [17, 18])
def test_what_was_altered_or_is_of_another_key_or_use_is_refused(enctype):
    key = cipher.random_key(enctype)
    for size in (0, 1, 15, 16, 17, 31, 32, 33, 100):
        sealed = cipher.encrypt(key, 3, b"x" * size)
        assert cipher.decrypt(key, 3, sealed) == b"x" * size
        for other, usage, text in (
            (key, 4, sealed), (cipher.random_key(enctype), 3, sealed), (key, 3, sealed[:-1]),
            (key, 3, bytes([sealed[0] ^ 1]) + sealed[1:]), (key, 3, b""),
        ):  # fmt: skip
            with pytest.raises(IntegrityError):
                cipher.decrypt(other, usage, text)
    with pytest.raises(IntegrityError):
        Key(enctype=23, octets=bytes(16))
    assert "octets" not in repr(key)


@pytest.mark.parametrize("iterations", [1, 4095, 1 << 30])
def test_a_controller_cannot_ask_for_a_key_that_is_easily_guessed(iterations):
    with pytest.raises(IntegrityError):
        cipher.string_to_key(SECRET, b"salt", iterations.to_bytes(4, "big"), 18)


@contextmanager
def controller(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Listen as a domain controller that says these things in turn, and keep what it was sent."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    size = int.from_bytes(connection.recv(4), "big")
                    heard.append(connection.recv(size))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", heard
        thread.join()


def framed(octets: bytes) -> bytes:
    return len(octets).to_bytes(4, "big") + octets


def error(code: int, data: bytes | None = None) -> bytes:
    told = {
        "version": 5, "kind": 30, "stime": "20260101000000Z", "susec": 0, "code": code, "realm": "A.TEST",
        "sname": {"type": 2, "parts": ["krbtgt", "A.TEST"]}, **({"data": data} if data else {}),
    }  # fmt: skip
    return framed(messages.dump(messages.ERROR, told))


def preauth(enctype: int = 18, **values: object) -> bytes:
    info = messages.dump(messages.ETYPE_INFO2, [{"enctype": enctype, "salt": "A.TESTme", **values}])
    return error(25, messages.dump(messages.METHOD_DATA, [{"type": 19, "value": info}]))


def ask(*controllers: str) -> None:
    realm = Realm(name="A.TEST", controllers=controllers)
    get_ticket(realm, Principal(name="me@a.test", is_enterprise=True), SECRET, ("HTTP", "h.a.test"), Deadline(10))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (6, AuthRejected), (7, Unsupported), (12, Locked), (14, Unsupported), (18, Locked), (23, Locked), (24, AuthRejected),
        (37, Unreachable), (60, Unreachable), (68, Unsupported),
    ],
)  # fmt: skip
def test_a_controllers_no_is_told_and_the_password_stays_here(code, kind):
    with controller(preauth(), error(code)) as (place, heard), pytest.raises(KdcRefusedError) as caught:
        ask(place)
    assert caught.value.code == code
    ours = windows_errors.map_error(caught.value, sent=False)
    assert type(ours) is kind
    assert ours.remedy
    assert len(heard) == 2
    assert SECRET.reveal().encode() not in b"".join(heard)


def test_the_next_controller_is_asked_when_one_is_away_or_sick():
    with (
        controller(error(29)) as (sick, _),
        controller(error(18)) as (well, _),
        pytest.raises(KdcRefusedError) as caught,
    ):
        ask("127.0.0.1:1", "a\0b", sick, well)
    assert caught.value.code == 18
    for place in ("127.0.0.1:1", "host:0", "host:x", ":1", "[::1]:1"):
        with pytest.raises(KdcAwayError):
            ask(place)


@pytest.mark.parametrize(
    "answer",
    [
        framed(b""), framed(b"\x6b\x03\x02\x01\x05"), framed(b"HTTP/1.1 400"), preauth(parameters=b"\0\0\0\1"),
        error(25, b"\x30\x80"), error(25),
    ],
)  # fmt: skip
def test_nonsense_is_no_controllers(answer):
    with controller(answer) as (place, _), pytest.raises(NotTrustedError):
        ask(place)


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, 200), octets=st.binary(max_size=4), cut=st.integers(0, 4))
def test_whatever_a_message_is_turned_into_is_read_or_malformed(position, octets, cut):
    for kind, whole in (
        (messages.ERROR, error(3, b"data")[4:]),
        (messages.ETYPE_INFO2, b"0\x0b0\x09\xa0\x03\x02\x01\x12\xa1\x02\x1b\0"),
    ):
        start = position % len(whole)
        with contextlib.suppress(messages.MalformedError):
            messages.load(kind, whole[:start] + octets + whole[start + cut :])


def test_what_is_cut_or_endless_is_no_answer():
    for answer in (b"", b"\0\0", b"\0\0\0\x10abc", b"\x7f\xff\xff\xff"):
        with controller(answer) as (place, _), pytest.raises(KdcAwayError):
            ask(place)


def test_rc4_and_des_are_not_spoken():
    with controller(preauth(enctype=23)) as (place, heard), pytest.raises(KdcRefusedError) as caught:
        ask(place)
    assert caught.value.code == 14
    assert messages.load(messages.AS_REQ, heard[0])["body"]["enctypes"] == [18, 17]


def test_a_controller_that_says_nothing_is_away_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        realm = Realm(name="A.TEST", controllers=(f"127.0.0.1:{silent.getsockname()[1]}",) * 3)
        began = time.monotonic()
        with pytest.raises(KdcAwayError):
            get_ticket(realm, Principal(name="me"), SECRET, ("HTTP", "h.a.test"), Deadline(0.3))
        assert time.monotonic() - began < 5


def test_controllers_are_written_as_hosts_with_and_without_ports():
    assert Realm(name="A.TEST").places() == [("a.test", 88)], "the domain's own name stands for all of them"
    written = ("dc1.a.test", "dc2:8888", "10.0.0.1", "::1", "[fe80::1]", "[fe80::1]:89")
    assert Realm(name="A.TEST", controllers=written).places() == [
        ("dc1.a.test", 88), ("dc2", 8888), ("10.0.0.1", 88), ("::1", 88), ("fe80::1", 88), ("fe80::1", 89),
    ]  # fmt: skip


BOTH = frozenset({"negotiate", "kerberos"})


@pytest.mark.parametrize(
    ("login", "host", "options", "offered", "realm"),
    [
        ("me@a.test", "win.a.test", {}, BOTH, "A.TEST"),
        ("me@a.test", "10.0.0.1", {}, BOTH, None), ("me@a.test", "::1", {}, BOTH, None), ("me@a.test", "win", {}, BOTH, None),
        ("me@a.test", "10.0.0.1", {"kerberos_host": "win.a.test"}, BOTH, "A.TEST"),
        ("me", "win.a.test", {"kerberos_realm": "a.test"}, BOTH, None), (".\\me", "win.a.test", {"kerberos_realm": "a.test"}, BOTH, None),
        ("WIN\\me", "win.a.test", {"kerberos_realm": "a.test"}, BOTH, None), ("A\\me", "win.a.test", {}, BOTH, None),
        ("A\\me", "win.a.test", {"kerberos_realm": "a.test"}, BOTH, "A.TEST"),
        ("me@other", "win.a.test", {"kerberos_realm": "a.test"}, BOTH, "A.TEST"),
        ("me@a.test", "win.a.test", {}, frozenset({"basic"}), None),
        ("me@a.test", "win.a.test", {"Kerberos": "False"}, BOTH, None),
        ("me@a.test", "win.a.test", {"winrm_authentication": "NTLM"}, BOTH, None),
        ("me@a.test", "win.a.test", {"winrm_authentication": "NTLM", "Kerberos": "true"}, BOTH, "A.TEST"),
        ("me@a.test", "win.a.test", {"winrm_authentication": "kerberos"}, BOTH, "A.TEST"),
    ],
)  # fmt: skip
def test_kerberos_is_for_accounts_of_a_domain_on_machines_with_names(login, host, options, offered, realm):
    target = Target(host=host, port=5985, protocol="winrm", options=options)
    way = KerberosWay.of(target, login, offered)
    assert (way.realm.name if way else None) == realm
    if way is None and "Kerberos" not in options and "winrm_authentication" not in options:
        demanded = Target(host=host, port=5985, protocol="winrm", options={**options, "Kerberos": "True"})
        with pytest.raises(Unsupported) as caught:
            KerberosWay.of(demanded, login, offered)
        assert caught.value.remedy


def test_ntlm_does_not_follow_what_speaks_of_the_credential_or_of_somebody_false():
    final: list[KerberosError] = [
        KdcRefusedError(24),
        KdcRefusedError(18),
        KdcRefusedError(23),
        TicketRefusedError(),
        NotTrustedError(),
    ]
    passed: list[KerberosError] = [KdcAwayError(), KdcRefusedError(7), KdcRefusedError(37), KdcRefusedError(14)]
    assert [is_final(each) for each in final + passed] == [True] * 5 + [False] * 4


def test_text_that_is_none_is_refused_before_anything_is_sent():
    way = KerberosWay.of(Target(host="win.a.test", port=1, protocol="winrm"), "me\ud800@a.test", BOTH)
    assert way is not None
    with pytest.raises(Unsupported):
        way.ticket(SECRET, Deadline(5))

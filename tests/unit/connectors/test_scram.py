"""SCRAM verifiers against the RFC's example and against libpq."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq

from connectors.postgresql.scram import md5_verifier, saslprep, scram_verifier

pytestmark = pytest.mark.unit


def test_keys_give_the_proof_of_the_rfc():
    # Given the exchange printed in RFC 7677 §3
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
    # When the password is hashed here
    _, keys = scram_verifier("pencil", iterations=4096, salt=salt)
    # Then proof and server signature are those of the RFC
    stored = hashlib.sha256(keys.client_key).digest()
    signature = hmac.digest(stored, message.encode(), "sha256")
    proof = bytes(a ^ b for a, b in zip(keys.client_key, signature, strict=True))
    assert base64.b64encode(proof) == b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    server = hmac.digest(keys.server_key, message.encode(), "sha256")
    assert base64.b64encode(server) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.fixture(scope="module")
def libpq():
    return pq.PGconn.connect_start(b"host=/nonexistent port=1")  # never connected; hashing needs no server


def _by_libpq(libpq, password: str) -> tuple[str, bytes]:
    verifier = libpq.encrypt_password(password.encode(), b"login", b"scram-sha-256").decode()
    return verifier, base64.b64decode(verifier.split("$")[1].split(":")[1])


@pytest.mark.parametrize(
    "password",
    [
        "pencil", " ", "pässwörd", "Ⅸ", "I\u00adX", "a\u00a0b", "\u1680x", "ª", "ﬁne", "日本語", "\u0627\u0031", "שלום", "\u0627x",
        "\u0007bell", "\u200bzero", "\u0221unassigned", "😀 emoji", "é", "e\u0301", "\u00ad", "x" * 200, "\ufefe", "İ", "\u2126", "a\u32cf", "a\u0340", "\ufe74", "\ufb1d", "\ufa2e",
    ],
)  # fmt: skip
def test_verifier_is_the_one_libpq_makes(libpq, password):
    theirs, salt = _by_libpq(libpq, password)
    assert scram_verifier(password, salt=salt)[0] == theirs


_ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(_ANY_TEXT)
def test_verifier_is_the_one_libpq_makes_for_any_text(password):
    connection = pq.PGconn.connect_start(b"host=/nonexistent port=1")
    theirs, salt = _by_libpq(connection, password)
    connection.finish()
    assert scram_verifier(password, salt=salt)[0] == theirs


def test_two_verifiers_of_one_password_differ():
    assert scram_verifier("same")[0] != scram_verifier("same")[0]


def test_keys_are_not_shown():
    _, keys = scram_verifier("secret")
    assert repr(keys) == "ScramKeys()"


@pytest.mark.parametrize(("password", "prepared"), [("I\u00adX", b"IX"), ("a\u00a0b", b"a b"), ("Ⅸ", b"IX")])
def test_saslprep_follows_the_rfc(password, prepared):
    assert saslprep(password) == prepared


def test_old_servers_get_md5():
    assert md5_verifier("secret", "joe") == "md5" + hashlib.md5(b"secretjoe").hexdigest()  # noqa: S324

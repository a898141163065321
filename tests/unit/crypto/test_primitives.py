from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from keeper_secrets_manager_core.crypto import CryptoUtils
from keeper_secrets_manager_core.utils import base64_to_bytes

from pam_jobs.crypto import aes, p256
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.errors import VaultError

pytestmark = pytest.mark.unit


@given(st.binary(max_size=500))
def test_what_gcm_sealed_opens_and_the_sdk_opens_it_too(plain: bytes) -> None:
    key = aes.new_key()
    sealed = aes.encrypt(plain, key)
    assert aes.decrypt(sealed, key) == plain
    assert CryptoUtils.decrypt_aes(sealed, key) == plain
    assert aes.decrypt(CryptoUtils.encrypt_aes(plain, key), key) == plain


@given(st.binary(max_size=500))
def test_what_cbc_sealed_opens_and_the_sdk_opens_it_too(plain: bytes) -> None:
    key = aes.new_key()
    sealed = aes.encrypt_cbc(plain, key)
    assert aes.decrypt_cbc(sealed, key) == plain
    assert CryptoUtils.decrypt_aes_cbc(sealed, key) == plain
    assert aes.decrypt_cbc(CryptoUtils.encrypt_aes_cbc(plain, key), key) == plain


def test_a_changed_or_cut_ciphertext_does_not_open() -> None:
    key = aes.new_key()
    sealed = aes.encrypt(b"text", key)
    flipped = bytes([sealed[20] ^ 1])
    for wrong in (b"", sealed[:11], sealed[:-1], sealed[:20] + flipped + sealed[21:]):
        with pytest.raises(VaultError):
            aes.decrypt(wrong, key)
    with pytest.raises(VaultError):
        aes.decrypt(sealed, aes.new_key())
    with pytest.raises(VaultError):
        aes.decrypt(sealed, b"short")
    with pytest.raises(VaultError):
        aes.decrypt_cbc(aes.encrypt_cbc(b"text", key)[:-1], key)


def test_ecies_opens_for_its_key_alone_and_the_sdk_makes_the_same() -> None:
    key = p256.generate()
    point = p256.public_point(key)
    assert p256.ecies_decrypt(p256.ecies_encrypt(b"secret", point), key) == b"secret"
    assert p256.ecies_decrypt(CryptoUtils.public_encrypt(b"secret", point), key) == b"secret"
    for wrong in (b"", b"x" * 125, p256.ecies_encrypt(b"secret", p256.public_point(p256.generate()))):
        with pytest.raises(VaultError):
            p256.ecies_decrypt(wrong, key)


def test_signatures_are_checked_against_message_and_key() -> None:
    key = p256.generate()
    point = p256.public_point(key)
    signature = p256.sign(key, b"message")
    assert p256.verify(point, signature, b"message")
    assert not p256.verify(point, signature, b"messagE")
    assert not p256.verify(p256.public_point(p256.generate()), signature, b"message")
    assert not p256.verify(point, b"", b"message")
    assert not p256.verify(b"\x04" + bytes(64), signature, b"message")
    assert p256.verify(point, CryptoUtils.sign(b"message", key), b"message")


def test_keys_survive_der_and_other_curves_are_refused() -> None:
    key = p256.generate()
    assert p256.public_point(p256.load_private(p256.private_der(key))) == p256.public_point(key)
    with pytest.raises(VaultError):
        p256.load_private(p256.private_der(ec.generate_private_key(ec.SECP384R1())))
    with pytest.raises(VaultError):
        p256.load_private(b"no der")
    with pytest.raises(VaultError):
        p256.load_public(b"\x02" + bytes(32))


@given(st.binary(max_size=100))
def test_base64_is_padded_and_read_in_either_alphabet(raw: bytes) -> None:
    text = to_base64(raw)
    assert base64_to_bytes(text) == raw
    assert from_base64(text) == raw
    assert from_base64(text.replace("+", "-").replace("/", "_").rstrip("=")) == raw


@pytest.mark.parametrize("wrong", ["*", "A", "AA AA", "ä"])
def test_what_is_not_base64_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError):
        from_base64(wrong)

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pam_jobs.clock import SystemClock, VirtualClock
from pam_jobs.crypto import p256
from pam_jobs.crypto.keystore import KeyStore, verify_signature, write_private
from pam_jobs.crypto.passphrase import MINIMUM_ITERATIONS, derive, new_salt
from pam_jobs.crypto.tls import ensure_tls
from pam_jobs.errors import ConfigurationError, VaultError
from pam_jobs.ids import b64url
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_keys_are_made_once_and_readable_by_their_owner_alone(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys")
    keys.ensure()
    again = KeyStore(tmp_path / "keys")
    again.ensure()
    assert again.server_public == keys.server_public == b64url(p256.public_point(keys.server))
    assert again.signing_public == keys.signing_public
    assert mode(tmp_path / "keys") == 0o700
    assert {mode(file) for file in (tmp_path / "keys").iterdir()} == {0o600}
    assert verify_signature(keys.signing_public, keys.signing.sign(b"text"), b"text")
    assert not verify_signature(keys.signing_public, b"x" * 64, b"text")


def test_processes_that_start_at_once_share_their_keys(tmp_path: Path) -> None:
    def start(_: int) -> str:
        keys = KeyStore(tmp_path)
        keys.ensure()
        return keys.server_public

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 1


def test_sealed_values_open_with_the_same_folder_only(tmp_path: Path) -> None:
    keys, others = KeyStore(tmp_path / "a"), KeyStore(tmp_path / "b")
    keys.ensure()
    others.ensure()
    sealed = keys.seal(b"token")
    assert b"token" not in sealed
    assert KeyStore(tmp_path / "a").open(sealed) == b"token"
    with pytest.raises(VaultError):
        others.open(sealed)
    assert keys.derive("a", "x") == keys.derive("a", "x")
    assert len({keys.derive("a", "x"), keys.derive("b", "x"), keys.derive("a", "y"), others.derive("a", "x")}) == 4


def test_a_missing_key_is_said_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"server\.der"):
        _ = KeyStore(tmp_path).server


def test_a_private_file_is_never_overwritten(tmp_path: Path) -> None:
    write_private(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_both_halves_of_a_passphrase_are_stable_and_different() -> None:
    salt = new_salt()
    keys = derive(SecretValue("correct horse"), salt)
    assert keys == derive(SecretValue("correct horse"), salt)
    assert keys.proof != keys.wrapping
    assert derive(SecretValue("correct horse"), new_salt()) != keys
    with pytest.raises(ConfigurationError):
        derive(SecretValue("correct horse"), salt, MINIMUM_ITERATIONS - 1)


def test_the_routers_certificate_is_of_its_ca_and_renewed_in_time(tmp_path: Path) -> None:
    clock = VirtualClock(datetime.now(UTC))
    files = ensure_tls(tmp_path, ["localhost", "127.0.0.1"], clock)
    assert (mode(files.key), mode(tmp_path / "ca.key")) == (0o600, 0o600)
    ssl.create_default_context(cafile=str(files.ca)).load_cert_chain(files.certificate, files.key)
    leaf = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(files.ca.read_bytes()))

    before = files.certificate.read_bytes()
    assert ensure_tls(tmp_path, ["localhost"], clock).certificate.read_bytes() == before
    assert ensure_tls(tmp_path, ["localhost", "router.example"], clock).certificate.read_bytes() != before
    renewed = files.certificate.read_bytes()
    clock.advance(timedelta(days=370))
    ensure_tls(tmp_path, ["localhost", "router.example"], clock)
    assert files.certificate.read_bytes() != renewed
    ensure_tls(tmp_path / "other", ["localhost"], SystemClock())

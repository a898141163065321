from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from pam_jobs.errors import InvalidInput
from pam_jobs.records import keys
from pam_jobs.records.keys import (
    ALGORITHMS,
    KeyPair,
    detect_algorithm,
    generate_key,
    public_of,
    rotates_key,
    wanted_algorithm,
)
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit

SMALL_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = {
    "ssh-rsa": SMALL_RSA,
    "ecdsa-sha2-nistp256": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-sha2-nistp384": ec.generate_private_key(ec.SECP384R1()),
    "ecdsa-sha2-nistp521": ec.generate_private_key(ec.SECP521R1()),
    "ssh-ed25519": ed25519.Ed25519PrivateKey.generate(),
}
FORMS = [
    (algorithm, form)
    for algorithm in KEYS
    for form in (PrivateFormat.OpenSSH, PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
    if not (algorithm == "ssh-ed25519" and form is PrivateFormat.TraditionalOpenSSL)
]


def pem(key, form: PrivateFormat = PrivateFormat.PKCS8, passphrase: bytes | None = None) -> SecretValue:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return SecretValue(key.private_bytes(Encoding.PEM, form, encryption).decode())


def user(key: SecretValue | None = None, **customs: str) -> Record:
    record = Record.parse({"type": "pamUser", "title": "t"})
    for label, text in customs.items():
        record = record.set_field("text", text, label.replace("_", " "), custom=True)
    return record if key is None else record.with_credential(private_key=key)


@pytest.mark.parametrize(("algorithm", "form"), FORMS)
def test_a_key_is_recognised_in_every_format(algorithm: str, form: PrivateFormat):
    key = KEYS[algorithm]
    assert detect_algorithm(pem(key, form)) == algorithm
    assert public_of(pem(key, form)) == key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize(
    "change", [str.strip, lambda text: text.replace("\n", "\r\n"), lambda text: f"note\n  {text}  "]
)
@pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8])
def test_a_key_survives_what_copying_between_clients_does_to_it(form: PrivateFormat, change):
    text = pem(KEYS["ssh-ed25519"], form).reveal()
    assert detect_algorithm(SecretValue(change(text))) == "ssh-ed25519"


@pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key_is_refused(form: PrivateFormat):
    locked = pem(SMALL_RSA, form, b"passphrase")
    for ask in (detect_algorithm, public_of, lambda key: wanted_algorithm(user(key))):
        with pytest.raises(InvalidInput, match="encrypted, which is not supported") as refused:
            ask(locked)
        assert refused.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "canary",
        "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nY2FuYXJ5\n-----END OPENSSH PRIVATE KEY-----\n",
        pem(ec.generate_private_key(ec.SECP256K1())).reveal(),
        pem(ed448.Ed448PrivateKey.generate()).reveal(),
        SMALL_RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
    ],
)
def test_what_is_no_ssh_key_is_not_recognised(text: str):
    assert detect_algorithm(SecretValue(text)) is None
    with pytest.raises(InvalidInput, match="not in a known format") as refused:
        public_of(SecretValue(text))
    assert "canary" not in refused.value.sentence()


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "ssh-rsa"])
def test_a_generated_key_is_openssh_and_its_halves_belong_together(algorithm: str):
    pair = generate_key(algorithm)
    assert pair.private_pem.reveal().startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert pair.public.split()[0] == algorithm
    assert len(pair.public.split()) == 2
    assert detect_algorithm(pair.private_pem) == algorithm
    assert public_of(pair.private_pem) == pair.public
    assert generate_key(algorithm).public != pair.public
    assert load_ssh_private_key(pair.private_pem.reveal().encode(), None)
    assert load_ssh_public_key(pair.public.encode())


def test_a_new_rsa_key_follows_the_size_of_the_old_one():
    pair = generate_key("ssh-rsa", like=pem(SMALL_RSA))
    key = load_ssh_private_key(pair.private_pem.reveal().encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 2048
    assert pair.public.startswith("ssh-rsa ")


@pytest.mark.parametrize("like", [None, pem(KEYS["ssh-ed25519"])])
def test_an_rsa_key_that_follows_no_other_has_4096_bits(monkeypatch: pytest.MonkeyPatch, like: SecretValue | None):
    asked = []

    def note(*, public_exponent: int, key_size: int) -> rsa.RSAPrivateKey:
        asked.append((public_exponent, key_size))
        return SMALL_RSA  # making 4096 bits takes seconds

    monkeypatch.setattr(keys.rsa, "generate_private_key", note)
    generate_key("ssh-rsa", like=like)
    assert asked == [(65537, 4096)]


def test_a_pair_does_not_show_its_private_half():
    pair = generate_key("ssh-ed25519")
    assert isinstance(pair, KeyPair)
    assert "PRIVATE" not in repr(pair)


@pytest.mark.parametrize("algorithm", ["ssh-dss", "ssh-ed448", "rsa", ""])
def test_an_unknown_or_obsolete_algorithm_is_refused(algorithm: str):
    with pytest.raises(InvalidInput) as refused:
        generate_key(algorithm)
    assert refused.value.remedy


def test_a_dsa_key_is_told_and_refused_as_obsolete():
    old = pem(dsa.generate_private_key(key_size=1024), PrivateFormat.PKCS8)  # noqa: S505 - the one size ssh-dss has
    assert detect_algorithm(old) == "ssh-dss"
    for ask in (lambda: public_of(old), lambda: wanted_algorithm(user(old))):
        with pytest.raises(InvalidInput, match="obsolete"):
            ask()
    assert wanted_algorithm(user(old, Private_Key_Type="ssh-ed25519")) == "ssh-ed25519"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_next_key_is_of_the_same_algorithm(algorithm: str):
    assert wanted_algorithm(user(pem(KEYS[algorithm]))) == algorithm


def test_private_key_type_overrides_the_algorithm():
    assert wanted_algorithm(user(pem(SMALL_RSA), Private_Key_Type=" SSH-ED25519 ")) == "ssh-ed25519"
    assert wanted_algorithm(user(SecretValue("unknown"), Private_Key_Type="ssh-rsa")) == "ssh-rsa"
    for wrong in ("ssh-dss", "dsa"):
        with pytest.raises(InvalidInput):
            wanted_algorithm(user(pem(SMALL_RSA), Private_Key_Type=wrong))


def test_a_key_that_is_not_recognised_asks_for_private_key_type():
    with pytest.raises(InvalidInput) as refused:
        wanted_algorithm(user(SecretValue("unknown")))
    assert "Private Key Type" in (refused.value.remedy or "")


def test_a_record_without_a_key_would_get_the_documented_default():
    assert wanted_algorithm(user()) == "ssh-rsa"


def test_a_key_rotates_when_there_is_one_and_nothing_forbids_it():
    key = pem(KEYS["ssh-ed25519"])
    assert rotates_key(user(key))
    assert rotates_key(user(key, Private_Key_Rotate="TRUE"))
    assert not rotates_key(user(key, Private_Key_Rotate="False"))
    assert not rotates_key(user())
    assert not rotates_key(user(SecretValue("  ")))
    with pytest.raises(InvalidInput, match="Private Key Rotate"):
        rotates_key(user(key, Private_Key_Rotate="sometimes"))

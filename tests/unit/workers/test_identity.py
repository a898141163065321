from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from keeper_secrets_manager_core import SecretsManager
from keeper_secrets_manager_core.configkeys import ConfigKeys

from pam_jobs.crypto import p256
from pam_jobs.errors import AccessDenied, ConfigurationError, VaultUnavailable
from pam_jobs.ids import b64url
from workers.identity import Identity, bind, load
from workers.instances import InstanceFile
from workers.storage import write_file

pytestmark = pytest.mark.unit

TOKEN = {
    "hostname": "router.test:8443", "clientKey": b64url(bytes(32)), "serverPublicKeyId": "77",
    "serverPublicKey": b64url(p256.public_point(p256.generate())),
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway-config.json"
    write_file(path, TOKEN)
    return path


def test_a_private_file_is_read(config: Path) -> None:
    identity = load(config, {})
    assert (identity.hostname, identity.is_bound) == ("router.test:8443", False)
    assert TOKEN["clientKey"] not in repr(identity)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused_with_the_remedy(config: Path, mode: int) -> None:
    config.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        load(config, {})
    assert caught.value.remedy == f"chmod 600 {config}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("!!", "neither JSON nor base64"),
        ("[]", "neither JSON nor base64"),
        ('{"hostname": "h"}', "no serverPublicKey"),
        (json.dumps({**TOKEN, "clientKey": ""}), "neither a one-time token nor a bound device"),
        (json.dumps({**TOKEN, "hostname": "https://router.test"}), "scheme"),
    ],
)
def test_wrong_content_is_one_sentence_without_the_content(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.json"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said) as caught:
        load(path, {})
    assert TOKEN["clientKey"] not in caught.value.sentence()


def test_a_missing_file_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "none.json", {})
    assert "GATEWAY_CONFIG" in (caught.value.remedy or "")


def test_a_failed_first_bind_keeps_the_file_and_the_token(config: Path) -> None:
    identity = load(config, {})

    def refuse(*_: object) -> object:
        raise ConnectionError("away")

    sdk = SecretsManager(config=identity.storage, custom_post_function=refuse)
    before = json.loads(config.read_text())
    assert before["clientKey"] == TOKEN["clientKey"]
    with pytest.raises(ConnectionError):
        sdk.get_secrets(["x"])
    after = json.loads(config.read_text())
    assert after["clientKey"] == TOKEN["clientKey"]
    assert after["privateKey"] == before["privateKey"], "the key that the router may have bound already stays"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    again = load(config, {})
    SecretsManager(config=again.storage, custom_post_function=refuse)
    assert json.loads(config.read_text()) == after, "a second start goes on with the same device"


def test_the_token_goes_once_the_application_key_is_there(config: Path) -> None:
    storage = load(config, {}).storage
    storage.delete(ConfigKeys.KEY_CLIENT_KEY)
    assert storage.contains(ConfigKeys.KEY_CLIENT_KEY)
    storage.set(ConfigKeys.KEY_APP_KEY, "key")
    storage.delete(ConfigKeys.KEY_CLIENT_KEY)
    assert "clientKey" not in json.loads(config.read_text())


def test_the_application_key_is_read_and_a_damaged_one_is_told_without_it(config: Path) -> None:
    identity = load(config, {})
    with pytest.raises(ConfigurationError, match="no appKey"):
        _ = identity.application_key
    identity.storage.set(ConfigKeys.KEY_APP_KEY, b64url(bytes(range(32))))
    assert load(config, {}).application_key == bytes(range(32))
    identity.storage.set(ConfigKeys.KEY_APP_KEY, "damaged!")
    with pytest.raises(ConfigurationError, match="application key") as caught:
        _ = identity.application_key
    assert "damaged!" not in caught.value.sentence()


def test_a_refused_token_is_told_and_nothing_is_lost(config: Path) -> None:
    identity = load(config, {})

    def refuse() -> None:
        raise AccessDenied

    with pytest.raises(ConfigurationError, match="one-time token"):
        bind(identity, refuse)
    assert json.loads(config.read_text()) == TOKEN


def test_a_router_that_is_away_is_not_a_refusal(config: Path) -> None:
    def away() -> None:
        raise VaultUnavailable

    with pytest.raises(VaultUnavailable):
        bind(load(config, {}), away)


def encoded(values: dict[str, str]) -> str:
    return base64.b64encode(json.dumps(values).encode()).decode()


def test_a_token_in_the_environment_is_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    environment = {"GATEWAY_CONFIG": encoded(TOKEN), "GATEWAY_CONFIG_FILE": str(path)}
    identity = load(None, environment)
    identity.storage.set(ConfigKeys.KEY_APP_KEY, "key")
    assert load(None, environment).is_bound
    other = {**TOKEN, "clientKey": b64url(bytes([1]) * 32)}
    with pytest.raises(ConfigurationError, match="different gateways"):
        load(None, {**environment, "GATEWAY_CONFIG": encoded(other)})


def test_a_token_that_cannot_be_kept_is_not_spent(tmp_path: Path) -> None:
    environment = {"GATEWAY_CONFIG": encoded(TOKEN), "GATEWAY_CONFIG_FILE": str(tmp_path / "no" / "folder.json")}
    with pytest.raises(ConfigurationError, match="cannot be written"):
        load(None, environment)


def test_a_bound_configuration_in_the_environment_needs_no_file(tmp_path: Path) -> None:
    bound = {**TOKEN, "clientId": "id", "privateKey": "key", "appKey": "key"}
    identity = load(None, {"GATEWAY_CONFIG": encoded(bound), "GATEWAY_CONFIG_FILE": str(tmp_path / "none.json")})
    identity.storage.set(ConfigKeys.KEY_OWNER_PUBLIC_KEY, "x")
    assert identity.is_bound
    assert list(tmp_path.iterdir()) == []


class Store:
    def __init__(self, text: str) -> None:
        self.text = text

    def read(self) -> str:
        return self.text

    def write(self, text: str) -> None:
        self.text = text


def test_a_secret_of_aws_is_read_and_written_back() -> None:
    store = Store(encoded(TOKEN))
    identity = load(None, {"AWS_KMS_SECRET_NAME": "gateway"}, aws_store=lambda _name: store)
    identity.storage.set(ConfigKeys.KEY_APP_KEY, "key")
    assert json.loads(store.text)["appKey"] == "key"


def test_aws_without_its_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigurationError, match="boto3 is not installed"):
        load(None, {"AWS_KMS_SECRET_NAME": "gateway"})


def test_a_damaged_device_key_is_one_sentence(config: Path) -> None:
    identity = load(config, {})
    identity.storage.set(ConfigKeys.KEY_PRIVATE_KEY, "AAAA")
    with pytest.raises(ConfigurationError, match="device key"):
        _ = identity.private_key
    assert isinstance(identity, Identity)


def test_killed_instances_are_named_until_the_router_knows(tmp_path: Path) -> None:
    folder = tmp_path / "instances"
    file = InstanceFile(folder)
    assert file.dead() == {}
    file.add("mine")
    assert file.dead() == {}
    own = next(folder.iterdir())
    entry = json.loads(own.read_text())
    for pid, name in ((1, "gone"), (2, "gone too")):
        (folder / f"{pid}.json").write_text(json.dumps({**entry, "instance": name, "pid": pid, "started": -1}))
    dead = file.dead()
    assert set(dead) == set(file.dead()) == {"gone", "gone too"}
    file.forget([*dead.values(), own])
    assert list(folder.iterdir()) == [own], "a container's process has the id of the one before"
    file.remove()
    assert list(folder.iterdir()) == []

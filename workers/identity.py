"""Who this gateway is: its configuration, its device key, and the one-time token it starts with."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from keeper_secrets_manager_core.configkeys import ConfigKeys

from pam_jobs.crypto import p256
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.errors import AccessDenied, ConfigurationError, VaultError
from workers.storage import GatewayStorage, parse_configuration, read_file, write_file

__all__ = ["DEFAULT_FILE", "Identity", "SecretStore", "bind", "load"]

DEFAULT_FILE: Final = Path("gateway-config.json")

_CLIENT_ID_MESSAGE: Final = b"KEEPER_SECRETS_MANAGER_CLIENT_ID"
_AWS_VARIABLE: Final = "AWS_KMS_SECRET_NAME"
_VARIABLE: Final = "GATEWAY_CONFIG"


class SecretStore(Protocol):
    """A store that holds the configuration as one text, such as AWS Secrets Manager."""

    def read(self) -> str:
        """Return the text."""
        ...

    def write(self, text: str) -> None:
        """Replace the text."""
        ...


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A gateway's device identity."""

    hostname: str  # of the router, HOST or HOST:PORT
    storage: GatewayStorage = field(repr=False)

    @property
    def is_bound(self) -> bool:
        """Say whether the one-time token has done its work."""
        return self.storage.contains(ConfigKeys.KEY_APP_KEY)

    @property
    def client_id(self) -> str:
        """The device's id."""
        return self._value(ConfigKeys.KEY_CLIENT_ID)

    @property
    def private_key(self) -> p256.PrivateKey:
        """The device's key."""
        try:
            return p256.load_private(from_base64(self._value(ConfigKeys.KEY_PRIVATE_KEY)))
        except (ValueError, VaultError):
            raise ConfigurationError(
                "the device key in the gateway's configuration cannot be read",
                remedy="restore the file from its backup, or create the gateway again",
            ) from None

    @property
    def application_key(self) -> bytes:
        """The key of the application that the gateway belongs to; the router has it only sealed."""
        try:
            return from_base64(self._value(ConfigKeys.KEY_APP_KEY))
        except ValueError:
            raise ConfigurationError(
                "the application key in the gateway's configuration cannot be read",
                remedy="restore the file from its backup, or create the gateway again",
            ) from None

    def _value(self, key: ConfigKeys) -> str:
        value = self.storage.get(key)
        if not value:
            raise ConfigurationError(f"the gateway's configuration has no {key.value}", remedy="bind the gateway first")
        return value


def load(
    config: Path | None,
    environment: Mapping[str, str],
    *,
    aws_store: Callable[[str], SecretStore] | None = None,
) -> Identity:
    """Return the identity that the configuration names; nothing is sent.

    ``--config`` goes first, then ``AWS_KMS_SECRET_NAME``, then ``GATEWAY_CONFIG``, then ``gateway-config.json`` in the
    present folder. A one-time token in ``GATEWAY_CONFIG`` makes an identity that is kept in that file (or in
    ``GATEWAY_CONFIG_FILE``), since the token serves once.

    Args:
        config: the file of ``--config``.
        environment: of the process.
        aws_store: opens a secret by name; None: AWS Secrets Manager.

    Raises:
        ConfigurationError: there is none, others can read it, or it is not in the known form.
    """
    if config is not None:
        return _of_file(config)
    if name := environment.get(_AWS_VARIABLE):
        return _of_store((aws_store or _aws_store)(name), f"the AWS secret {name}")
    if text := environment.get(_VARIABLE):
        return _of_variable(text, Path(environment.get("GATEWAY_CONFIG_FILE") or DEFAULT_FILE))
    return _of_file(DEFAULT_FILE)


def bind(identity: Identity, read: Callable[[], Any]) -> None:
    """Make sure that the device is bound: the first read sends the one-time token and keeps what comes back.

    Args:
        identity: the device.
        read: reads anything of the vault with the SDK.

    Raises:
        ConfigurationError: the token is used, expired or unknown; the configuration stays as it is.
        VaultUnavailable: the router is away; trying again is safe.
    """
    if identity.is_bound:
        return
    try:
        read()
    except AccessDenied as error:
        raise ConfigurationError(
            "the router refuses the gateway's one-time token",
            remedy="it serves once and for a limited time: create the gateway again with `pam gateway new`",
        ) from error
    if not identity.is_bound:
        raise ConfigurationError("the router did not bind the gateway", remedy="create the gateway again")


def _of_file(path: Path) -> Identity:
    values = read_file(path)
    return _identity(values, lambda changed: write_file(path, changed))


def _of_variable(text: str, path: Path) -> Identity:
    values = parse_configuration(text, _VARIABLE)
    token = values.get("clientKey")
    if not token or values.get("appKey"):
        return _identity(values, lambda _changed: None)
    if path.exists():
        kept = read_file(path)
        if kept.get("clientId") != _client_id(token) and kept.get("clientKey") != token:
            raise ConfigurationError(
                f"{_VARIABLE} and {path} belong to different gateways",
                remedy=f"remove the one that is out of date, or name another file in {_VARIABLE}_FILE",
            )
        values = kept
    else:
        write_file(path, values)  # fails before the token is spent when the identity could not be kept
    return _identity(values, lambda changed: write_file(path, changed))


def _of_store(store: SecretStore, source: str) -> Identity:
    values = parse_configuration(store.read(), source)
    return _identity(values, lambda changed: store.write(json.dumps(changed, sort_keys=True)))


def _identity(values: Mapping[str, str], save: Callable[[dict[str, str]], None]) -> Identity:
    return Identity(hostname=values["hostname"], storage=GatewayStorage(values, save))


def _client_id(token: str) -> str:
    try:
        return to_base64(hmac.digest(from_base64(token), _CLIENT_ID_MESSAGE, hashlib.sha512))
    except ValueError:
        raise ConfigurationError(f"the one-time token in {_VARIABLE} is not base64", remedy="copy it again") from None


class _AwsStore:
    """A secret of AWS Secrets Manager."""

    def __init__(self, client: Any, name: str, failures: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._name = name
        self._failures = failures

    def read(self) -> str:
        """Return the secret's text."""
        try:
            return str(self._client.get_secret_value(SecretId=self._name)["SecretString"])
        except self._failures as error:
            raise self._refused("read", error) from None
        except KeyError:
            raise ConfigurationError(
                f"the AWS secret {self._name} holds no text", remedy="store the configuration as a plaintext secret"
            ) from None

    def write(self, text: str) -> None:
        """Store a new version of the secret."""
        try:
            self._client.put_secret_value(SecretId=self._name, SecretString=text)
        except self._failures as error:
            raise self._refused("written", error) from None

    def _refused(self, what: str, error: Exception) -> ConfigurationError:
        return ConfigurationError(
            f"the AWS secret {self._name} cannot be {what} ({type(error).__name__})",
            remedy="give the machine's role secretsmanager:GetSecretValue and PutSecretValue on it",
        )


def _aws_store(name: str) -> SecretStore:
    try:
        boto3 = import_module("boto3")
        failures = import_module("botocore.exceptions")
    except ImportError:
        raise ConfigurationError(
            f"{_AWS_VARIABLE} is set, but boto3 is not installed", remedy="pip install boto3, or use --config FILE"
        ) from None
    try:
        client = boto3.client("secretsmanager")
    except failures.BotoCoreError as error:
        raise ConfigurationError(
            f"AWS Secrets Manager cannot be used ({type(error).__name__})",
            remedy="set AWS_DEFAULT_REGION, and credentials or an instance role",
        ) from None
    return _AwsStore(client, name, (failures.BotoCoreError, failures.ClientError))

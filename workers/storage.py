"""Where the identity of a gateway is kept, in the form that the vendor's SDK reads and writes."""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keeper_secrets_manager_core.configkeys import ConfigKeys
from keeper_secrets_manager_core.storage import KeyValueStorage

from pam_jobs.errors import ConfigurationError

__all__ = ["GatewayStorage", "parse_configuration", "read_file", "write_file"]


class GatewayStorage(KeyValueStorage):  # type: ignore[misc] # the SDK is untyped
    """The SDK's storage over a dictionary that is written back as a whole with each change.

    It is not the SDK's file storage on purpose: after a failed first bind that one deletes the user's file. And a
    one-time token stays until the application key is stored, so that a bind whose answer was lost can be repeated.
    """

    def __init__(self, values: Mapping[str, str], save: Callable[[dict[str, str]], None]) -> None:
        """Start with the values.

        Args:
            values: by the names of the configuration file.
            save: makes a new state durable; called with each change.
        """
        self._values = dict(values)
        self._save = save
        self._lock = threading.RLock()

    def read_storage(self) -> dict[str, str]:
        """Return a copy of all values."""
        with self._lock:
            return dict(self._values)

    def save_storage(self, updated_config: Mapping[str, str]) -> None:
        """Replace all values."""
        with self._lock:
            self._values = dict(updated_config)
            self._save(dict(self._values))

    def get(self, key: ConfigKeys) -> str | None:
        """Return a value, or None."""
        with self._lock:
            return self._values.get(key.value)

    def set(self, key: ConfigKeys, value: str) -> dict[str, str]:
        """Store a value durably."""
        with self._lock:
            if self._values.get(key.value) != value:
                self.save_storage({**self._values, key.value: value})
            return dict(self._values)

    def delete(self, key: ConfigKeys) -> dict[str, str]:
        """Remove a value; a token that has not done its work yet stays."""
        with self._lock:
            is_needed = key is ConfigKeys.KEY_CLIENT_KEY and not self._values.get(ConfigKeys.KEY_APP_KEY.value)
            if key.value in self._values and not is_needed:
                self.save_storage({name: value for name, value in self._values.items() if name != key.value})
            return dict(self._values)

    def delete_all(self) -> dict[str, str]:
        """Keep everything: nothing of ours asks for this, and an identity cannot be made again."""
        return self.read_storage()

    def contains(self, key: ConfigKeys) -> bool:
        """Say whether there is such a value."""
        return self.get(key) is not None

    def is_empty(self) -> bool:
        """Say whether there is nothing."""
        return not self.read_storage()


def parse_configuration(text: str, source: str) -> dict[str, str]:
    """Return the values of a configuration in JSON, or in base64 of it.

    Args:
        text: the configuration.
        source: names it in errors.

    Raises:
        ConfigurationError: it is neither, or lacks what a gateway needs.
    """
    remedy = "create the gateway again and use the configuration that is printed"
    clean = text.strip()
    if not clean.startswith("{"):
        try:
            clean = base64.b64decode(clean + "=" * (-len(clean) % 4), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise ConfigurationError(f"{source} is neither JSON nor base64", remedy=remedy) from None
    try:
        data: Any = json.loads(clean)
    except ValueError:
        raise ConfigurationError(f"{source} is not valid JSON", remedy=remedy) from None
    if not isinstance(data, dict):
        raise ConfigurationError(f"{source} is not a JSON object", remedy=remedy)
    values = {str(name): str(value) for name, value in data.items() if value is not None}
    for name in ("hostname", "serverPublicKey", "serverPublicKeyId"):
        if not values.get(name):
            raise ConfigurationError(f"{source} has no {name}", remedy=remedy)
    if not values.get("clientKey") and not all(values.get(name) for name in ("clientId", "privateKey", "appKey")):
        raise ConfigurationError(f"{source} holds neither a one-time token nor a bound device", remedy=remedy)
    if "http" in values["hostname"]:
        raise ConfigurationError(
            f"the hostname in {source} holds a scheme", remedy="write HOST or HOST:PORT without https://"
        )
    return values


def read_file(path: Path) -> dict[str, str]:
    """Return the values of a configuration file.

    Raises:
        ConfigurationError: it cannot be read, others can read it, or its content is wrong.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except OSError as error:
        raise ConfigurationError(
            f"the gateway's configuration {path} cannot be read ({error.strerror})",
            remedy="give --config FILE, or set GATEWAY_CONFIG",
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not text", remedy="create the gateway again") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(
            f"the gateway's configuration {path} can be read by others", remedy=f"chmod 600 {path}"
        )
    return parse_configuration(text, str(path))


def write_file(path: Path, values: Mapping[str, str]) -> None:
    """Replace the file by the values in one step, readable by its owner alone.

    Raises:
        ConfigurationError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            json.dump(dict(values), stream, indent=2, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(
            f"the gateway's identity cannot be written to {path} ({error.strerror})",
            remedy="give --config a file in a folder that the gateway can write",
        ) from None

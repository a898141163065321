"""Where the router is and who signs in: the data folder's ``client/profile.json``, overridden by the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pam_jobs.errors import ConfigurationError

__all__ = ["Profile", "data_folder", "write_json"]


def data_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Return the data folder: ``PAM_DATA_DIR``, else ``~/.pam-jobs``; it need not exist."""
    chosen = (os.environ if environment is None else environment).get("PAM_DATA_DIR")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".pam-jobs"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One router and one user."""

    folder: Path  # the data folder
    router: str | None  # https://host:port
    ca: Path | None  # CA of the router's certificate; None: the system's CAs
    username: str | None

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Profile:
        """Return the profile of the data folder, with ``PAM_ROUTER``, ``PAM_CA`` and ``PAM_USERNAME`` put over it.

        Raises:
            ConfigurationError: the profile file is damaged.
        """
        env = os.environ if environment is None else environment
        folder = data_folder(env)
        stored = _read(folder / "client" / "profile.json")
        router = env.get("PAM_ROUTER") or stored.get("router")
        # Another router is not known by the stored router's CA.
        ca = env.get("PAM_CA") or (stored.get("ca") if router == stored.get("router") else None)
        return cls(
            folder=folder,
            router=router.rstrip("/") if router else None,
            ca=Path(ca).expanduser() if ca else None,
            username=env.get("PAM_USERNAME") or stored.get("username"),
        )

    @property
    def session_file(self) -> Path:
        """The file that keeps the signed-in user's private key."""
        return self.folder / "client" / "session.json"

    def require_router(self) -> str:
        """Return the router's address.

        Raises:
            ConfigurationError: none is known.
        """
        if not self.router:
            raise ConfigurationError(
                "no router is known here",
                remedy="run `pam up` on this machine, or `pam login --router https://HOST:PORT --ca FILE`",
            )
        return self.router

    def save(self) -> None:
        """Write the profile to the data folder."""
        content = {"router": self.router, "ca": str(self.ca) if self.ca else None, "username": self.username}
        write_json(self.folder / "client" / "profile.json", content)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise ConfigurationError(f"{path} cannot be read", remedy="correct or remove it, then sign in again") from None
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that only its owner can read, whole or not at all; its folder is made with mode 0700."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(content, stream, indent=1)
            stream.write("\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

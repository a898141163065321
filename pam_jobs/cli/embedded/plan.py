"""Which processes embedded mode consists of, and what each of them is told; nothing more than it needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic_settings import BaseSettings

import pam_jobs
from pam_jobs.cli.embedded import broker
from pam_jobs.cli.embedded.processes import Spec
from pam_jobs.cli.embedded.state import DataFolder, Settings
from pam_jobs.settings import ControlSettings, GatewaySettings

__all__ = ["START_ORDER", "STOP_ORDER", "code_folder", "control_environment", "specs"]

START_ORDER = ("broker", "router", "control", "beat", "gateway", "flower")
STOP_ORDER = (("gateway",), ("beat", "control", "flower"), ("router",), ("broker",))

_HOST = "127.0.0.1"
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "HOME", "USER", "LOGNAME")
_GATEWAY_STOP_SECONDS = 20.0


def specs(folder: DataFolder, settings: Settings, flower_password: str) -> dict[str, Spec]:
    """Return every process by name.

    Args:
        folder: the data folder.
        settings: the chosen ports.
        flower_password: of the user ``pam`` in Flower.
    """
    control = control_environment(folder, settings)
    return {
        "broker": Spec(name="broker", argv=broker.arguments(folder), environment=_base()),
        "router": _module("router", "pam_jobs.api", control),
        "control": _module("control", "pam_jobs.jobs", control),
        "beat": _module("beat", "scheduler", control),
        "gateway": _gateway(folder),
        "flower": _module(
            "flower",
            "pam_jobs.cli.flower",
            {
                **_base(),
                "PAM_BROKER_URL": folder.broker_url,
                "FLOWER_ADDRESS": _HOST,
                "FLOWER_PORT": str(settings.flower_port),
                "FLOWER_BASIC_AUTH": f"pam:{flower_password}",
            },
        ),
    }


def control_environment(folder: DataFolder, settings: Settings) -> dict[str, str]:
    """Return the environment of router, beat and control."""
    return {
        **_base(),
        **_passed_on(ControlSettings),
        "PAM_DATABASE_URL": folder.database_url,
        "PAM_BROKER_URL": folder.broker_url,
        "PAM_KEYS_DIR": str(folder.keys),
        "PAM_PUBLIC_HOST": f"{_HOST}:{settings.port}",
        "PAM_LISTEN_HOST": _HOST,
        "PAM_LISTEN_PORT": str(settings.port),
        "PAM_TLS_NAMES": "localhost,127.0.0.1",
    }


def _gateway(folder: DataFolder) -> Spec:
    environment = {
        **_base(),
        **_passed_on(GatewaySettings),
        "PAM_BROKER_URL": folder.broker_url,
        "PAM_CA_FILE": str(folder.ca),
        "PAM_WORK_DIR": str(folder.path / "work"),
    }
    argv = [sys.executable, "-m", "workers", "--config", str(folder.gateway_config)]
    return Spec(name="gateway", argv=argv, environment=environment, stop_seconds=_GATEWAY_STOP_SECONDS)


def _module(name: str, module: str, environment: Mapping[str, str]) -> Spec:
    return Spec(name=name, argv=[sys.executable, "-m", module], environment=environment)


def _base() -> dict[str, str]:
    """Return what every program needs, and nothing of the operator's own: no passphrase, no cloud credentials."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": code_folder(),
        "PYTHONSAFEPATH": "1",  # the working folder holds data, not code
        "PYTHONUNBUFFERED": "1",
    }


def code_folder() -> str:
    """Return the folder that the packages are imported from, so that children find the same ones."""
    return str(Path(pam_jobs.__file__).parent.parent)


def _passed_on(settings: type[BaseSettings]) -> dict[str, str]:
    """Return the tuning that the operator set for these processes in the environment of ``pam up``."""
    names = {f"PAM_{name.upper()}" for name in settings.model_fields}
    return {name: value for name, value in os.environ.items() if name in names}

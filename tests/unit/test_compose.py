"""docker-compose.yml and the image: valid, and everything they name exists."""

from __future__ import annotations

import importlib.util
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import pam_jobs
from deploy.healthcheck import CHECKS
from pam_jobs.broker_access import BrokerKind, account
from pam_jobs.ids import new_uid
from pam_jobs.secret import SecretValue
from pam_jobs.settings import ControlSettings, GatewaySettings
from tests.support.compose import ROOT, environment_of, load

pytestmark = pytest.mark.unit

OURS = ("bootstrap", "router", "beat", "control", "flower", "gateway")
BOOTSTRAP = {"PAM_FIRST_USER", "PAM_PASSPHRASE_FILE", "PAM_CA_COPY"}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return load()["services"]


def test_the_services_are_the_processes_of_the_system(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"postgres", "redis", *OURS, "target-postgres", "target-ssh"}


@pytest.mark.parametrize("name", OURS)
def test_a_command_runs_a_module_that_exists(services: dict[str, dict[str, Any]], name: str) -> None:
    python, option, module = services[name]["command"]
    assert (python, option) == ("python", "-m")
    found = importlib.util.find_spec(module)
    assert found is not None
    if found.submodule_search_locations:
        assert importlib.util.find_spec(f"{module}.__main__") is not None


@pytest.mark.parametrize("name", OURS)
def test_every_setting_is_known_to_the_process(services: dict[str, dict[str, Any]], name: str) -> None:
    settings = GatewaySettings if name == "gateway" else ControlSettings
    known = {f"PAM_{field.upper()}" for field in settings.model_fields}
    given = {variable for variable in environment_of(services[name]) if variable.startswith("PAM_")}
    assert given - known - (BOOTSTRAP if name == "bootstrap" else set()) == set()
    if name != "flower":
        required = {f"PAM_{field.upper()}" for field, info in settings.model_fields.items() if info.is_required()}
        assert required <= given


@pytest.mark.parametrize("name", OURS)
def test_a_process_has_no_more_rights_than_it_needs(services: dict[str, dict[str, Any]], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert not service.get("privileged")


def test_only_the_control_plane_reaches_the_database(services: dict[str, dict[str, Any]]) -> None:
    reach = {name for name, service in services.items() if "control" in service["networks"]}
    assert reach == {"postgres", "redis", "bootstrap", "router", "beat", "control", "flower"}
    assert "PAM_DATABASE_URL" not in environment_of(services["gateway"])
    assert "PAM_DATABASE_URL" not in environment_of(services["flower"])


def test_the_gateway_has_an_account_of_its_own_on_the_broker(tmp_path: Path) -> None:
    made = account(BrokerKind.REDIS, new_uid(), SecretValue("Gateway-pass_word-1"))
    for line in made.dotenv("redis"):
        name, _, value = line.partition("=")
        (tmp_path / name).write_text(value.removeprefix("'").removesuffix("'"))
    secrets = dict.fromkeys(("POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_PASSWORD", "SANDBOX_PASSWORD"), "Control")
    document = load(secrets | {path.name: path.read_text() for path in tmp_path.iterdir()})
    gateway = environment_of(document["services"]["gateway"])
    assert gateway["PAM_BROKER_URL"] == f"redis://{made.user}:Gateway-pass_word-1@redis:6379/0"
    assert "Control" not in str(gateway)
    assert made.lasting in document["configs"]["redis"]["content"].splitlines()
    # without one the gateway does not start, and everything else does
    assert environment_of(load(secrets)["services"]["gateway"])["PAM_BROKER_URL"] == ""
    with pytest.raises(ValidationError):
        GatewaySettings(broker_url="")


def test_health_is_checked_by_what_exists(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if name == "bootstrap":
            continue
        test = service["healthcheck"]["test"]
        if name in OURS:
            assert test[:4] == ["CMD", "python", "-m", "deploy.healthcheck"]
            assert test[4] in CHECKS
        else:
            assert test


def test_no_secret_stands_in_the_file(services: dict[str, dict[str, Any]]) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for found in re.finditer(r"(?i)(?:password|auth)\S*:\s+(\S+)|requirepass (\S+)|://[^@\s]*:([^@\s]+)@", text):
        value = next(group for group in found.groups() if group)
        assert "${" in value


def test_what_depends_on_another_waits_for_a_state_that_it_can_reach(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for other, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
            else:
                assert services[other]["restart"] == "no"


def test_the_image_is_built_from_what_exists(services: dict[str, dict[str, Any]]) -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    for service in services.values():
        if "build" in service:
            assert service["build"]["target"] in stages
            assert service["image"].endswith(f":{pam_jobs.__version__}")
    sources = [
        source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]
    ]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not set(sources) & set(ignored)


def test_the_image_installs_what_the_lock_of_everything_has() -> None:
    def pins(path: Path) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==\S+", path.read_text(), re.MULTILINE))

    image = pins(ROOT / "deploy" / "requirements.lock")
    assert image < pins(ROOT / "requirements.lock")
    names = {pin.partition("==")[0] for pin in image}
    assert {"celery", "psycopg", "paramiko", "flower", "setuptools"} <= names
    assert not names & {"pytest", "mypy", "hypothesis"}


def test_the_secrets_script_makes_every_value_once(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    script = tmp_path / "deploy" / "compose-secrets.sh"
    script.write_text((ROOT / "deploy" / "compose-secrets.sh").read_text())
    subprocess.run(["bash", str(script)], check=True, capture_output=True)
    first = (tmp_path / ".env").read_text()
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "deploy" / "secrets").stat().st_mode) == 0o700
    values = dict(line.split("=", 1) for line in first.splitlines())
    assert load(values)["services"]
    assert len({values[name] for name in values if name.endswith("PASSWORD")}) == 4
    assert all(len(values[name]) >= 32 for name in values if name.endswith("PASSWORD"))
    assert len((tmp_path / "deploy" / "secrets" / "passphrase").read_text()) >= 32
    subprocess.run(["bash", str(script)], check=True, capture_output=True)
    assert (tmp_path / ".env").read_text() == first


def test_a_missing_value_is_named() -> None:
    with pytest.raises(ValueError, match=r"deploy/compose-secrets\.sh"):
        load({})

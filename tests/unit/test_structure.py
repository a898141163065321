"""The repository's own shape: what it says of itself is true."""

from __future__ import annotations

import importlib
import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pam_jobs

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
TOP = ("pam_jobs", "connectors", "scheduler", "workers", "deploy", "tests")
SHIPPED = ("pam_jobs", "connectors", "scheduler", "workers", "deploy")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in SHIPPED
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__main__.py" and "versions" not in path.parts and path.name != "env.py"
)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_on_disk() -> set[str]:
    return {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in SHIPPED
        for path in (ROOT / package).rglob("__init__.py")
    }


@pytest.mark.parametrize("name", TOP)
def test_a_top_level_package_is_the_one_of_this_repository(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(ROOT)


def test_every_package_is_listed_and_every_listed_one_exists() -> None:
    listed = project()["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == packages_on_disk()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_this_repository_and_has_what_it_announces(name: str) -> None:
    module: ModuleType = importlib.import_module(name)
    assert Path(module.__file__ or "").is_relative_to(ROOT)
    missing = [public for public in getattr(module, "__all__", []) if not hasattr(module, public)]
    assert missing == []


def test_every_module_is_of_a_size_that_can_be_read() -> None:
    long = [
        (name, lines)
        for package in (*SHIPPED, "tests")
        for name in sorted((ROOT / package).rglob("*.py"))
        if (lines := len(name.read_text().splitlines())) > 600
    ]
    assert long == []


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == pam_jobs.__version__ == project()["project"]["version"]


def test_console_script_and_connectors_can_be_loaded() -> None:
    described = project()["project"]
    module, _, name = described["scripts"]["pam"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    installed = {entry.name: entry for entry in entry_points(group="pam_jobs.connectors")}
    assert set(installed) == set(described["entry-points"]["pam_jobs.connectors"])
    for entry in installed.values():
        assert entry.load().__module__.startswith("connectors.")


def test_the_lock_is_by_hash_and_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock + (ROOT / "deploy" / "requirements.lock").read_text()
    pinned = re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE)
    entries = re.split(r"^(?=[a-z0-9-]+==)", lock, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pinned)
    assert all("--hash=sha256:" in entry for entry in entries)
    described = project()
    groups = described["dependency-groups"].values()
    wanted = [
        *described["project"]["dependencies"],
        *(text for group in groups for text in group if isinstance(text, str)),
    ]
    for extra in described["project"]["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[\[<>=!~ ;]", text, maxsplit=1)[0].lower().replace("_", "-") for text in wanted}
    assert names - set(pinned) - {"pam-jobs"} == set()

"""Which connector answers to what."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from connectors.fake import FakeConnector
from connectors.registry import BUILT_IN, GROUP, ConnectorRegistry
from pam_jobs.errors import ConfigurationError, Unsupported

pytestmark = pytest.mark.unit


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


def test_built_in_connectors_need_no_entry_points():
    registry = ConnectorRegistry(points=[])
    assert registry.names() == sorted(BUILT_IN)
    assert all(registry.by_name(name).name == name for name in registry.names())


def test_built_in_connectors_are_the_entry_points_of_the_package():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"][GROUP] == BUILT_IN


def test_chains_follow_protocol_and_operating_system():
    registry = ConnectorRegistry(points=[])
    assert [each.name for each in registry.chain_for("ssh", "Linux")] == ["linux"]
    assert [each.name for each in registry.chain_for("ssh")] == ["linux"]
    assert [each.name for each in registry.chain_for("ssh", "Windows")] == ["windows-ssh"]
    assert [each.name for each in registry.chain_for("winrm", "windows")] == ["winrm", "windows-ssh"]
    assert [each.name for each in registry.chain_for("postgresql", None)] == ["postgresql"]
    assert [each.name for each in registry.chain_for("ldaps")] == ["activedirectory", "openldap"]
    assert [each.name for each in registry.chain_for("ldaps", "openldap")] == ["openldap"]
    assert [each.name for each in registry.chain_for("ldap", "active_directory")] == [
        "activedirectory", "activedirectory-winrm",
    ]  # fmt: skip
    assert [each.name for each in registry.chain_for("winrm", "active_directory")] == ["activedirectory-winrm"]
    assert registry.chain_for("ldap") == registry.chain_for("ldaps")
    with pytest.raises(Unsupported) as caught:
        registry.chain_for("gopher")
    assert caught.value.remedy


def test_one_instance_is_shared():
    registry = ConnectorRegistry(points=[])
    assert registry.by_name("linux") is registry.chain_for("ssh")[0]


def test_connector_from_elsewhere_is_found_by_its_protocol():
    registry = ConnectorRegistry(points=[point("fake", "connectors.fake:FakeConnector")])
    assert isinstance(registry.chain_for("fake")[0], FakeConnector)
    assert "fake" in {each.name for each in registry.recognisers()}


def test_two_connectors_of_one_name_are_refused():
    with pytest.raises(ConfigurationError):
        ConnectorRegistry(points=[point("linux", "elsewhere:Linux")])
    assert ConnectorRegistry(points=[point("linux", BUILT_IN["linux"])]).names() == sorted(BUILT_IN)


def test_unknown_name_and_missing_driver_say_what_to_do():
    registry = ConnectorRegistry(points=[point("far", "no_such_module:X"), point("odd", "connectors.fake:FakeTarget")])
    for name in ("nothing", "far"):
        with pytest.raises(Unsupported) as caught:
            registry.by_name(name)
        assert caught.value.remedy
    with pytest.raises(ConfigurationError):
        registry.by_name("odd")
    with pytest.raises(ConfigurationError):
        registry.recognisers()

"""Host keys that were seen once are remembered beyond the process."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from connectors.base import Connector, Target
from connectors.linux.connector import LinuxConnector
from connectors.registry import ConnectorRegistry
from connectors.ssh.keys import HostKeys
from pam_jobs.errors import ConfigurationError, HostKeyMismatch

pytestmark = pytest.mark.unit

MACHINE = Target(host="machine.test", port=22, protocol="ssh")
FIRST, OTHER = "ssh-ed25519 AAAAfirst", "ssh-ed25519 AAAAother"


def remembering(file: Path) -> HostKeys:
    keys = HostKeys()
    keys.keep_in(file)
    return keys


def test_a_key_that_changed_is_refused_by_a_process_that_starts_later(tmp_path: Path):
    file = tmp_path / "state" / "known_hosts"
    remembering(file).check(MACHINE, FIRST)
    remembering(file).check(MACHINE, FIRST)
    with pytest.raises(HostKeyMismatch, match="changed since it was first seen"):
        remembering(file).check(MACHINE, OTHER)
    assert file.read_text() == f"machine.test 22 {FIRST}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_each_server_has_a_line_of_its_own(tmp_path: Path):
    file = tmp_path / "known_hosts"
    remembering(file).check(MACHINE, FIRST)
    remembering(file).check(Target(host="machine.test", port=2222, protocol="ssh"), OTHER)
    remembering(file).check(Target(host="machine.test.other", port=22, protocol="ssh"), OTHER)
    with pytest.raises(HostKeyMismatch):
        remembering(file).check(Target(host="machine.test", port=2222, protocol="ssh"), FIRST)


def test_one_key_wins_when_many_see_the_server_at_once(tmp_path: Path):
    file = tmp_path / "known_hosts"

    def see(number: int) -> bool:
        try:
            remembering(file).check(MACHINE, f"ssh-ed25519 AAAA{number}")
        except HostKeyMismatch:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(see, range(24))) == 1
    assert len(file.read_text().splitlines()) == 1


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_trusted(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        remembering(tmp_path / "file" / "known_hosts").check(MACHINE, FIRST)


def test_the_registry_tells_connectors_where_to_remember(tmp_path: Path):
    connector: Connector = ConnectorRegistry(points=[], state_folder=tmp_path).by_name("linux")
    assert isinstance(connector, LinuxConnector)
    connector.host_keys.check(MACHINE, FIRST)
    assert (tmp_path / "known_hosts").exists()

"""The scanner on real sockets, and reads of the vault through a way that fails."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from connectors.faults import Action, Fault, FaultProxy, When
from pam_jobs.errors import VaultUnavailable
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter
from workers.identity import bind, load
from workers.scan import scan
from workers.vault import SdkVault

pytestmark = pytest.mark.integration


def test_open_and_closed_ports_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        open_port, closed_port = listener.getsockname()[1], idle.getsockname()[1]
        result = scan(["127.0.0.1", "127.0.0.2"], [open_port, closed_port], in_flight=2)
    assert ("127.0.0.1", open_port) in result.open
    assert len(result.open) + result.closed + result.silent + result.failed == 4
    assert result.closed >= 1


def test_a_scan_can_be_ended_early() -> None:
    addresses = [f"127.0.{third}.{last}" for third in range(40) for last in range(1, 200)]
    result = scan(addresses, [1], timeout_seconds=0.2, between=lambda: False)
    assert result.skipped > 0
    assert result.skipped + result.closed + result.silent + result.failed == len(addresses)


def test_a_read_that_was_cut_off_is_made_again(sqlite_router: RunningRouter, tmp_path: Path) -> None:
    site = GatewaySite(sqlite_router, tmp_path)
    uid = site.add_user("app", "A-Secret-1")
    site.engine()  # binds
    port = int(sqlite_router.url.rsplit(":", 1)[1])
    with FaultProxy("127.0.0.1", port) as proxy:
        storage = load(site.config_path, {}).storage
        values = {**storage.read_storage(), "hostname": f"localhost:{proxy.port}"}
        storage.save_storage(values)
        vault = SdkVault(storage, sqlite_router.tls.ca, patience_seconds=20)
        vault.fetch([uid])
        proxy.arm(Fault(action=Action.CUT, when=When.REQUEST_SENT))
        found = vault.fetch([uid])[uid]
        assert found.record.login == "app"
        proxy.arm(Fault(action=Action.CUT, when=When.CONNECTED, times=None))
        proxy.arm(Fault(action=Action.CUT, when=When.REQUEST_SENT, times=None))
        impatient = SdkVault(storage, sqlite_router.tls.ca, patience_seconds=0.5)
        with pytest.raises(VaultUnavailable):
            impatient.fetch([uid])


def test_a_bind_whose_answer_was_lost_is_repeated_with_the_same_device(
    sqlite_router: RunningRouter, tmp_path: Path
) -> None:
    site = GatewaySite(sqlite_router, tmp_path)
    port = int(sqlite_router.url.rsplit(":", 1)[1])
    with FaultProxy("127.0.0.1", port) as proxy:
        identity = load(site.config_path, {})
        identity.storage.save_storage({**identity.storage.read_storage(), "hostname": f"localhost:{proxy.port}"})
        vault = SdkVault(identity.storage, sqlite_router.tls.ca, patience_seconds=20)
        proxy.arm(Fault(action=Action.CUT, when=When.ANSWER_RECEIVED, after_bytes=4000))
        bind(identity, vault.greet)
        assert identity.is_bound
        assert "clientKey" not in site.config_path.read_text()


def test_a_used_token_is_refused_and_the_file_stays(sqlite_router: RunningRouter, tmp_path: Path) -> None:
    site = GatewaySite(sqlite_router, tmp_path)
    first = site.config_path.read_text()
    site.engine()
    site.config_path.write_text(first)
    from pam_jobs.errors import ConfigurationError

    identity = load(site.config_path, {})
    vault = SdkVault(identity.storage, sqlite_router.tls.ca)
    with pytest.raises(ConfigurationError, match="one-time token"):
        bind(identity, vault.greet)
    assert site.config_path.exists()


def test_a_record_that_is_not_shared_is_not_there(sqlite_router: RunningRouter, tmp_path: Path) -> None:
    site = GatewaySite(sqlite_router, tmp_path)
    elsewhere = sqlite_router.operator.record(sqlite_router.operator.folder("other"), "title", login="x")
    identity = load(site.config_path, {})
    vault = SdkVault(identity.storage, sqlite_router.tls.ca)
    bind(identity, vault.greet)
    assert vault.fetch([elsewhere]) == {}
    assert vault.fetch([]) == {}

from __future__ import annotations

import shutil

import pytest

from deploy import system

pytestmark = pytest.mark.unit


def test_nothing_is_installed_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "needed", lambda _purpose: [])
    assert system.main(["test"]) == 0


def test_what_is_missing_is_named_exactly_where_it_may_not_be_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setenv("PAM_NO_APT", "1")
    assert system.main(["test"]) == 1
    told = capsys.readouterr().err
    for package in (
        "openssh-server",
        "sudo",
        "mariadb-server",
        "redis-server",
        "rabbitmq-server",
        "pgbouncer",
        "rsyslog",
        "nodejs",
        "npm",
    ):
        assert f" {package}" in told
    assert "PAM_NO_APT" in told


def test_the_demo_needs_less_than_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert set(system.needed("demo")) < set(system.needed("test"))
    assert "redis-server" not in system.needed("demo")  # the broker of `pam up` comes from a wheel

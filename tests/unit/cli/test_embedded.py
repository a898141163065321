"""The parts of embedded mode that need no running system."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pam_jobs.cli.embedded import broker, plan
from pam_jobs.cli.embedded.processes import Child, Spec, is_alive, start_time, stop_strangers
from pam_jobs.cli.embedded.state import DataFolder, Lock, Settings, free_port
from pam_jobs.db.migrate import upgrade
from pam_jobs.errors import ConfigurationError, StateError

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    data = DataFolder(tmp_path / "data")
    data.prepare()
    return data


def child(folder: DataFolder, code: str, **options: float) -> Child:
    spec = Spec(name="test", argv=[sys.executable, "-c", code], environment={"ONLY": "this"}, **options)
    return Child(spec=spec, log=folder.logs / "test.log", folder=folder.path)


def test_the_folder_is_made_for_its_owner_alone(folder: DataFolder) -> None:
    for path in (folder.path, folder.logs, folder.run, folder.broker):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    tmp_path.chmod(0o755)

    with pytest.raises(ConfigurationError, match="something else"):
        DataFolder(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / ("x" * 90))
    data.prepare()

    assert len(str(data.broker_socket)) < 100
    assert data.broker_socket != DataFolder(tmp_path / ("y" * 90)).broker_socket
    assert stat.S_IMODE(data.broker_socket.parent.stat().st_mode) == 0o700
    data.broker_socket.parent.rmdir()


def test_the_database_is_in_the_folder_whatever_its_name(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "50%20 of ours? #1")
    data.prepare()
    upgrade(data.database_url)

    assert data.database.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [data.path.name]


def test_one_supervisor_holds_the_lock(folder: DataFolder) -> None:
    first, second = Lock(folder), Lock(folder)
    first.take()
    with pytest.raises(StateError, match="running already"):
        second.take()
    assert not second.is_free()

    first.release()

    assert second.is_free()
    second.take()
    second.release()


def test_ports_are_kept_from_start_to_start(folder: DataFolder) -> None:
    first = Settings.choose(folder, None, None)

    assert Settings.choose(folder, None, None) == first
    assert first.port != first.flower_port
    other = free_port(avoid=first.port)
    assert Settings.choose(folder, other, None).port == other


def test_the_broker_has_no_tcp_port(folder: DataFolder) -> None:
    server, settings = broker.arguments(folder)
    lines = Path(settings).read_text().splitlines()

    assert os.access(server, os.X_OK)
    for line in ("port 0", "appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"):
        assert line in lines
    assert not broker.answers(folder)


def test_children_are_told_nothing_of_the_operators_own(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAM_PASSPHRASE", "AWS_SECRET_ACCESS_KEY", "PAM_LEASE_SECONDS", "PAM_JOB_SECONDS"):
        monkeypatch.setenv(name, "33")
    specs = plan.specs(folder, Settings(port=1, flower_port=2), "flower's password")

    assert list(plan.START_ORDER) == list(specs)
    for spec in specs.values():
        assert not {"PAM_PASSPHRASE", "AWS_SECRET_ACCESS_KEY"} & set(spec.environment)
        assert not any("flower's password" in part for part in spec.argv)
        assert ("PAM_DATABASE_URL" in spec.environment) is (spec.name in {"router", "control", "beat"})
        assert ("PAM_JOB_SECONDS" in spec.environment) is (spec.name == "gateway")
        assert "flower's password" not in repr(spec)


def test_a_child_has_its_own_group_environment_and_log(folder: DataFolder) -> None:
    code = "import os, sys, time; print(sorted(os.environ)); sys.stdout.flush(); time.sleep(60)"
    process = child(folder, code)
    process.start()
    end = time.monotonic() + 20
    while not process.tail() and time.monotonic() < end:
        time.sleep(0.02)

    assert "'ONLY'" in process.tail()
    assert "'PATH'" not in process.tail()
    assert os.getpgid(process.pid) == process.pid
    assert stat.S_IMODE(process.log.stat().st_mode) == 0o600
    process.ask_to_stop()
    process.wait()
    assert not is_alive(process.pid, process.started)


def test_a_child_that_dies_is_started_again_after_a_pause(folder: DataFolder) -> None:
    process = child(folder, "raise SystemExit(3)")
    process.start()
    states = []
    end = time.monotonic() + 20
    while process.restarts < 2 and time.monotonic() < end:
        if process.check():
            states.append(process.state)
        time.sleep(0.02)

    assert states[:4] == ["restarting", "running", "restarting", "running"]
    process.ask_to_stop()
    process.wait()
    assert process.describe()["state"] == "stopped"


def test_a_child_that_will_not_stop_is_made_to(folder: DataFolder) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    process = child(folder, code, stop_seconds=0.3)
    process.start()
    end = time.monotonic() + 20
    while "on" not in process.tail() and time.monotonic() < end:
        time.sleep(0.02)

    process.ask_to_stop()
    process.wait()

    assert process.exit_code == -9


def test_a_log_is_bounded(folder: DataFolder) -> None:
    process = child(folder, "pass")
    process.log.write_bytes(b"x" * 5_000_001)

    process.bound_log()

    assert process.log.stat().st_size == 0
    assert process.log.with_suffix(".log.1").stat().st_size == 5_000_001


def test_strangers_are_stopped_only_when_they_are_who_we_think() -> None:
    ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    started = start_time(ours.pid)
    try:
        assert stop_strangers([(ours.pid, started + 1)]) == 0
        assert is_alive(ours.pid, started)
        assert stop_strangers([(ours.pid, started)]) == 1
        assert not is_alive(ours.pid, started)
    finally:
        ours.kill()
        ours.wait()

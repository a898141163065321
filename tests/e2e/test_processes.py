"""Embedded mode as processes: one at a time a folder, each restarted when killed, all stopped together."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pam_jobs.cli.embedded.processes import is_alive, start_time
from tests.support.embedded import PAM, Embedded, eventually, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with running(tmp_path_factory.mktemp("up") / "data") as embedded:
        yield embedded


def is_online(system: Embedded) -> bool:
    done = system.pam("gateway", "list", "--format", "json", "--online", code=None)
    return done.returncode == 0 and '"ONLINE' in done.stdout


def test_a_second_up_on_the_same_folder_is_refused(system: Embedded) -> None:
    for command in (["up"], ["up", "--detach"]):
        sentence = system.refused(*command)
        assert "running already" in sentence
        assert "pam down" in sentence


def test_the_data_folder_is_the_owners_alone(system: Embedded) -> None:
    for path in (system.folder, *system.folder.rglob("*")):
        if not path.is_symlink():
            assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


def test_processes_are_told_only_what_they_need(system: Embedded) -> None:
    def environment(name: str) -> str:
        return Path(f"/proc/{system.pid(name)}/environ").read_text()

    assert "PAM_DATABASE_URL" in environment("router")
    assert "PAM_DATABASE_URL" not in environment("gateway")
    assert "gateway-config" not in environment("router")
    for entry in system.status()["processes"]:
        assert "PAM_PASSPHRASE" not in environment(entry["name"]), entry["name"]
        assert system.passphrase not in Path(f"/proc/{entry['pid']}/cmdline").read_text()
        assert os.getsid(entry["pid"]) == entry["pid"], "each leads a session of its own"
    password = Path(system.status()["flower_password_file"]).read_text().strip()
    assert password not in Path(f"/proc/{system.pid('flower')}/cmdline").read_text()


@pytest.mark.parametrize("name", ["flower", "beat", "control", "gateway", "router", "broker"])
def test_a_killed_process_is_started_again(system: Embedded, name: str) -> None:
    killed = system.kill(name)

    eventually(lambda: system.pid(name) not in {None, killed}, f"{name} runs again")
    eventually(lambda: is_online(system), "the gateway is online", 90)

    status = system.status()
    assert next(entry["restarts"] for entry in status["processes"] if entry["name"] == name) >= 1
    with system.flower() as flower:
        eventually(lambda: flower.get("/healthcheck").is_success, "Flower answers")


def test_a_killed_supervisor_leaves_nothing_and_the_next_up_goes_on(system: Embedded) -> None:
    before = system.status()
    children = [(entry["pid"], start_time(entry["pid"])) for entry in before["processes"]]
    folders = system.json("folder", "new", "Kept")["uid"]

    system.kill("supervisor")
    eventually(lambda: not any(is_alive(*child) for child in children), "the children notice", 40)
    stopped = system.json("status", code=3)
    assert {entry["state"] for entry in stopped["processes"]} == {"stopped"}
    system.up()

    after = system.status()
    assert (after["router"], after["flower"]) == (before["router"], before["flower"])
    assert folders in [entry["uid"] for entry in system.json("folder", "list")["folders"]]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Embedded, str]]:
    """A system that was started without a passphrase, and what its start said."""
    system = Embedded(folder=tmp_path_factory.mktemp("begun") / "data")
    try:
        yield system, system.pam("up", "--detach").stderr
    finally:
        system.pam("down", code=None)


def test_a_generated_passphrase_signs_in_again(begun: tuple[Embedded, str]) -> None:
    system, said = begun
    file = system.folder / "client" / "passphrase"
    assert str(file) in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    words = file.read_text().strip()
    system.pam("logout")
    assert "pam login" in system.refused("record", "list")
    system.pam("login", PAM_PASSPHRASE=words)
    assert system.json("whoami")["role"] == "admin"


def test_down_stops_everything_and_again_is_harmless(begun: tuple[Embedded, str]) -> None:
    system, _ = begun  # the last that is done with it
    children = [(entry["pid"], start_time(entry["pid"])) for entry in system.status()["processes"]]

    system.down()

    assert not any(is_alive(*child) for child in children)
    assert "nothing runs" in system.pam("down").stderr
    assert "cannot be reached" in system.refused("record", "list")


def test_ctrl_c_in_the_foreground_stops_everything_with_exit_code_0(tmp_path: Path) -> None:
    system = Embedded(folder=tmp_path / "data")
    process = subprocess.Popen(
        [PAM, "up"], env=system.variables() | {"PAM_PASSPHRASE": system.passphrase}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        eventually(lambda: system.folder.exists() and _phase(system) == "ready", "ready", 120)
        children = [(entry["pid"], start_time(entry["pid"])) for entry in system.status()["processes"]]

        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == 0, said
    assert time.monotonic() - begin < 40
    assert "ready" in said
    assert not any(is_alive(*child) for child in children)


def _phase(system: Embedded) -> str | None:
    done = system.pam("status", "--format", "json", code=None)
    return "ready" if '"phase": "ready"' in done.stdout else None


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    system = Embedded(folder=folder)

    assert "chmod 700" in system.refused("up", "--detach")
    assert list(folder.iterdir()) == []


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is used" in Embedded(folder=tmp_path / "data").refused("up", "--port", str(port))


def test_status_before_the_first_start_says_so(tmp_path: Path) -> None:
    assert "pam up" in Embedded(folder=tmp_path / "data").refused("status")

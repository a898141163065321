"""The lab as a whole: side by side in one folder, twice on a machine, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.lab import LabError, site
from deploy.lab.__main__ import main
from deploy.lab.processes import Process, port_is_open
from deploy.lab.targets import TARGETS, LabTarget

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

QUICK = ("redis", "windows")  # one that is a program, one whose servers are threads of a process of ours


@pytest.fixture
def folder(tmp_path: Path):
    yield tmp_path / "lab"
    site.down(tmp_path / "lab")


def processes(folder: Path) -> list[Process]:
    lines = [line for path in folder.glob("*/started.jsonl") for line in path.read_text().splitlines()]
    return [Process(**json.loads(line)["process"]) for line in lines if "process" in line]


def test_two_labs_live_side_by_side_and_only_their_own_processes_are_stopped(
    folder: Path, tmp_path: Path, capsys
) -> None:
    other = tmp_path / "other"
    assert main(["up", str(folder), *QUICK]) == 0
    table = capsys.readouterr().out
    try:
        assert main(["up", str(other), "redis", "--format", "json"]) == 0
        (second,) = json.loads(capsys.readouterr().out)
        assert (second["kind"], second["state"]) == ("real", "up")
        for name, kind in zip(QUICK, ("real", "emulated"), strict=True):
            told = folder / name / "credentials.json"
            assert told.stat().st_mode & 0o777 == 0o600
            server = json.loads(told.read_text())
            assert port_is_open(server["host"], server["port"])
            assert kind in table
            assert str(told) in table
            assert server["admin_password"] not in table
        assert main(["up", str(folder), "redis"]) == 1
        assert "make lab-down" in capsys.readouterr().err
        mine, others = processes(folder), processes(other)
        assert len(mine) == 2
        assert main(["down", str(folder)]) == 0
        assert not folder.exists()
        assert not any(process.is_running for process in mine)
        assert all(process.is_running for process in others)
    finally:
        site.down(other)


def test_a_lab_that_is_ended_while_it_starts_leaves_nothing(folder: Path) -> None:
    argv = [sys.executable, "-m", "deploy.lab", "up", str(folder), "redis", "mssql", "windows"]
    for number in (signal.SIGTERM, signal.SIGKILL):
        child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while not processes(folder) and time.monotonic() < end:
            time.sleep(0.02)
        started = processes(folder)
        assert started
        os.kill(child.pid, number)
        child.wait(30)
        started += processes(folder)
        if number is signal.SIGKILL:
            site.down(folder)
        assert not any(process.is_running for process in started)
        assert not list(folder.glob("*/started.jsonl"))


def test_a_target_that_does_not_start_is_cleaned_up_and_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.lab.redis.programs", lambda: ["/bin/false"])
    (redis,) = site.chosen(["redis"])
    left_out = LabTarget(name="ssh", module="sshd", product="x")
    monkeypatch.setattr("deploy.lab.sshd.obstacles", lambda: ["this machine is too small"])
    outcomes = [outcome.as_json() for outcome in site.up(folder, (redis, left_out))]
    assert [(each["state"], bool(each["reason"])) for each in outcomes] == [("failed", True), ("left out", True)]
    assert not (folder / "redis").exists()


def test_names_are_the_folders_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    with pytest.raises(LabError, match="choose from"):
        site.chosen(["postgres-of-the-neighbour"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary").touch()
    site.down(tmp_path / "mine")
    assert (tmp_path / "mine" / "diary").exists()

"""The command tree itself, without a router."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pam_jobs.cli import common
from pam_jobs.cli.job import is_ok
from pam_jobs.cli.main import app
from pam_jobs.errors import PamJobsError

pytestmark = pytest.mark.unit

TREE = {
    "folder": {"new", "list", "remove"},
    "record": {"add", "get", "list", "update", "delete", "attach", "download"},
    "app": {"new", "list", "share", "unshare", "remove", "client"},
    "gateway": {"list", "new", "edit", "remove", "set-max-instances", "start"},
    "calendar": {"edit", "list", "new", "remove"},
    "config": {"list", "new", "edit", "remove"},
    "rotation": {"edit", "list", "info", "remove", "script"},
    "action": {"rotate", "verify", "reconcile", "job-info", "job-cancel", "gateway-info", "discover", "service"},
    "job": {"list", "watch", "explain"},
    "schedule": {"list", "pause", "preview", "resume"},
    "user": {"add", "list"},
    "token": {"new", "list", "remove"},
    "passphrase": {"change"},
}


@pytest.mark.parametrize("group", sorted(TREE))
def test_every_group_has_its_commands_and_help(group: str) -> None:
    shown = CliRunner().invoke(app, [group, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})

    assert shown.exit_code == 0
    for command in TREE[group]:
        assert f" {command} " in shown.output


def test_the_top_level_names_the_first_step() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})

    assert "Begin with pam up" in shown.output
    for command in (
        "up",
        "down",
        "status",
        "login",
        "logout",
        "whoami",
        "prove",
        "router",
        "beat",
        "control",
        "flower",
    ):
        assert f" {command} " in shown.output


def test_tables_in_a_pipe_are_not_cut_and_not_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)

    common.print_table(["Record UID", "Title"], [("AAAAAAAAAAAAAAAAAAAAAA", "x" * 300), ("B", "[red]no markup[/red]")])

    lines = out.getvalue().splitlines()
    assert lines[1] == f"AAAAAAAAAAAAAAAAAAAAAA  {'x' * 300}"
    assert lines[2].endswith("[red]no markup[/red]")
    assert "\x1b" not in out.getvalue()


def test_an_empty_table_leaves_standard_output_empty(capsys: pytest.CaptureFixture[str]) -> None:
    common.print_table(["A"], [], empty="nothing is here")

    caught = capsys.readouterr()
    assert (caught.out, caught.err) == ("", "nothing is here\n")


def test_json_is_one_document_with_instants_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    common.print_json({"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "name": "ü"})

    assert json.loads(capsys.readouterr().out) == {"at": "2026-01-02T03:04:05Z", "name": "ü"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_ages_are_told_in_one_unit(seconds: int, text: str) -> None:
    now = datetime(2026, 1, 10, tzinfo=UTC)

    assert common.age(datetime.fromtimestamp(now.timestamp() - seconds, UTC), now) == text
    assert common.age(None) is None


def commands(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    for name, command in getattr(found, "commands", {}).items():
        if getattr(command, "commands", None):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), {option for parameter in command.params for option in parameter.opts}


def test_every_command_that_ends_takes_a_format() -> None:
    without = {name for name, options in commands(typer.main.get_command(app)) if "--format" not in options}

    assert without == {"router", "beat", "control", "flower", "gateway start"}


@pytest.mark.parametrize(
    ("short", "words"),
    [
        (["g", "l"], "List gateways"),
        (["g", "smi"], "how many instances"),
        (["gateway", "rm"], "Remove a gateway"),
        (["c", "n"], "Create a configuration"),
        (["r", "i"], "ready to be rotated"),
        (["a", "ji"], "Show a job"),
        (["a", "jc"], "Cancel a job"),
        (["a", "d", "st"], "discover"),
    ],
)
def test_short_names_lead_to_their_commands(short: list[str], words: str) -> None:
    shown = CliRunner().invoke(app, [*short, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})

    assert shown.exit_code == 0
    assert words.casefold() in shown.output.casefold()


@pytest.mark.parametrize("group", [["gateway"], ["config"], ["rotation"], ["action", "discover"]])
def test_a_group_alone_shows_what_there_is(group: list[str], tmp_path: Path) -> None:
    alone = CliRunner().invoke(app, group, env={"PAM_DATA_DIR": str(tmp_path), "COLUMNS": "200"})

    assert isinstance(alone.exception, PamJobsError)  # it asked the router, and none is known here
    assert "Usage" not in alone.output


@pytest.mark.parametrize(
    ("state", "status", "cause", "is_good"),
    [
        ("succeeded", "ok", None, True),
        ("succeeded", "skipped", None, True),  # NOOP: its scripts ran
        ("succeeded", "skipped", "managed", False),
        ("failed", "ok", "scripts_failed", False),
        ("failed", "skipped", "scripts_failed", False),
        ("failed", "failed", "drift", False),
        ("queued", None, None, False),
    ],
)
def test_a_job_is_ok_when_the_rotation_and_every_script_are(
    state: str, status: str | None, cause: str | None, is_good: bool
) -> None:
    assert is_ok({"state": state, "status": status, "cause": cause}) is is_good

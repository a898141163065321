"""The command tree itself, without a router."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from pam_jobs.cli import common
from pam_jobs.cli.main import app

pytestmark = pytest.mark.unit

TREE = {
    "folder": {"new", "list", "remove"},
    "record": {"add", "get", "list", "update", "delete", "attach", "download"},
    "app": {"new", "list", "share", "unshare", "remove", "client"},
    "gateway": {"list", "new", "edit", "remove", "set-max-instances", "start"},
    "config": {"list", "new", "edit", "remove"},
    "rotation": {"edit", "list", "info", "remove", "script"},
    "action": {"rotate", "verify", "reconcile", "job-info", "job-cancel", "gateway-info", "discover"},
    "job": {"list", "watch", "explain"},
    "schedule": {"list", "preview"},
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

"""``pam schedule``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pam_jobs.cli.common import Format, FormatOption, emit, group, note, print_table, vault, when
from pam_jobs.cli.job import titles

app = group("Schedules: what runs by itself, and when.")


def _subject(row: dict[str, Any], names: dict[str, str]) -> str | None:
    uid = row.get("record_uid") or row.get("subject_uid") or row.get("configuration_uid")
    return names.get(str(uid), uid)


@app.command("list")
def list_(style: FormatOption = Format.TABLE) -> None:
    """List the schedules and their next runs."""
    with vault() as client:
        rows = client.pam.schedules()
        names = titles(client)
    emit(
        style,
        {"schedules": rows},
        lambda: print_table(
            ["Of", "Kind", "Schedule", "Next run", "Last due", "Held back by"],
            [
                (
                    _subject(row, names),
                    row["kind"],
                    row["description"],
                    "paused" if row["paused"] else when(row["next_run_at"]),
                    when(row["last_due_at"]),
                    row.get("blocked"),
                )
                for row in rows
            ],
            empty="nothing is scheduled; set it with `pam rotation edit -sc`",
        ),
    )  # fmt: skip


@app.command("preview")
def preview(
    days: Annotated[int, typer.Option("--days", "-d", min=1, max=400, help="How far to look ahead.")] = 7,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show the coming runs, by the rules that beat goes by."""
    with vault() as client:
        answer = client.pam.preview(days)
        names = titles(client)
    rows = answer.get("runs") or []

    def table() -> None:
        print_table(
            ["When", "Kind", "Of"],
            [(when(row["due_at"]), row.get("kind"), _subject(row, names)) for row in rows],
            empty=f"nothing runs in the next {days} days",
        )
        if not answer.get("complete", True):
            note("there are more runs than are shown; look at fewer days")

    emit(style, answer, table)

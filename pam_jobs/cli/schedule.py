"""``pam schedule``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from pam_jobs.cli.common import Format, FormatOption, emit, group, note, print_table, vault, when
from pam_jobs.cli.job import titles
from pam_jobs.errors import InvalidInput

app = group("Schedules: what runs by itself, and when.")


def from_cron(expressions: Iterable[str], timezone: str) -> list[dict[str, Any]]:
    """Return the schedule list of cron expressions."""
    return [{"type": "CRON", "cron": expression, "tz": timezone} for expression in expressions]


def from_json(text: str) -> list[dict[str, Any]]:
    """Return the schedule list of a JSON object or list; a single ON_DEMAND is the empty list.

    Raises:
        InvalidInput: it is neither.
    """
    try:
        value = json.loads(text)
    except ValueError:
        raise InvalidInput(
            "the schedule is not valid JSON", remedy='write it as {"type":"DAILY","time":"02:30:00"}'
        ) from None
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, dict) for part in parts):
        raise InvalidInput("the schedule is no JSON object", remedy='write it as {"type":"DAILY","time":"02:30:00"}')
    return [part for part in parts if part.get("type") != "ON_DEMAND"] if len(parts) == 1 else parts


def from_texts(texts: Iterable[str], timezone: str) -> list[dict[str, Any]]:
    """Return the schedule list of texts that are cron expressions or JSON, checked; an empty text is on demand.

    Raises:
        InvalidInput: a text is neither, or never comes due.
    """
    from datetime import UTC, datetime

    from pam_jobs.records.schedule import parse_schedule

    items = [
        item
        for text in map(str.strip, texts)
        if text
        for item in (from_json(text) if text[0] in "{[" else from_cron([text], timezone))
    ]
    parse_schedule(items, now=datetime.now(UTC))
    return items


def schedule_text(schedule: list[dict[str, Any]], *, inherits: bool, manual: str = "[Manual Rotation]") -> str:
    """Return a schedule as people read it.

    Args:
        schedule: the JSON list.
        inherits: it is the configuration's that counts.
        manual: what is said of an empty one.
    """
    from pam_jobs.records.schedule import parse_schedule

    if inherits:
        return "[Configuration's default]"
    parsed = parse_schedule(schedule)
    return manual if parsed.is_manual else parsed.describe()


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

"""``pam schedule``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import Format, FormatOption, done, emit, group, note, print_table, vault, when
from pam_jobs.cli.job import titles
from pam_jobs.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from pam_jobs.client.vault import VaultClient


class Kind(StrEnum):
    """What a schedule runs."""

    ALL = "all"
    ROTATE = "rotate"
    VERIFY = "verify"


_MOST_ROWS = 40  # of each table for people; JSON has all

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
                    "; ".join(row["reasons"]) or None,
                )
                for row in rows
            ],
            empty="nothing is scheduled; set it with `pam rotation edit -sc`",
        ),
    )  # fmt: skip


ScheduleArgument = Annotated[str | None, typer.Argument(help="UID of the schedule, from `pam schedule list`.")]
RecordOption = Annotated[
    str | None, typer.Option("--record-uid", "--record", "-r", help="UID or title: the schedules of this record.")
]
KindOption = Annotated[Kind, typer.Option("--kind", "-k", help="Which of the record's schedules.")]
ConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", help="UID or title: every schedule of this configuration.")
]


@app.command("pause")
def pause(
    schedule: ScheduleArgument = None,
    record: RecordOption = None,
    kind: KindOption = Kind.ALL,
    config: ConfigOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Keep schedules from making jobs; what waits already, and what runs on demand, goes on."""
    _set_paused(schedule, record, kind, config, style, paused=True)


@app.command("resume")
def resume(
    schedule: ScheduleArgument = None,
    record: RecordOption = None,
    kind: KindOption = Kind.ALL,
    config: ConfigOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Let schedules make jobs again, from their next runs on; what they missed is not made up for."""
    _set_paused(schedule, record, kind, config, style, paused=False)


def _set_paused(
    schedule: str | None, record: str | None, kind: Kind, config: str | None, style: Format, *, paused: bool
) -> None:
    if sum(given is not None for given in (schedule, record, config)) != 1:
        raise InvalidInput(
            "it is not clear which schedules are meant", remedy="give one of SCHEDULE, --record-uid and --config"
        )
    word = "paused" if paused else "resumed"
    with vault() as client:
        if config is not None:
            found = client.pam.find_configuration(config)
            client.pam.set_configuration_paused(found.uid, paused=paused)
            done({"configuration_uid": found.uid, "paused": paused}, f"{word} the schedules of {found.title}", style)
            return
        uids = [schedule] if schedule is not None else _uids_of(client, str(record), kind)
        rows = [client.pam.set_schedule_paused(uid, paused=paused) for uid in uids]
    several = f"{len(rows)} schedules" if len(rows) > 1 else "the schedule"
    done({"schedules": rows}, "; ".join([f"{word} {several}", *(why for row in rows for why in row["reasons"])]), style)


def _uids_of(client: VaultClient, record: str, kind: Kind) -> list[str]:
    found = client.records.find(record)
    uids = [
        row["uid"]
        for row in client.pam.schedules()
        if row["record_uid"] == found.uid and kind in {Kind.ALL, row["kind"]}
    ]
    if not uids:
        raise NotFound(
            f"nothing of the record {found.title} runs by itself", remedy="set a schedule with `pam rotation edit -sc`"
        )
    return uids


@app.command("preview")
def preview(
    days: Annotated[int, typer.Option("--days", "-d", min=1, max=400, help="How far to look ahead.")] = 7,
    max_age: Annotated[
        float | None, typer.Option("--max-age", min=0.01, max=3650, help="Days after which a credential is too old.")
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show the coming runs, the load, collisions, what calendars move and what is not rotated as it should be."""
    with vault() as client:
        answer = client.pam.preview(days, max_age_days=max_age)
        names = titles(client)
        names |= {row["uid"]: row["name"] for row in [*client.pam.gateways(), *client.pam.calendars()]}
    emit(style, answer, lambda: _print_preview(answer, names, days))


def _print_preview(answer: dict[str, Any], names: dict[str, str], days: int) -> None:
    rows, report = answer["runs"], answer["report"]
    print_table(
        ["When", "Kind", "Of"],
        [(when(row["due_at"]), row["kind"], _subject(row, names)) for row in rows[:_MOST_ROWS]],
        empty=f"nothing runs in the next {days} days",
    )
    if report["runs"] > _MOST_ROWS:
        note(f"{report['runs']} runs in the next {days} days; the first {_MOST_ROWS} are shown")
    busiest = sorted(report["load"], key=lambda row: (-row["runs"], row["hour"]))[:_MOST_ROWS]
    _section(
        f"Load, of {len(report['load'])} hours with runs the busiest",
        ["Hour", "Gateway", "Runs"],
        [(when(row["hour"]), names.get(row["gateway_uid"], row["gateway_uid"]), row["runs"]) for row in busiest],
    )
    _section(
        f"{report['collision_count']} collisions: runs that begin in the same minute on one target",
        ["When", "Target", "Runs"],
        [
            (when(row["at"]), names.get(row["resource_uid"], row["resource_uid"]), len(row["schedule_uids"]))
            for row in report["collisions"][:_MOST_ROWS]
        ],
    )
    _section(
        f"{report['moved_count']} runs that a window or a blackout moves",
        ["Planned", "Begins", "Calendar", "Kind", "Of"],
        [
            (
                when(row["planned_at"]),
                when(row["due_at"]),
                names.get(row["moved_by"], row["moved_by"]),
                row["kind"],
                _subject(row, names),
            )
            for row in report["moved"][:_MOST_ROWS]
        ],
    )
    _section(
        f"{len(report['misses'])} records that are not rotated as they should be",
        ["Record", "Why", "Too old at"],
        [(_subject(row, names), row["code"], when(row["at"])) for row in report["misses"][:_MOST_ROWS]],
    )
    if not report["complete"]:
        note("there are more runs than were looked at; look at fewer days")


def _section(title: str, columns: list[str], rows: list[tuple[object, ...]]) -> None:
    if rows:
        note(title)
        print_table(columns, rows, empty="")

"""``pam calendar``."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from pam_jobs.cli.common import Format, FormatOption, confirm, created, done, emit, group, print_table, vault
from pam_jobs.errors import InvalidInput

__all__ = ["app", "cron_period", "once_period", "weekly_period"]

app = group("Calendars: periods of time that configurations use as windows or blackouts.")

_DAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
_SHORTEST = 3  # letters of a day's name
_UNITS = {"m": 1, "h": 60, "d": 1440}

CalendarArgument = Annotated[str, typer.Argument(help="UID or name of the calendar.")]
ZoneOption = Annotated[str | None, typer.Option("--timezone", "-tz", help="IANA time zone of its periods.")]
WeeklyOption = Annotated[
    list[str] | None,
    typer.Option("--weekly", "-w", help='Days and times, as "MON-FRI 22:00-06:00" or "SAT,SUN 00:00-24:00"; repeat.'),
]
CronOption = Annotated[
    list[str] | None, typer.Option("--cron", help='When each begins and how long it lasts, as "0 0 20 L * ? for 6h".')
]
OnceOption = Annotated[
    list[str] | None, typer.Option("--once", "-o", help='As "2026-12-24T12:00 to 2026-12-27T00:00"; repeat.')
]


def weekly_period(text: str) -> dict[str, Any]:
    """Return the period that days and times such as ``MON-FRI 22:00-06:00`` stand for.

    Raises:
        InvalidInput: the text has another form.
    """
    match = re.fullmatch(r"([A-Za-z,-]+)\s+(\d\d:\d\d)-(\d\d:\d\d)", text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is not a weekly period", remedy='write it as "MON-FRI 22:00-06:00"')
    days = [day for part in match[1].split(",") for day in _range(part)]
    return {"type": "WEEKLY", "weekdays": days, "from": match[2], "to": match[3]}


def cron_period(text: str) -> dict[str, Any]:
    """Return the period that a cron expression and a length such as ``0 0 20 L * ? for 6h`` stand for.

    Raises:
        InvalidInput: the text has another form.
    """
    match = re.fullmatch(r"(.+)\s+for\s+(\d{1,6})([mhd])", text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is not a period by cron", remedy='write it as "0 22 * * 5 for 8h"')
    return {"type": "CRON", "cron": match[1].strip(), "minutes": int(match[2]) * _UNITS[match[3]]}


def once_period(text: str) -> dict[str, Any]:
    """Return the period that two times such as ``2026-12-24T12:00 to 2026-12-27T00:00`` stand for.

    Raises:
        InvalidInput: the text has another form.
    """
    start, separator, end = text.partition(" to ")
    if not separator:
        raise InvalidInput(
            f"{text!r} is not a single period", remedy='write it as "2026-12-24T12:00 to 2026-12-27T00:00"'
        )
    return {"type": "ONCE", "from": start.strip(), "to": end.strip()}


def _range(text: str) -> list[str]:
    first, separator, last = text.partition("-")
    start, end = _day(first), _day(last) if separator else _day(first)
    return [_DAYS[(start + step) % 7] for step in range((end - start) % 7 + 1)]


def _day(text: str) -> int:
    found = [index for index, day in enumerate(_DAYS) if len(text) >= _SHORTEST and day.startswith(text.upper())]
    if len(found) != 1:
        raise InvalidInput(f"{text!r} is not a day of the week", remedy="write MON, TUE, WED, THU, FRI, SAT or SUN")
    return found[0]


def _periods(weekly: list[str] | None, cron: list[str] | None, once: list[str] | None) -> list[dict[str, Any]]:
    return [
        *(weekly_period(text) for text in weekly or []),
        *(cron_period(text) for text in cron or []),
        *(once_period(text) for text in once or []),
    ]


@app.command("list")
def list_(style: FormatOption = Format.TABLE) -> None:
    """List the calendars and how many configurations use each."""
    with vault() as client:
        rows = client.pam.calendars()
    emit(
        style,
        {"calendars": rows},
        lambda: print_table(
            ["Calendar UID", "Calendar", "Time zone", "Periods", "Used by"],
            [
                (
                    row["uid"],
                    row["name"],
                    row["tz"],
                    "; ".join(_words(period) for period in row["periods"]),
                    len(row["configurations"]),
                )
                for row in rows
            ],
            empty="there are no calendars; make one with `pam calendar new`",
        ),
    )


def _words(period: dict[str, Any]) -> str:
    match period["type"]:
        case "WEEKLY":
            return f"{','.join(day[:3] for day in period['weekdays'])} {period['from']}-{period['to']}"
        case "CRON":
            return f"{period['cron']} for {period['minutes']}m"
        case _:
            return f"{period['from']} to {period['to']}"


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Its name.")],
    weekly: WeeklyOption = None,
    cron: CronOption = None,
    once: OnceOption = None,
    timezone: ZoneOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Create a calendar; `pam config edit --window` or `--blackout` lets a configuration use it."""
    with vault() as client:
        made = client.pam.add_calendar(name, timezone or "Etc/UTC", _periods(weekly, cron, once))
    created({"uid": made["uid"]}, f"created the calendar {name}", style)


@app.command("edit")
def edit(
    calendar: CalendarArgument,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Its new name.")] = None,
    weekly: WeeklyOption = None,
    cron: CronOption = None,
    once: OnceOption = None,
    timezone: ZoneOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Change a calendar; periods that are given replace all it has."""
    changes: dict[str, Any] = {"name": name, "tz": timezone, "periods": _periods(weekly, cron, once) or None}
    with vault() as client:
        found = client.pam.find_calendar(calendar)
        client.pam.edit_calendar(found["uid"], **{key: value for key, value in changes.items() if value is not None})
    done({"uid": found["uid"]}, f"changed the calendar {name or found['name']}", style)


@app.command("remove")
def remove(
    calendar: CalendarArgument,
    force: Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Remove a calendar that no configuration uses."""
    with vault() as client:
        found = client.pam.find_calendar(calendar)
        confirm(f"Remove the calendar {found['name']}?", force=force)
        client.pam.remove_calendar(found["uid"])
    done({"uid": found["uid"]}, f"removed the calendar {found['name']}", style)

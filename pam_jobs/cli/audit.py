"""``pam audit``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from pam_jobs.cli.common import Format, FormatOption, done, emit, group, print_table, router, when
from pam_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from pam_jobs.client.http import RouterClient

app = group("The audit log: who did what, and how it ended.")

_PAGE = 1000
_SHOWN = frozenset(
    {
        "audit_event",
        "category",
        "timestamp",
        "username",
        "remote_address",
        "client_version",
        "enterprise_id",
        "event_uid",
        "position",
    }
)

EventOption = Annotated[str | None, typer.Option("--event-type", help="Only this event, such as record_add.")]
RecordOption = Annotated[str | None, typer.Option("--record-uid", help="Only events of this record.")]
UsernameOption = Annotated[str | None, typer.Option("--username", help="Only what this user or gateway did.")]
FromOption = Annotated[
    str | None, typer.Option("--from", help="From this instant on: 2025-01-31T12:00:00Z, a date (UTC), or 2h, 7d ago.")
]
ToOption = Annotated[str | None, typer.Option("--to", help="Before this instant, written as in --from.")]


@app.command("list")
def list_(
    event_type: EventOption = None,
    record_uid: RecordOption = None,
    username: UsernameOption = None,
    created_from: FromOption = None,
    created_to: ToOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=_PAGE, help="The newest so many events.")] = 50,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show the newest events that match, the oldest of them first."""
    answer = router().get(
        "/api/v1/audit/events",
        event=event_type,
        record_uid=record_uid,
        username=username,
        created_from=_instant(created_from),
        created_to=_instant(created_to),
        limit=limit,
        newest=True,
    )
    rows = [_row(event) for event in answer["events"]]
    emit(
        style,
        {"events": answer["events"]},
        lambda: print_table(["No", "Time", "Event", "Who", "About"], rows, empty="no event matches"),
    )


@app.command("export")
def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write (mode 0600); else standard output.")
    ] = None,
    event_type: EventOption = None,
    record_uid: RecordOption = None,
    username: UsernameOption = None,
    created_from: FromOption = None,
    created_to: ToOption = None,
    after_position: Annotated[int, typer.Option("--after-position", min=0, help="Leave out up to this one.")] = 0,
    style: FormatOption = Format.TABLE,
) -> None:
    """Write every event that matches as JSON lines, in the log's order.

    The same log gives the same bytes, so two exports may be compared.
    """
    filters = {
        "event": event_type,
        "record_uid": record_uid,
        "username": username,
        "created_from": _instant(created_from),
        "created_to": _instant(created_to),
    }
    events = _all(router(), filters, after_position)
    if output is None:
        _write(sys.stdout, events)
        return
    try:
        count = _to_file(output, events)
    except OSError as error:
        raise InvalidInput(f"{output} cannot be written: {error.strerror}", remedy="name another file") from error
    done({"events": count, "path": str(output)}, f"{count} events written to {output}", style)


def _all(client: RouterClient, filters: dict[str, Any], position: int) -> Iterator[dict[str, Any]]:
    after: int | None = position
    while after is not None:
        page = client.get("/api/v1/audit/events", after_position=after, limit=_PAGE, **filters)
        yield from page["events"]
        after = page["next_position"]


def _write(stream: TextIO, events: Iterator[dict[str, Any]]) -> int:
    count = 0
    for event in events:
        stream.write(json.dumps(event, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n")
        count += 1
    stream.flush()
    return count


def _to_file(output: Path, events: Iterator[dict[str, Any]]) -> int:
    # whole or not at all: an export that broke off must not look like one
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            count = _write(stream, events)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _row(event: dict[str, Any]) -> tuple[object, ...]:
    about = " ".join(f"{name}={value}" for name, value in sorted(event.items()) if name not in _SHOWN)
    return (event["position"], when(event["timestamp"]), event["audit_event"], event["username"], about)


def _instant(text: str | None) -> str | None:
    """Return ISO 8601 in UTC of what a person writes for an instant.

    Raises:
        InvalidInput: it is none.
    """
    if text is None:
        return None
    units = {"m": "minutes", "h": "hours", "d": "days"}
    try:
        if text[-1:] in units:
            ago = timedelta(**{units[text[-1]]: float(text[:-1])})
            return (datetime.now(UTC) - ago).isoformat()
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text!r} is not an instant", remedy="write 2025-01-31T12:00:00Z, 2025-01-31, or an age such as 2h or 7d"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()

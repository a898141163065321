"""What the command groups share: output as table or JSON, messages, and the signed-in client."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from pam_jobs.clock import stamp
from pam_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from pam_jobs.client.http import RouterClient
    from pam_jobs.client.vault import VaultClient

__all__ = [
    "Format",
    "FormatOption",
    "ResultFormatOption",
    "age",
    "confirm",
    "created",
    "done",
    "emit",
    "group",
    "is_interactive",
    "note",
    "print_json",
    "print_pairs",
    "print_table",
    "result_format",
    "router",
    "state_text",
    "vault",
    "when",
]


class Format(StrEnum):
    """How a command prints its result."""

    TABLE = "table"  # for people
    JSON = "json"  # for programs; alone on standard output


FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.", show_default=True)]
ResultFormatOption = Annotated[
    Format | None, typer.Option("--format", help="How to print the result; table on a terminal, else json.")
]

_WIDE = 4000
_UID_CHARACTERS = 22
_GOOD = {"ONLINE", "ok", "succeeded", "running", "current", "accepted", "enabled", "yes", "healthy"}
_BAD = {"OFFLINE", "failed", "refused", "dead", "abandoned", "rollback_refused", "out_of_sync"}
_WARN = {"unknown", "waiting_human", "rolled_back", "cancelled", "applying", "staged", "disabled", "skipped"}
_WARN |= {"partial", "unreachable", "locked", "unchecked"}


def group(text: str, *, short: Mapping[str, str] | None = None, alone: str | None = None) -> typer.Typer:
    """Return an empty command group.

    Args:
        text: what ``--help`` says of it.
        short: short names of its commands, such as ``{"l": "list"}``.
        alone: the command that runs when the group is typed alone; None shows the help.
    """
    names = dict(short or {})

    class Group(TyperGroup):
        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return super().get_command(ctx, names.get(cmd_name, cmd_name))

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, [alone] if alone and not args else args)

    told = [f"{name} = {command}" for name, command in names.items()] + ([f"alone: {alone}"] if alone else [])
    return typer.Typer(
        help=text,
        cls=Group,
        epilog=f"Short: {', '.join(told)}" if told else None,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )


def _out() -> Console:
    is_terminal = sys.stdout.isatty()
    # In a pipe or file nothing is cut or folded: other programs read it.
    return Console(file=sys.stdout, highlight=False, soft_wrap=not is_terminal, width=None if is_terminal else _WIDE)


def note(text: str) -> None:
    """Say something to the person, on standard error, so that standard output stays the result alone."""
    Console(file=sys.stderr, highlight=False, soft_wrap=True).print(escape(text))


def print_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "nothing to show") -> None:
    """Print rows for a person.

    Args:
        columns: headings.
        rows: cells; None is shown as a dash. Cells are text, never markup.
        empty: what is said on standard error when there are no rows.
    """
    cells = [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in rows]
    if not cells:
        note(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # UIDs are copied from the table, so they are never cut; the others fold.
        is_uid = "UID" in column.split()
        table.add_column(column, no_wrap=is_uid, min_width=_UID_CHARACTERS if is_uid else None, overflow="fold")
    for row in cells:
        table.add_row(*(state_text(cell) for cell in row))
    console = _out()
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def print_pairs(pairs: Mapping[str, object]) -> None:
    """Print names and values, one a line, for a person."""
    width = max((len(name) for name in pairs), default=0)
    console = _out()
    for name, value in pairs.items():
        text = "-" if value is None or value == "" else str(value)
        console.print(f"[bold]{escape(name.ljust(width))}[/bold]  {state_text(text)}")


def state_text(text: str) -> str:
    """Return the text as markup, coloured when it is the name of a state."""
    word = text.split(" ", 1)[0]
    for words, colour in ((_GOOD, "green"), (_BAD, "red"), (_WARN, "yellow")):
        if word in words:
            return f"[{colour}]{escape(text)}[/{colour}]"
    return escape(text)


def emit(style: Format, value: Any, table: Callable[[], None]) -> None:
    """Print a result.

    Args:
        style: table or JSON.
        value: the JSON document.
        table: prints the same for a person.
    """
    if style is Format.JSON:
        print_json(value)
    else:
        table()


def result_format(style: Format | None) -> Format:
    """Return the format of a command whose result programs take: a table for a person at a terminal only."""
    if style is not None:
        return style
    return Format.TABLE if sys.stdout.isatty() else Format.JSON


def created(value: Mapping[str, Any], sentence: str, style: Format = Format.JSON) -> None:
    """Print what was made as JSON on standard output, and say so to the person on standard error."""
    note(sentence)
    sys.stdout.write(json.dumps(value, indent=2 if style is Format.JSON else None) + "\n")


def done(value: Mapping[str, Any], sentence: str, style: Format) -> None:
    """Say to the person what was done; a program is given it as JSON on standard output."""
    note(sentence)
    if style is Format.JSON:
        print_json(value)


def is_interactive() -> bool:
    """Say whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, force: bool) -> None:
    """Go on when the person says yes or ``--force`` was given.

    Raises:
        InvalidInput: nobody can be asked.
        typer.Exit: the person said no; exit code 1.
    """
    if force:
        return
    if not is_interactive():
        raise InvalidInput("this needs a yes and nobody can be asked", remedy="add --force")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().casefold() not in {"y", "yes"}:
        note("nothing was changed")
        raise typer.Exit(1)


def when(moment: str | datetime | None) -> str | None:
    """Return an instant as people read it, in UTC; None stays None."""
    if moment is None:
        return None
    instant = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
    return stamp(instant)


def age(moment: str | datetime | None, now: datetime | None = None) -> str | None:
    """Return how long ago an instant is, such as ``5 s`` or ``3 h``; None stays None."""
    if moment is None:
        return None
    instant = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
    seconds = max(0, int(((now or datetime.now(UTC)) - instant.astimezone(UTC)).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def router() -> RouterClient:
    """Return the signed-in connection to the router: ``get``, ``post``, ``put``, ``patch``, ``delete`` of paths.

    Raises:
        PamJobsError: nobody is signed in or no router is known; the command ends with its sentence.
    """
    from pam_jobs.client.session import connect

    return connect()[0]


def vault() -> VaultClient:
    """Return the signed-in client that encrypts and decrypts on this side."""
    from pam_jobs.client.session import connect
    from pam_jobs.client.vault import VaultClient

    return VaultClient(*connect())

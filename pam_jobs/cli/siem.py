"""``pam siem``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pam_jobs.cli.common import Format, FormatOption, age, created, done, emit, group, note, print_table, router
from pam_jobs.errors import DeliveryFailed, InvalidInput

app = group("Receivers of the audit log: JSON file, syslog, Splunk.")

_SINKS = "/api/v1/siem/sinks"
_POLL_SECONDS = 0.3
_FILE_SETTINGS = frozenset({"ca"})  # given as a file, sent as its text

SinkArgument = Annotated[str, typer.Argument(help="UID or name of the sink.")]


@app.command("list")
def list_(style: FormatOption = Format.TABLE) -> None:
    """Show every sink, how far it is behind and what went wrong last."""
    sinks = router().get(_SINKS)["sinks"]
    emit(
        style,
        {"sinks": sinks},
        lambda: print_table(
            ["Sink UID", "Name", "Kind", "Where", "State", "Behind", "Delivered", "Last error"],
            [_row(sink) for sink in sinks],
            empty="there are no sinks; add one with `pam siem add`",
        ),
    )


def _row(sink: dict[str, Any]) -> tuple[object, ...]:
    settings = sink["settings"]
    where = settings.get("path") or settings.get("url") or f"{settings.get('host')}:{settings.get('port')}"
    behind = f"{sink['lag_events']} events, {sink['lag_seconds']:.0f} s" if sink["lag_events"] else "no"
    delivered = age(sink["last_delivered_at"])
    return (
        sink["uid"],
        sink["name"],
        sink["kind"],
        where,
        sink["state"],
        behind,
        f"{delivered} ago" if delivered else None,
        sink["last_error"],
    )


@app.command("add")
def add(
    kind: Annotated[str, typer.Argument(help="json, syslog or splunk.")],
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="SETTING=VALUE...",
            help="json: path. syslog: host port transport=tls|tcp framing=octet-counting|newline message=json|text"
            " ca=FILE hostname app_name sd_id. splunk: url host source index ca=FILE.",
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="What people call it; else its kind.")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with the receiver's token, - for standard input.")
    ] = None,
    from_now: Annotated[bool, typer.Option("--from-now", help="Leave out what the log holds already.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Add a receiver; delivery begins by itself and is repeated until it succeeds."""
    body = {
        "name": name or kind,
        "kind": kind,
        "settings": dict(_setting(text) for text in settings),
        "secret": _token(token_file),
        "from_now": from_now,
    }
    sink = router().post(_SINKS, body)
    created({"uid": sink["uid"], "name": sink["name"]}, "the sink is added; see `pam siem list`", style)


def _setting(text: str) -> tuple[str, str | int]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise InvalidInput(f"{text!r} is not a setting", remedy="write SETTING=VALUE, such as host=siem.example.com")
    if name in _FILE_SETTINGS:
        return name, _read(Path(value))
    return name, int(value) if name == "port" and value.isdecimal() else value


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    # never an argument: those are seen in the list of processes
    return (sys.stdin.readline() if str(file) == "-" else _read(file)).strip()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInput(f"{file} cannot be read: {cause}", remedy="name a readable file") from None


@app.command("remove")
def remove(sink: SinkArgument, style: FormatOption = Format.TABLE) -> None:
    """Remove a sink; what it received stays with its receiver."""
    found = _find(sink)
    router().delete(f"{_SINKS}/{found['uid']}")
    done({"uid": found["uid"], "name": found["name"]}, f"the sink {found['name']} is removed", style)


@app.command("pause")
def pause(sink: SinkArgument, style: FormatOption = Format.TABLE) -> None:
    """Stop delivering; nothing is lost meanwhile."""
    found = _find(sink)
    router().post(f"{_SINKS}/{found['uid']}/pause")
    done({"uid": found["uid"], "name": found["name"]}, f"the sink {found['name']} is paused", style)


@app.command("resume")
def resume(sink: SinkArgument, style: FormatOption = Format.TABLE) -> None:
    """Deliver again from where the sink stopped; after failures, try at once."""
    found = _find(sink)
    router().post(f"{_SINKS}/{found['uid']}/resume")
    done({"uid": found["uid"], "name": found["name"]}, f"the sink {found['name']} is delivering", style)


@app.command("test")
def send_test(
    sink: SinkArgument,
    seconds: Annotated[float, typer.Option("--wait", min=1, max=600, help="Seconds to wait for it.")] = 30.0,
    style: FormatOption = Format.TABLE,
) -> None:
    """Send a test event the way every event goes, and wait until the receiver has it."""
    client = router()
    uid = _find(sink)["uid"]
    position = client.post(f"{_SINKS}/{uid}/test")["position"]
    end = time.monotonic() + seconds
    while True:
        state = client.get(f"{_SINKS}/{uid}")
        if state["cursor"] >= position:
            emit(style, {"delivered": True, "position": position}, lambda: note("the receiver has the test event"))
            return
        if state["failures"]:
            raise DeliveryFailed(state["last_error"], remedy="correct the receiver; delivery is tried again by itself")
        if time.monotonic() > end:
            raise DeliveryFailed(
                f"the test event was not delivered within {seconds:.0f} s",
                remedy="look whether the control process runs: pam status",
            )
        time.sleep(_POLL_SECONDS)


def _find(wanted: str) -> dict[str, Any]:
    sinks: list[dict[str, Any]] = router().get(_SINKS)["sinks"]
    for sink in sinks:
        if wanted in {sink["uid"], sink["name"]}:
            return sink
    names = json.dumps([sink["name"] for sink in sinks], ensure_ascii=False)
    raise InvalidInput(f"there is no sink {wanted!r}", remedy=f"choose one of {names}")

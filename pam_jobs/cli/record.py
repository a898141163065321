"""``pam record``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import (
    Format,
    FormatOption,
    ResultFormatOption,
    confirm,
    created,
    done,
    emit,
    group,
    note,
    print_pairs,
    print_table,
    result_format,
    vault,
    when,
)
from pam_jobs.errors import InvalidInput

if TYPE_CHECKING:
    from pam_jobs.client.records import VaultRecord
    from pam_jobs.client.vault import VaultClient
    from pam_jobs.records.record import Record

app = group("Records: users, machines, databases and other things with secrets in them.")

RecordArgument = Annotated[str, typer.Argument(metavar="RECORD", help="UID or exact title.")]
FieldsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FIELD=VALUE]...",
        help="Such as login=alice host=db1 port=5432. VALUE - reads standard input, @FILE a file, ? asks,"
        " password=$GEN makes one. Custom fields: c.text.LABEL=VALUE.",
    ),
]


@app.command("add")
def add(
    folder: Annotated[str, typer.Option("--folder", "-f", help="UID, name or path of the folder.")],
    fields: FieldsArgument = None,
    record_type: Annotated[
        str | None, typer.Option("--record-type", "-rt", help="Such as pamUser, pamDatabase, pamMachine.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", "-t", help="Title of the record.")] = None,
    notes: Annotated[str | None, typer.Option("--notes", "-n", help="Notes.")] = None,
    from_json: Annotated[
        str | None, typer.Option("--from-json", help="Record JSON from a file, or - for standard input.")
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Add a record; it is encrypted on this side."""
    from pam_jobs.records.catalogue import validate

    record = _from_json(from_json, record_type, title) if from_json else _new(record_type, title)
    record = _assigned(record, fields, notes, stdin_taken=from_json == "-")
    validate(record)
    with vault() as client:
        uid = client.records.add(record, client.folders.find(folder))
    created({"uid": uid}, f"added the {record.type} {record.title}", style)


def _new(record_type: str | None, title: str | None) -> Record:
    from pam_jobs.records.types import new_record

    if not record_type or not title:
        missing = "--record-type" if not record_type else "--title"
        raise InvalidInput(f"the record has no {missing.removeprefix('--')}", remedy=f"give {missing}, or --from-json")
    return new_record(record_type, title, complete=False)


def _from_json(source: str, record_type: str | None, title: str | None) -> Record:
    from pam_jobs.records.record import Record

    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
    except (OSError, UnicodeDecodeError):
        raise InvalidInput(f"the file {source} cannot be read", remedy="give a readable file") from None
    record = Record.parse(text)
    if record_type and record_type != record.type:
        raise InvalidInput(f"the JSON is of a {record.type}, not a {record_type}", remedy="leave --record-type out")
    return record.with_title(title) if title else record


def _assigned(record: Record, fields: list[str] | None, notes: str | None, *, stdin_taken: bool = False) -> Record:
    from pam_jobs.client.values import read_assignments
    from pam_jobs.records.types import assign

    def stdin() -> str:
        if stdin_taken:
            raise InvalidInput("a field and the record both want standard input", remedy="give the field as @FILE")
        return sys.stdin.read()

    changed = assign(record, read_assignments(fields or [], stdin=stdin, warn=note))
    return changed if notes is None else changed.with_notes(notes)


@app.command("get")
def get(
    record: RecordArgument,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show secrets.")] = False,
    style: ResultFormatOption = None,
) -> None:
    """Show a record; secrets are masked unless --reveal."""
    from pam_jobs.client.values import masked

    with vault() as client:
        stored = client.records.find(record)
    data = stored.record.to_dict()
    shown = data if reveal else masked(data)
    value = {**_about(stored), **shown, "files": [_file(entry) for entry in stored.files]}
    emit(result_format(style), value, lambda: _print_record(stored, shown))


def _about(stored: VaultRecord) -> dict[str, Any]:
    return {
        "uid": stored.uid,
        "folder_uid": stored.folder_uid,
        "revision": stored.revision,
        "updated_at": stored.updated_at,
    }


def _file(entry: Any) -> dict[str, Any]:
    return {"uid": entry.uid, "name": entry.name, "size": entry.size}


def _print_record(stored: VaultRecord, shown: dict[str, Any]) -> None:
    pairs: dict[str, object] = {"Record UID": stored.uid, "Type": stored.type, "Title": stored.title}
    for entry in [*shown.get("fields", []), *shown.get("custom", [])]:
        if entry.get("value"):
            pairs[str(entry.get("label") or entry["type"])] = ", ".join(_plain(item) for item in entry["value"])
    if shown.get("notes"):
        pairs["Notes"] = shown["notes"]
    for attached in stored.files:
        pairs[f"File {attached.name}"] = f"{attached.uid} ({attached.size} bytes)"
    pairs["Updated"] = when(stored.updated_at)
    print_pairs(pairs)


def _plain(item: Any) -> str:
    if isinstance(item, dict) and set(item) == {"hostName", "port"}:
        return f"{item['hostName']}:{item['port']}" if item["port"] else str(item["hostName"])
    return json.dumps(item) if isinstance(item, dict | list | bool) else str(item)


@app.command("list")
def list_(
    folder: Annotated[str | None, typer.Option("--folder", "-f", help="UID, name or path.")] = None,
    record_type: Annotated[str | None, typer.Option("--record-type", "-rt", help="Only of this type.")] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """List records."""
    with vault() as client:
        found = client.records.list(client.folders.find(folder) if folder else None)
        paths = {entry.uid: client.folders.path(entry) for entry in client.folders.list()}
        drift = {row["record_uid"]: row["drift"]["state"] for row in client.pam.rotations()}
    rows = [
        {
            "uid": entry.uid,
            "type": entry.type,
            "title": entry.title,
            "login": entry.record.login,
            "folder_uid": entry.folder_uid,
            "folder": paths.get(entry.folder_uid),
            "drift": drift.get(entry.uid),
        }
        for entry in found
        if record_type is None or entry.type == record_type
    ]
    emit(
        style,
        {"records": rows},
        lambda: print_table(
            ["Record UID", "Type", "Title", "Login", "Folder", "Drift"],
            [[row[name] for name in ("uid", "type", "title", "login", "folder", "drift")] for row in rows],
            empty="there are no records here",
        ),
    )


@app.command("update")
def update(
    record: RecordArgument,
    fields: FieldsArgument = None,
    title: Annotated[str | None, typer.Option("--title", "-t", help="New title.")] = None,
    notes: Annotated[str | None, typer.Option("--notes", "-n", help="New notes.")] = None,
    from_json: Annotated[
        str | None, typer.Option("--from-json", help="The whole new record JSON from a file, or - for standard input.")
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Change fields of a record; the others stay as they are."""
    from pam_jobs.client.values import read_assignments
    from pam_jobs.records.catalogue import validate
    from pam_jobs.records.types import assign

    if not fields and title is None and notes is None and from_json is None:
        raise InvalidInput("nothing to change was given", remedy="give FIELD=VALUE, --title, --notes or --from-json")
    replacement = _from_json(from_json, None, None) if from_json else None
    values = read_assignments(fields or [], warn=note)  # read once: a change may be made again after a conflict

    def change(old: Record) -> Record:
        if replacement is not None and replacement.type != old.type:
            raise InvalidInput(f"the record is a {old.type}", remedy=f"give JSON of a {old.type}")
        changed = assign(replacement or old, values)
        changed = changed if title is None else changed.with_title(title)
        changed = changed if notes is None else changed.with_notes(notes)
        validate(changed)
        return changed

    with vault() as client:
        stored = client.records.find(record)
        _check_served(client, stored, change(stored.record))
        stored = client.records.update(stored.uid, change)
    done(
        {"uid": stored.uid, "revision": stored.revision},
        f"changed {stored.title}, now at revision {stored.revision}",
        style,
    )


def _check_served(client: VaultClient, stored: VaultRecord, changed: Record) -> None:
    """Refuse a port or database type through which a resource could not be rotated any more."""
    from pam_jobs.client.rotation import check_still_served, mapping_of

    old = stored.record
    if (old.port, old.field("databaseType")) == (changed.port, changed.field("databaseType")):
        return
    link = next((row for row in client.pam.resources() if row["record_uid"] == stored.uid), None)
    if link is not None:
        mapping = mapping_of(client.records.get(link["configuration_uid"]).record)
        check_still_served(old, mapping, changed, mapping)


@app.command("delete")
def delete(
    record: RecordArgument,
    force: Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Delete a record that nothing refers to."""
    with vault() as client:
        stored = client.records.find(record)
        confirm(f"Delete {stored.title}?", force=force)
        client.records.delete(stored.uid)
    done({"uid": stored.uid}, f"deleted {stored.title}", style)


@app.command("attach")
def attach(
    record: RecordArgument,
    file: Annotated[Path, typer.Argument(help="File to attach, encrypted on this side.")],
    style: FormatOption = Format.TABLE,
) -> None:
    """Attach a file to a record."""
    try:
        content = file.read_bytes()
    except OSError:
        raise InvalidInput(f"the file {file} cannot be read", remedy="give a readable file") from None
    with vault() as client:
        uid = client.records.attach(client.records.find(record).uid, file.name, content)
    created({"uid": uid}, f"attached {file.name}", style)


@app.command("download")
def download(
    record: RecordArgument,
    file: Annotated[str, typer.Argument(help="UID or name of the attached file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write it; else standard output.")] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Fetch and decrypt an attached file."""
    with vault() as client:
        stored = client.records.find(record)
        found = [entry for entry in stored.files if file in {entry.uid, entry.name}]
        if len(found) != 1:
            raise InvalidInput(
                f"{len(found)} files of {stored.title} fit {file!r}", remedy="give a file UID from `pam record get`"
            )
        content = client.records.download(found[0])
    if out is None:
        sys.stdout.buffer.write(content)
    else:
        out.touch(mode=0o600)
        out.write_bytes(content)
        done({"uid": found[0].uid, "path": str(out), "size": len(content)}, f"wrote {out}", style)

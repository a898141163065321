"""``pam rotation script``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import Format, FormatOption, created, done, emit, group, print_table, vault
from pam_jobs.errors import InvalidInput, NotFound
from pam_jobs.records.record import ReRun

if TYPE_CHECKING:
    from pam_jobs.client.records import VaultRecord
    from pam_jobs.records.record import Record, ScriptRef

app = group("Post-rotation scripts, on users, resources and configurations.")

RecordArgument = Annotated[str, typer.Argument(metavar="RECORD", help="UID or exact title.")]
_MAX_SCRIPT_BYTES = 1_000_000


def _takes_scripts(stored: VaultRecord) -> None:
    from pam_jobs.records.catalogue import TYPES

    if not any(spec.kind == "script" for spec in TYPES.get(stored.type, ())):
        raise InvalidInput(
            f"{stored.title} is a {stored.type}, which has no scripts",
            remedy="name a user, a machine, database or directory, or a configuration",
        )


def _find(stored: VaultRecord, text: str) -> ScriptRef:
    """Return the script with that file UID or name."""
    names = {file.uid: file.name for file in stored.files}
    found = [ref for ref in stored.record.scripts if text in {ref.file_uid, names.get(ref.file_uid)}]
    if not found:
        raise NotFound(f"{stored.title} has no script {text!r}", remedy="look at `pam rotation script list`")
    if len(found) > 1:
        raise InvalidInput(f"{stored.title} has {len(found)} scripts {text!r}", remedy="give the script's UID")
    return found[0]


@app.command("add")
def add(
    record: RecordArgument,
    script: Annotated[Path, typer.Option("--script", help="The script file; its first line names the interpreter.")],
    credential: Annotated[
        list[str] | None, typer.Option("--add-credential", "-ac", help="Record handed to the script too; repeat.")
    ] = None,
    command: Annotated[str, typer.Option("--script-command", help="Interpreter, such as `python3`.")] = "",
    re_run: Annotated[
        ReRun,
        typer.Option(
            "--re-run",
            help="When it was cut off: report it as unknown, or run it again (it must then do no harm twice).",
        ),
    ] = ReRun.NEVER,
    style: FormatOption = Format.TABLE,
) -> None:
    """Attach a script; only the record's owner may."""
    from pam_jobs.records.record import ScriptRef

    try:
        content = script.read_bytes()
    except OSError:
        raise InvalidInput(f"the script {script} cannot be read", remedy="give a readable file") from None
    if not content.strip() or len(content) > _MAX_SCRIPT_BYTES:
        raise InvalidInput(f"the script {script} has {len(content)} bytes", remedy="give one of 1 byte to 1 MB")
    if not command and not content.startswith(b"#!"):
        raise InvalidInput(
            f"the script {script} does not say what runs it",
            remedy="begin it with a line such as #!/bin/sh, or give --script-command",
        )
    with vault() as client:
        stored = client.records.find(record)
        _takes_scripts(stored)
        others = tuple(client.records.find(text).uid for text in credential or [])

        def link(changed: Record, file_uid: str) -> Record:
            ref = ScriptRef(file_uid=file_uid, record_uids=others, command=command, re_run=re_run)
            return changed.with_scripts([*changed.scripts, ref])

        uid = client.records.attach(stored.uid, script.name, content, link)
    created({"uid": uid}, f"{script.name} runs after rotations of {stored.title}", style)


@app.command("edit")
def edit(
    record: RecordArgument,
    script: Annotated[str, typer.Option("--script", help="UID or file name of the script.")],
    add_credential: Annotated[
        list[str] | None, typer.Option("--add-credential", "-ac", help="Record handed to the script too; repeat.")
    ] = None,
    remove_credential: Annotated[
        list[str] | None, typer.Option("--remove-credential", "-rc", help="Record no longer handed to it; repeat.")
    ] = None,
    command: Annotated[
        str | None, typer.Option("--script-command", help="Interpreter; empty: by its first line.")
    ] = None,
    re_run: Annotated[
        ReRun | None, typer.Option("--re-run", help="When it was cut off: report it as unknown, or run it again.")
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Change what a script is given, what runs it, or whether it runs again after it was cut off."""
    from dataclasses import replace

    with vault() as client:
        stored = client.records.find(record)
        uid = _find(stored, script).file_uid
        plus = [client.records.find(text).uid for text in add_credential or []]
        minus = {client.records.find(text).uid for text in remove_credential or []}

        def change(old: Record) -> Record:
            refs = []
            for ref in old.scripts:
                changed = ref
                if ref.file_uid == uid:
                    kept = [entry for entry in dict.fromkeys([*ref.record_uids, *plus]) if entry not in minus]
                    changed = replace(
                        ref,
                        record_uids=tuple(kept),
                        command=ref.command if command is None else command,
                        re_run=re_run or ref.re_run,
                    )
                refs.append(changed)
            return old.with_scripts(refs)

        client.records.update(stored.uid, change)
    done({"uid": uid, "record_uid": stored.uid}, f"changed the script {script} of {stored.title}", style)


@app.command("delete")
def delete(
    record: RecordArgument,
    script: Annotated[str, typer.Option("--script", help="UID or file name of the script.")],
    style: FormatOption = Format.TABLE,
) -> None:
    """Detach a script and delete its file."""
    with vault() as client:
        stored = client.records.find(record)
        uid = _find(stored, script).file_uid
        client.records.detach(
            stored.uid, uid, lambda old: old.with_scripts([ref for ref in old.scripts if ref.file_uid != uid])
        )
    done({"uid": uid, "record_uid": stored.uid}, f"deleted the script {script} of {stored.title}", style)


@app.command("list")
def list_(
    pattern: Annotated[
        str | None, typer.Argument(help="Only records whose title contains this, or with this UID.")
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """List the scripts of all records, in the order they run on each."""
    with vault() as client:
        rows: list[dict[str, Any]] = [
            {
                "record_uid": stored.uid,
                "title": stored.title,
                "record_type": stored.type,
                "script_uid": ref.file_uid,
                "script_name": next((file.name for file in stored.files if file.uid == ref.file_uid), None),
                "records": list(ref.record_uids),
                "command": ref.command,
                "re_run": ref.re_run.value,
            }
            for stored in client.records.list()
            if pattern is None or pattern == stored.uid or pattern.casefold() in stored.title.casefold()
            for ref in stored.record.scripts
        ]
    emit(
        style,
        {"scripts": rows},
        lambda: print_table(
            ["Record UID", "Title", "Type", "Script UID", "Script", "Credentials", "Command", "Re-run"],
            [(*list(row.values())[:5], len(row["records"]), row["command"], row["re_run"]) for row in rows],
            empty="no record has scripts",
        ),
    )

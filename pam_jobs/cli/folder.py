"""``pam folder``."""

from __future__ import annotations

from typing import Annotated

import typer

from pam_jobs.cli.common import Format, FormatOption, created, done, emit, group, print_table, vault

app = group("Folders of records. A top folder is what is shared with applications.")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the folder.")],
    parent: Annotated[str | None, typer.Option("--parent", "-p", help="UID, name or path of the folder above.")] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Create a folder."""
    with vault() as client:
        above = client.folders.find(parent) if parent else None
        uid = client.folders.add(name, above)
    created({"uid": uid}, f"created the folder {name}", style)


@app.command("list")
def list_(style: FormatOption = Format.TABLE) -> None:
    """List your folders."""
    with vault() as client:
        value = [
            {
                "uid": entry.uid,
                "name": entry.name,
                "path": client.folders.path(entry),
                "parent_uid": entry.parent_uid,
                "can_edit": entry.can_edit,
            }
            for entry in client.folders.list()
        ]
    emit(
        style,
        {"folders": value},
        lambda: print_table(
            ["Folder UID", "Folder", "Access"],
            [(row["uid"], row["path"], "can edit" if row["can_edit"] else "read only") for row in value],
            empty="there are no folders; make one with `pam folder new NAME`",
        ),
    )


@app.command("remove")
def remove(
    folder: Annotated[str, typer.Argument(help="UID, name or path.")], style: FormatOption = Format.TABLE
) -> None:
    """Delete an empty folder."""
    with vault() as client:
        found = client.folders.find(folder)
        client.folders.remove(found)
    done({"uid": found.uid}, f"removed the folder {found.name}", style)

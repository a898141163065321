"""``pam app``."""

from __future__ import annotations

import base64
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli.common import (
    Format,
    FormatOption,
    confirm,
    created,
    done,
    emit,
    group,
    print_table,
    vault,
    when,
)
from pam_jobs.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from pam_jobs.client.applications import Application

__all__ = ["ConfigInit", "app", "print_config"]

app = group("Applications: what devices and gateways act for, and the folders shared with them.")
client_app = group("Devices of an application.")
app.add_typer(client_app, name="client")

_SECONDS_A_MINUTE = 60


class ConfigInit(StrEnum):
    """Form of a client configuration."""

    JSON = "json"
    B64 = "b64"


def print_config(config: dict[str, str], form: ConfigInit) -> None:
    """Write a client configuration alone to standard output."""
    text = json.dumps(config)
    sys.stdout.write((base64.b64encode(text.encode()).decode() if form is ConfigInit.B64 else text) + "\n")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the application.")], style: FormatOption = Format.TABLE
) -> None:
    """Create an application."""
    with vault() as client:
        uid = client.applications.add(name)
    created({"uid": uid}, f"created the application {name}", style)


@app.command("list")
def list_(style: FormatOption = Format.TABLE) -> None:
    """List your applications and what is shared with them."""
    with vault() as client:
        names = {folder.uid: folder.name for folder in client.folders.list()}
        value = [_describe(entry, names) for entry in client.applications.list()]
    emit(
        style,
        {"applications": value},
        lambda: print_table(
            ["Application UID", "Application", "Folders", "Devices"],
            [(row["uid"], row["title"], _shares_text(row), len(row["clients"])) for row in value],
            empty="there are no applications; make one with `pam app new NAME`",
        ),
    )


def _describe(entry: Application, names: dict[str, str]) -> dict[str, Any]:
    shares = [{**share, "name": names.get(share["folder_uid"])} for share in entry.shares]
    return {
        "uid": entry.uid,
        "title": entry.title,
        "created_at": entry.created_at,
        "shares": shares,
        "clients": list(entry.clients),
    }


def _shares_text(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{share['name'] or share['folder_uid']}{' (can edit)' if share['can_edit'] else ''}" for share in row["shares"]
    )


@app.command("share")
def share(
    application: Annotated[str, typer.Argument(metavar="APP", help="UID or title.")],
    folder: Annotated[str, typer.Argument(help="UID or name of a top folder.")],
    can_edit: Annotated[bool, typer.Option("--can-edit", help="Let it change records, as rotation does.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Share a folder with an application."""
    with vault() as client:
        entry = client.applications.find(application)
        found = client.folders.find(folder)
        client.applications.share(entry, found, can_edit=can_edit)
    done(
        {"uid": entry.uid, "folder_uid": found.uid, "can_edit": can_edit},
        f"shared {found.name} with {entry.title}{', which can edit it' if can_edit else ' for reading'}",
        style,
    )


@app.command("unshare")
def unshare(
    application: Annotated[str, typer.Argument(metavar="APP", help="UID or title.")],
    folder: Annotated[str, typer.Argument(help="UID or name of a top folder.")],
    style: FormatOption = Format.TABLE,
) -> None:
    """Take a folder away from an application."""
    with vault() as client:
        entry = client.applications.find(application)
        found = client.folders.find(folder)
        if entry.can_edit(found.uid) is None:
            raise NotFound(f"{found.name} is not shared with {entry.title}", remedy="look at `pam app list`")
        client.applications.unshare(entry, found.uid)
    done({"uid": entry.uid, "folder_uid": found.uid}, f"{found.name} is no longer shared with {entry.title}", style)


@app.command("remove")
def remove(
    application: Annotated[str, typer.Argument(metavar="APP", help="UID or title.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Delete an application with its shares and devices."""
    with vault() as client:
        entry = client.applications.find(application)
        confirm(f"Remove {entry.title} and its {len(entry.clients)} devices?", force=force or not entry.clients)
        client.applications.remove(entry)
    done({"uid": entry.uid}, f"removed the application {entry.title}", style)


@client_app.command("add")
def client_add(
    application: Annotated[str, typer.Argument(metavar="APP", help="UID or title.")],
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the device.")] = "device",
    config_init: Annotated[
        ConfigInit, typer.Option("--config-init", "-c", help="Form of the configuration on standard output.")
    ] = ConfigInit.JSON,
    expires: Annotated[
        int, typer.Option("--token-expires-in-min", "-e", min=1, max=1440, help="Minutes until the first connection.")
    ] = 60,
    access_expires: Annotated[
        int | None, typer.Option("--access-expires-in-min", min=1, help="Minutes until access ends; else never.")
    ] = None,
    unlock_ip: Annotated[
        bool, typer.Option("--unlock-ip", help="Allow connections from more than the first address.")
    ] = False,
    style: FormatOption = Format.TABLE,  # noqa: ARG001 - the configuration stands alone either way
) -> None:
    """Add a device; prints its configuration, with a one-time token, and nothing else."""
    from pam_jobs.client.applications import new_client

    with vault() as client:
        entry = client.applications.find(application)
        device = new_client(
            entry.key,
            name,
            lock_ip=not unlock_ip,
            first_access_expires_in_seconds=expires * _SECONDS_A_MINUTE,
            access_expires_in_seconds=access_expires * _SECONDS_A_MINUTE if access_expires else None,
        )
        client.applications.add_client(entry, device)
        config = client.applications.client_config(device.token)
    print_config(config, config_init)


@client_app.command("list")
def client_list(
    application: Annotated[str, typer.Argument(metavar="APP", help="UID or title.")],
    style: FormatOption = Format.TABLE,
) -> None:
    """List the devices of an application."""
    with vault() as client:
        entry = client.applications.find(application)
    emit(
        style,
        {"clients": list(entry.clients)},
        lambda: print_table(
            ["Client ID", "Name", "First access", "Last access", "Address"],
            [
                (
                    row["client_id"][:16] + "…",
                    row.get("name"),
                    when(row.get("first_access_at") or row.get("bound_at")),
                    when(row.get("last_access_at")),
                    row.get("locked_ip") or row.get("ip_address"),
                )
                for row in entry.clients
            ],
            empty="the application has no devices",
        ),
    )


@client_app.command("remove")
def client_remove(
    application: Annotated[str, typer.Argument(metavar="APP", help="UID or title.")],
    device: Annotated[str, typer.Argument(metavar="CLIENT", help="Client ID, its beginning, or the name.")],
    style: FormatOption = Format.TABLE,
) -> None:
    """Take a device's access away."""
    with vault() as client:
        entry = client.applications.find(application)
        wanted = device.rstrip("…")
        found = [row for row in entry.clients if row["client_id"].startswith(wanted) or row.get("name") == device]
        if not found:
            raise NotFound(f"{entry.title} has no device {device!r}", remedy="look at `pam app client list`")
        if len(found) > 1:
            raise InvalidInput(f"{len(found)} devices fit {device!r}", remedy="give more of the client ID")
        client.applications.remove_client(found[0]["client_id"])
    done({"client_id": found[0]["client_id"]}, f"removed the device {found[0].get('name') or device}", style)

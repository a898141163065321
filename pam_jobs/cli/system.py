"""``pam up``, ``pam down``, ``pam status``: the whole system on this machine; ``pam restored`` after a restore."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pam_jobs.cli.common import Format, FormatOption, done, emit, note, print_json, print_pairs, print_table

__all__ = ["register"]

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of all state; else PAM_DATA_DIR, else ~/.pam-jobs.")
]
_NOT_ALL_RUN = 3


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the top level."""
    for name, command in (("up", up), ("down", down), ("status", status), ("restored", restored)):
        app.command(name, rich_help_panel=panel)(command)


def up(
    data_dir: DataDirOption = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when ready; go on in the background.")] = False,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Port of the router.")] = None,
    flower_port: Annotated[int | None, typer.Option("--flower-port", min=1, max=65535, help="Port of Flower.")] = None,
    username: Annotated[str, typer.Option("--username", help="Name of the first user, at the first start.")] = "owner",
    style: FormatOption = Format.TABLE,
) -> None:
    """Start everything on this machine: broker, router, beat, control, a gateway and Flower.

    Without --detach it runs until Ctrl-C. The first start makes a user, whose passphrase comes from PAM_PASSPHRASE,
    else is asked for, else is generated into a file.
    """
    from pam_jobs.cli.embedded import control
    from pam_jobs.cli.embedded.state import DataFolder

    folder = DataFolder(_folder(data_dir))
    settings, lock = control.begin(folder, port=port, flower_port=flower_port, username=username, report=note)
    if detach:
        control.detach(folder, lock, note)
        _print_places(control.status(folder), style)
    else:
        control.foreground(folder, settings, lock, note, lambda: _print_places(control.status(folder), style))


def _folder(data_dir: Path | None) -> Path:
    from pam_jobs.client.profile import data_folder

    if data_dir is not None:
        os.environ["PAM_DATA_DIR"] = str(data_dir.expanduser().absolute())
    return data_folder()


def _print_places(value: dict[str, Any], style: Format) -> None:
    if style is Format.JSON:
        print_json(value)
        sys.stdout.flush()
        return
    print_pairs(
        {
            "Router": value["router"],
            "API": f"{value['router']}/api/v1/openapi.json",
            "CA": value["ca"],
            "Flower": f"{value['flower']}  user {value['flower_username']}, password in {value['flower_password_file']}",
            "Data": value["data_dir"],
        }
    )
    home = Path.home() / ".pam-jobs"
    where = "" if value["data_dir"] == str(home) else f"export PAM_DATA_DIR={shlex.quote(value['data_dir'])}, then "
    note(f"ready: {where}try `pam gateway list`; `pam down` stops everything")


def down(data_dir: DataDirOption = None, style: FormatOption = Format.TABLE) -> None:
    """Stop everything, in order, and wait for it."""
    from pam_jobs.cli.embedded import control
    from pam_jobs.cli.embedded.state import DataFolder

    folder = DataFolder(_folder(data_dir))
    was_up = control.down(folder, note)
    sentence = "stopped" if was_up else f"nothing runs with the data folder {folder.path}"
    done({"data_dir": str(folder.path), "stopped": was_up}, sentence, style)


def status(data_dir: DataDirOption = None, style: FormatOption = Format.TABLE) -> None:
    """Show what runs, where; exit code 3 when not everything does."""
    from pam_jobs.cli.embedded import control
    from pam_jobs.cli.embedded.state import DataFolder

    value = control.status(DataFolder(_folder(data_dir)))
    emit(style, value, lambda: _print_status(value))
    if any(entry["state"] != "running" for entry in value["processes"]):
        raise typer.Exit(_NOT_ALL_RUN)


def _print_status(value: dict[str, Any]) -> None:
    names = {"Router": "router", "CA": "ca", "Broker": "broker", "Flower": "flower", "Data": "data_dir"}
    print_pairs({title: value[name] for title, name in names.items()})
    print_table(
        ["Process", "PID", "State", "Restarts"],
        [(entry["name"], entry["pid"], entry["state"], entry.get("restarts", 0)) for entry in value["processes"]],
    )
    for row in value["drained"]:
        jobs = "1 job" if row["running"] == 1 else f"{row['running']} jobs"
        note(f"gateway {row['gateway']!r} is drained since {row['since']} and begins nothing; it still works on {jobs}")


def restored(data_dir: DataDirOption = None, style: FormatOption = Format.TABLE) -> None:
    """Say that the database was restored from a backup: each credential is proven before it is rotated again.

    Run it before router, beat and control start. It writes to PAM_DATABASE_URL where that is set, else to the database
    of the data folder, and brings an older schema up to date first.
    """
    from sqlalchemy.exc import OperationalError

    from pam_jobs.audit.log import Actor
    from pam_jobs.cli.embedded.state import DataFolder
    from pam_jobs.clock import SystemClock
    from pam_jobs.db.engine import Database
    from pam_jobs.db.migrate import upgrade
    from pam_jobs.errors import ConfigurationError
    from pam_jobs.jobs import history

    folder = DataFolder(_folder(data_dir))
    url = os.environ.get("PAM_DATABASE_URL", "")
    if not url and not folder.database.exists():
        raise ConfigurationError(
            f"there is no database {folder.database}", remedy="restore it first, or set PAM_DATABASE_URL or --data-dir"
        )
    url = url or folder.database_url
    try:
        upgrade(url)
        database = Database(url)
        with database.transaction() as session:
            count = history.begin_anew(session, SystemClock(), Actor(username="operator"), cause="command")
        database.dispose()
    except OperationalError:
        raise ConfigurationError(
            "the database cannot be reached", remedy="check PAM_DATABASE_URL and that the server runs"
        ) from None
    done({"marked": count}, f"marked: {count}; each is proven by a login before it is rotated again", style)

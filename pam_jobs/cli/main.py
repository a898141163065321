"""The command ``pam``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pam_jobs import __version__
from pam_jobs.cli import (
    account,
    action,
    apps,
    audit,
    calendar,
    config,
    folder,
    gateway,
    job,
    processes,
    prove,
    record,
    rotation,
    schedule,
    siem,
    system,
    token,
    user,
)
from pam_jobs.cli.common import note
from pam_jobs.errors import PamJobsError

__all__ = ["app", "command", "main"]

_SHORT = {"g": "gateway", "c": "config", "r": "rotation", "a": "action"}
_PANELS = ("This machine", "Vault", "Rotation", "Audit", "Access", "Single processes")


class _ByPanel(TyperGroup):
    """Shows the panels of ``--help`` in the order in which a new user needs them."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of that name or short name."""
        return super().get_command(ctx, _SHORT.get(cmd_name, cmd_name))

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands, panel by panel."""
        return sorted(super().list_commands(ctx), key=lambda name: _PANELS.index(self._panel(name)))

    def _panel(self, name: str) -> str:
        return str(getattr(self.commands[name], "rich_help_panel", None) or _PANELS[-1])


app = typer.Typer(
    name="pam",
    cls=_ByPanel,
    help="Rotate privileged credentials and discover infrastructure on your own machines.\n\n"
    "Begin with [bold]pam up[/bold]; it starts everything on this machine.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        sys.stdout.write(f"pam-jobs {__version__}\n")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Data folder; else PAM_DATA_DIR, else ~/.pam-jobs.")
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if data_dir is not None:
        os.environ["PAM_DATA_DIR"] = str(data_dir.absolute())


for _module, _panel in (
    (system, "This machine"),
    (account, "Access"),
    (prove, "Rotation"),
    (processes, "Single processes"),
):
    _module.register(app, _panel)

for _name, _group, _panel in (
    ("folder", folder.app, "Vault"),
    ("record", record.app, "Vault"),
    ("app", apps.app, "Vault"),
    ("gateway", gateway.app, "Rotation"),
    ("config", config.app, "Rotation"),
    ("rotation", rotation.app, "Rotation"),
    ("action", action.app, "Rotation"),
    ("job", job.app, "Rotation"),
    ("schedule", schedule.app, "Rotation"),
    ("calendar", calendar.app, "Rotation"),
    ("audit", audit.app, "Audit"),
    ("siem", siem.app, "Audit"),
    ("user", user.app, "Access"),
    ("token", token.app, "Access"),
    ("passphrase", account.passphrase_app, "Access"),
):
    app.add_typer(_group, name=_name, rich_help_panel=_panel)


@cache
def command() -> Callable[[], object]:
    """Return all commands, put together from the functions' signatures, which takes longer than most commands do."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line; errors end with one sentence on standard error and exit code 1."""
    try:
        command()()
    except PamJobsError as error:
        note(f"pam: {error.sentence()}")
        _leave(1)
    except KeyboardInterrupt:
        _leave(130)
    except BrokenPipeError:
        _leave(1)


def _leave(code: int) -> None:
    """Exit without the interpreter's own complaint about a reader that went away."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

"""The system's processes one by one, for machines where each runs apart; configured by ``PAM_*`` variables."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

__all__ = ["exec_module", "register"]


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the top level."""
    for name, command in (("router", router), ("beat", beat), ("control", control), ("flower", flower)):
        app.command(name, rich_help_panel=panel)(command)


def exec_module(module: str, *arguments: str) -> NoReturn:
    """Become ``python -m module``: signals and the exit code are then its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606


def router() -> None:
    """Run a router: the HTTPS interfaces."""
    exec_module("pam_jobs.api")


def beat() -> None:
    """Run a beat: it emits due jobs; any number may run."""
    exec_module("scheduler")


def control() -> None:
    """Run a control worker: outbox, reconciler, audit sealing and delivery."""
    exec_module("pam_jobs.jobs")


def flower() -> None:
    """Run Flower, read-only, on PAM_BROKER_URL; FLOWER_BASIC_AUTH gives USER:PASSWORD, FLOWER_PORT the port."""
    from pam_jobs.cli.flower import main

    main()

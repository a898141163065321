"""``python -m deploy.lab up DIR [TARGET…] | down DIR | list | packages [--install]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.lab import LabError, install_with_apt, missing, site
from deploy.lab.site import Outcome
from deploy.lab.targets import TARGETS


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    choice = _parser().parse_args(arguments)
    try:
        if choice.command == "packages":
            _packages(install=choice.install)
        elif choice.command == "up":
            return _up(choice.folder, choice.targets, choice.format)
        elif choice.command == "down":
            site.down(choice.folder)
        elif choice.command == "host":
            site.host(choice.target, choice.folder)
        else:
            for target in TARGETS:
                print(f"{target.name:<12} {'emulated' if target.emulated else 'real':<9} {target.product}")  # noqa: T201
    except LabError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("the lab was taken down again", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the servers")
    up.add_argument("folder", type=Path, metavar="DIR")
    up.add_argument("targets", nargs="*", metavar="TARGET", help="of these names; all by default")
    up.add_argument("--format", choices=["table", "json"], default="table")
    down = commands.add_parser("down", help="stop them and remove their state")
    down.add_argument("folder", type=Path, metavar="DIR")
    commands.add_parser("list", help="name the targets that there are")
    host = commands.add_parser("host", help="be the process of a target whose servers are threads")
    host.add_argument("target")
    host.add_argument("folder", type=Path, metavar="DIR")
    packages = commands.add_parser("packages", help="print the Debian packages that are missing")
    packages.add_argument("--install", action="store_true", help="install them (root only; not when PAM_NO_APT is set)")
    return parser


def _packages(*, install: bool) -> None:
    if install:
        install_with_apt(missing())
    for name in missing():
        print(name)  # noqa: T201


def _up(folder: Path, names: Sequence[str], form: str) -> int:
    """Start the targets and tell of each; 1 where one did not start that was tried."""
    outcomes = site.up(folder, site.chosen(names))
    if form == "json":
        print(json.dumps([outcome.as_json() for outcome in outcomes], indent=1))  # noqa: T201
    else:
        _table(outcomes)
    return int(any(outcome.failure for outcome in outcomes))


def _table(outcomes: Sequence[Outcome]) -> None:
    print(f"{'target':<28} {'kind':<9} {'address':<34} credentials")  # noqa: T201
    for outcome in outcomes:
        told = outcome.as_json()
        rest = (
            f"{outcome.address:<34} {outcome.credentials}"
            if outcome.credentials
            else f"{told['state']}: {told['reason']}"
        )
        print(f"{outcome.target.product:<28} {told['kind']:<9} {rest}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())

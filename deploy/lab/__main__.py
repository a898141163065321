"""``python -m deploy.lab up DIR | down DIR | packages [--install]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.lab import LabError, install_with_apt, mariadb, missing, mssql, mysql8, openldap, postgres, sshd
from deploy.lab.emulated import stop as stop_emulated


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("up", "start the servers"), ("down", "stop them and remove their state")):
        command = commands.add_parser(name, help=text)
        command.add_argument("folder", type=Path, metavar="DIR")
    packages = commands.add_parser("packages", help="print the Debian packages that are missing")
    packages.add_argument("--install", action="store_true", help="install them (root only; not when PAM_NO_APT is set)")
    choice = parser.parse_args(arguments)
    try:
        if choice.command == "packages":
            _packages(install=choice.install)
        elif choice.command == "up":
            _up(choice.folder)
        else:
            postgres.stop(choice.folder)
            mariadb.stop(choice.folder)
            stop_emulated(choice.folder, "mssql")
            stop_emulated(choice.folder, "mysql8")
            sshd.stop(choice.folder)
            openldap.stop(choice.folder)
    except LabError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _packages(*, install: bool) -> None:
    if install:
        install_with_apt(missing())
    for name in missing():
        print(name)  # noqa: T201


def _up(folder: Path) -> None:
    """Start what can run here; MariaDB and the SSH server are left out, with the reason, where they cannot."""
    database = postgres.start(folder)
    print(f"postgresql  {database.host}:{database.port}  login {database.admin_login}  {folder / 'postgres.json'}")  # noqa: T201
    directory = openldap.start(folder)
    ports = f"{directory.port}, TLS {directory.secure_port}"
    print(f"openldap    {directory.host}:{ports}  login {directory.admin_login}  {folder / 'openldap.json'}")  # noqa: T201
    for module in (mssql, mysql8):
        third = module.start(folder)
        state = folder / f"{third.kind}.json"
        print(f"{third.kind:<10}  {third.host}:{third.port}  login {third.admin_login}  {state}  (emulated)")  # noqa: T201
    if mariadb.is_installed():
        second = mariadb.start(folder)
        print(f"mariadb     {second.host}:{second.port}  login {second.admin_login}  {folder / 'mariadb.json'}")  # noqa: T201
    else:
        print("mariadb     not started: there is no mariadbd (apt-get install mariadb-server)")  # noqa: T201
    against = sshd.obstacles()
    if against:
        print("ssh         not started: " + "; ".join(against))  # noqa: T201
        return
    shell = sshd.start(folder)
    print(f"ssh         {shell.host}:{shell.port}  login {shell.admin_login}  {folder / 'sshd.json'}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())

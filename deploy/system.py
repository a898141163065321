"""``python -m deploy.system demo|test [--list]``: the Debian packages that the demo or the tests need of the machine."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from deploy.lab import LabError, install_with_apt, missing, samba

__all__ = ["main", "needed"]

_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROGRAMS = {  # program → Debian package, for the tests only
    "mariadbd": "mariadb-server",
    "redis-server": "redis-server",
    "rabbitmq-server": "rabbitmq-server",
    "pgbouncer": "pgbouncer",
    "rsyslogd": "rsyslog",
    "node": "nodejs",
    "npm": "npm",
}


def needed(purpose: str) -> list[str]:
    """Return the Debian packages that are not there yet.

    Args:
        purpose: ``demo`` or ``test``; the tests need more servers than the demo.
    """
    packages = missing()
    if purpose == "test":
        packages += [package for program, package in _PROGRAMS.items() if shutil.which(program, path=_SBIN) is None]
        if not any(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so")):
            packages.append("rsyslog-gnutls")
        packages += samba.packages()
    return packages


def main(arguments: list[str] | None = None) -> int:
    """Install what is missing, or name it where that is not allowed; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.system", description=__doc__)
    parser.add_argument("purpose", choices=["demo", "test"])
    parser.add_argument("--list", action="store_true", help="only print what is missing")
    choice = parser.parse_args(arguments)
    packages = needed(choice.purpose)
    if choice.list:
        for package in packages:
            print(package)  # noqa: T201
        return 0
    if not packages:
        return 0
    print(f"installing with apt: {' '.join(packages)}", flush=True)  # noqa: T201
    try:
        install_with_apt(packages)
    except LabError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

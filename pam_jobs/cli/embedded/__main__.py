"""``python -m pam_jobs.cli.embedded DATA_FOLDER LOCK_FD``: the supervisor of ``pam up --detach``; not for people."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from pam_jobs.cli.embedded.state import DataFolder, Lock, Settings
from pam_jobs.cli.embedded.supervisor import Supervisor
from pam_jobs.errors import PamJobsError

__all__ = ["main"]


def main() -> int:
    """Supervise until told to stop; returns the exit code."""
    folder = DataFolder(Path(sys.argv[1]))
    lock = Lock(folder)
    lock.inherit(int(sys.argv[2]))
    settings = Settings(**json.loads((folder.run / "settings.json").read_text()))
    try:
        Supervisor(folder, settings, lock, _log).run()
    except PamJobsError as error:
        _log(error.sentence())
        return 1
    return 0


def _log(text: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

"""``python -m pam_jobs.jobs``: one control process, configured by ``PAM_*``. Start as many as you like."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from pam_jobs import logs
from pam_jobs.jobs.control import ControlProcess
from pam_jobs.settings import ControlSettings

__all__ = ["main"]


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    try:
        settings = ControlSettings()
    except ValidationError as error:
        wrong = ", ".join("PAM_" + str(entry["loc"][0]).upper() for entry in error.errors() if entry["loc"])
        sys.stderr.write(f"control cannot start with these settings: correct {wrong}\n")
        return 1
    logs.configure(is_json=settings.log_json)
    ControlProcess(settings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

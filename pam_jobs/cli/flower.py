"""``python -m pam_jobs.cli.flower``: Flower on our broker, read-only, behind a password, without remote control.

``PAM_BROKER_URL`` names the broker; ``FLOWER_BASIC_AUTH`` (USER:PASSWORD), ``FLOWER_ADDRESS`` and ``FLOWER_PORT`` are
Flower's own. They come by environment, since a command line is seen by every user of the machine.
"""

from __future__ import annotations

import os

from pam_jobs.app import make_app
from pam_jobs.errors import ConfigurationError

__all__ = ["main"]

_FIXED = {
    "FLOWER_READ_ONLY": "1",  # who has the password may look, not start tasks or stop workers
    "FLOWER_ENABLE_EVENTS": "0",  # gateways give no right to remote control
    "FLOWER_CONF": os.devnull,  # a file in the working folder would be run as code
}


def main() -> None:
    """Serve until told to stop.

    Raises:
        ConfigurationError: no broker is named, or nothing would protect the pages.
    """
    broker = os.environ.get("PAM_BROKER_URL")
    if not broker:
        raise ConfigurationError("no broker is named", remedy="set PAM_BROKER_URL")
    if ":" not in os.environ.get("FLOWER_BASIC_AUTH", ""):
        raise ConfigurationError(
            "Flower would be open to everybody", remedy="set FLOWER_BASIC_AUTH=USER:PASSWORD in its environment"
        )
    os.environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")
    os.environ.setdefault("FLOWER_PURGE_OFFLINE_WORKERS", "86400")
    os.environ.update(_FIXED)
    make_app(broker).start(["flower"])


if __name__ == "__main__":
    main()

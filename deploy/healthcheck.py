"""``python -m deploy.healthcheck router|control|gateway|flower``: exit code 0 when the container's process can work."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

__all__ = ["CHECKS", "main"]

_SECONDS = 5.0


def _router() -> None:
    """The router answers, and its database does."""
    port = os.environ.get("PAM_LISTEN_PORT", "8443")
    _get(f"https://127.0.0.1:{port}/readyz", Path(os.environ["PAM_KEYS_DIR"]) / "tls" / "ca.pem")


def _control() -> None:
    """Beat and control reach the database and the broker."""
    from pam_jobs.db.engine import Database

    database = Database(os.environ["PAM_DATABASE_URL"], pool_size=1)
    try:
        database.engine.connect().close()
    finally:
        database.dispose()
    _broker()


def _gateway() -> None:
    """The gateway has its identity and reaches the broker and its router."""
    file = Path(os.environ.get("GATEWAY_CONFIG_FILE") or "gateway-config.json")
    host = json.loads(file.read_text())["hostname"]
    ca = os.environ.get("PAM_CA_FILE")
    _get(f"https://{host}/healthz", Path(ca) if ca else None)
    _broker()


def _flower() -> None:
    """Flower answers."""
    _get(f"http://127.0.0.1:{os.environ.get('FLOWER_PORT', '5555')}/healthcheck", None)


def _broker() -> None:
    from pam_jobs.app import make_app

    with make_app(os.environ["PAM_BROKER_URL"], bounded=True).connection_for_read() as connection:
        connection.ensure_connection(max_retries=1)


def _get(url: str, ca: Path | None) -> None:
    with httpx.Client(verify=str(ca) if ca else True, timeout=_SECONDS, trust_env=False) as client:
        client.get(url).raise_for_status()


CHECKS: dict[str, Callable[[], None]] = {
    "router": _router,
    "control": _control,
    "gateway": _gateway,
    "flower": _flower,
}


def main(arguments: list[str] | None = None) -> int:
    """Check once; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.healthcheck", description=__doc__)
    parser.add_argument("process", choices=CHECKS)
    process = parser.parse_args(arguments).process
    try:
        CHECKS[process]()
    except Exception as error:  # noqa: BLE001 - each check knows drivers of its own, and loads no others
        # the class alone: texts of drivers may hold addresses with passwords
        sys.stderr.write(f"{process} is not healthy: {type(error).__name__}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

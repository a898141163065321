"""``python -m workers``: run a gateway."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from pam_jobs.errors import AccessDenied, ConfigurationError, PamJobsError
from pam_jobs.settings import GatewaySettings
from workers import logs
from workers.agent import EXIT_CONFIGURATION, EXIT_REMOVED, Agent
from workers.identity import DEFAULT_FILE, load

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a gateway until it is told to stop, and return the exit code.

    2: what it was given is wrong; 3: the gateway was removed; each with one sentence on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m workers", description="Run a gateway.")
    parser.add_argument(
        "--config", type=Path, help="the gateway's configuration (default: GATEWAY_CONFIG, or gateway-config.json)"
    )
    options = parser.parse_args(arguments)
    try:
        settings = GatewaySettings()
        logs.configure(as_json=settings.log_json)
        identity = load(options.config, os.environ)
        return Agent(settings, identity, _state_dir(options.config, os.environ)).run()
    except ValidationError as error:
        first = error.errors()[0]
        name = "PAM_" + str(first["loc"][0]).upper()
        return _fail(EXIT_CONFIGURATION, f"{name} is missing or wrong: {first['msg']}")
    except ConfigurationError as error:
        return _fail(EXIT_CONFIGURATION, error.sentence())
    except AccessDenied as error:
        return _fail(EXIT_REMOVED, error.sentence())
    except PamJobsError as error:
        return _fail(1, error.sentence())
    except KeyboardInterrupt:
        return 130


def _state_dir(config: Path | None, environment: Mapping[str, str]) -> Path | None:
    """Return where what runs from this configuration keeps its state: beside the file, where there is one."""
    path = config or Path(environment.get("GATEWAY_CONFIG_FILE") or DEFAULT_FILE)
    return path.with_name(f"{path.stem}.instances") if path.exists() else None


def _fail(code: int, sentence: str) -> int:
    sys.stderr.write(f"gateway: {sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

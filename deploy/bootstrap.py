"""``python -m deploy.bootstrap``: what a new installation needs before its processes start; doing it twice is doing it once.

Makes the keys and the router's certificate, brings the database to this version's schema, and registers the first user
(an admin) while there is none. Configured as the router is, and by

    PAM_FIRST_USER         name of the first user (default: owner)
    PAM_PASSPHRASE_FILE    file with that user's passphrase
    PAM_CA_COPY            where to put a copy of the CA for gateways on other volumes (optional)
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from pam_jobs.access import users
from pam_jobs.audit.log import Actor
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.keystore import KeyStore
from pam_jobs.crypto.tls import ensure_tls
from pam_jobs.db.engine import Database
from pam_jobs.db.migrate import upgrade
from pam_jobs.errors import ConfigurationError, PamJobsError
from pam_jobs.secret import SecretValue
from pam_jobs.settings import ControlSettings

__all__ = ["main"]

_MINIMUM_CHARACTERS = 12
_DATABASE_SECONDS = 60.0


def main() -> int:
    """Do what is missing; returns the exit code."""
    try:
        settings = ControlSettings()
        _prepare(settings)
    except ValidationError as error:
        names = ", ".join(f"PAM_{entry['loc'][0]}".upper() for entry in error.errors())
        return _fail(f"bootstrap cannot run with these settings: correct {names}")
    except PamJobsError as error:
        return _fail(error.sentence())
    except OperationalError:
        return _fail("the database cannot be reached: check PAM_DATABASE_URL and that the server runs")
    return 0


def _prepare(settings: ControlSettings) -> None:
    clock = SystemClock()
    KeyStore(settings.keys_dir).ensure()
    tls = ensure_tls(settings.keys_dir / "tls", settings.tls_name_list, clock)
    copy = os.environ.get("PAM_CA_COPY")
    if copy:
        Path(copy).write_bytes(tls.ca.read_bytes())
        Path(copy).chmod(0o644)
    _wait_for_database(settings.database_url)
    upgrade(settings.database_url)
    database = Database(settings.database_url)
    try:
        _first_user(database, os.environ.get("PAM_FIRST_USER") or "owner")
    finally:
        database.dispose()


def _wait_for_database(url: str) -> None:
    end = time.monotonic() + _DATABASE_SECONDS
    database = Database(url, pool_size=1)
    try:
        while True:
            try:
                database.engine.connect().close()
            except OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
            else:
                return
    finally:
        database.dispose()


def _first_user(database: Database, username: str) -> None:
    with database.transaction(read_only=True) as session:
        if users.everyone(session):
            return
    new, _ = users.make_user(username, _passphrase(), "admin")
    with database.transaction() as session:
        users.register(session, SystemClock(), Actor(username=username), new)
    sys.stderr.write(f"bootstrap: registered {username}, the first user\n")


def _passphrase() -> SecretValue:
    path = os.environ.get("PAM_PASSPHRASE_FILE")
    if not path:
        raise ConfigurationError("the first user needs a passphrase", remedy="name its file in PAM_PASSPHRASE_FILE")
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(
            f"the passphrase file {path} cannot be read: {error.strerror}", remedy="make it readable for this process"
        ) from None
    if len(text) < _MINIMUM_CHARACTERS:
        raise ConfigurationError(
            f"the passphrase has fewer than {_MINIMUM_CHARACTERS} characters", remedy="write a longer one into the file"
        )
    return SecretValue(text)


def _fail(sentence: str) -> int:
    sys.stderr.write(f"{sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Bringing a database to this version's schema, without a configuration file on disk."""

from __future__ import annotations

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from pam_jobs.db.engine import Database
from pam_jobs.errors import ConfigurationError

__all__ = ["current", "head", "upgrade"]

_LOCK = 0x70616D6A6F6273  # "pamjobs": the advisory lock of PostgreSQL that one migrating process holds


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("pam_jobs.db") / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """Return the revision that this version of the code needs."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise ConfigurationError("the package holds no schema revision", remedy="install pam-jobs again")
    return newest


def current(database: Database) -> str | None:
    """Return the revision that the database is at, None for an empty one."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(url: str) -> None:
    """Bring the database to this version's schema; several processes that start at once wait for the first one.

    Args:
        url: of the database, as in ``PAM_DATABASE_URL``.

    Raises:
        ConfigurationError: a newer version of the code has migrated the database already.
    """
    database = Database(url, pool_size=1)
    try:
        with database.engine.connect() as connection:
            # SQLite's BEGIN IMMEDIATE (see pam_jobs.db.engine) lets one in at a time by itself.
            if not database.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            _upgrade(connection)
            connection.commit()
    finally:
        database.dispose()


def _upgrade(connection: Connection) -> None:
    config = _config()
    known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
    present = MigrationContext.configure(connection).get_current_revision()
    if present is not None and present not in known:
        raise ConfigurationError(
            f"the database has schema revision {present}, which this version does not know",
            remedy="run the version of pam-jobs that made it, or a newer one",
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

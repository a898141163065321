"""The schema that migrations make is the schema that the models say, on both databases."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, Table, inspect, text

import pam_jobs.db.tables  # noqa: F401 - fills the metadata
from pam_jobs.db import migrate
from pam_jobs.db.base import Base
from pam_jobs.db.engine import Database
from pam_jobs.errors import ConfigurationError

pytestmark = pytest.mark.integration


def schema(database: Database) -> dict[str, Any]:
    """Everything the database itself tells of its tables."""
    inspector = inspect(database.engine)
    found: dict[str, Any] = {}
    for table in inspector.get_table_names():
        if table == "alembic_version":
            continue
        found[table] = {
            "columns": {
                column["name"]: (
                    str(column["type"]),
                    column["nullable"],
                    column["default"],
                    column.get("autoincrement"),
                )
                for column in inspector.get_columns(table)
            },
            "key": inspector.get_pk_constraint(table),
            "foreign": sorted(map(repr, inspector.get_foreign_keys(table))),
            "unique": sorted(map(repr, inspector.get_unique_constraints(table))),
            "checks": sorted(map(repr, inspector.get_check_constraints(table))),
            "indexes": _indexes(database, table),
        }
    return found


def _indexes(database: Database, table: str) -> list[str]:
    """The statements of the indexes, conditions of partial ones included."""
    query = (
        "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table AND sql IS NOT NULL"
        if database.is_sqlite
        else "SELECT indexdef FROM pg_indexes WHERE tablename = :table"
    )
    with database.engine.connect() as connection:
        return sorted(str(row[0]) for row in connection.execute(text(query), {"table": table}))


def test_schema_from_models_equals_schema_from_migrations(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    migrate.upgrade(empty_database_url)
    assert migrate.current(database) == migrate.head()
    migrated = schema(database)
    with database.engine.begin() as connection:
        Base.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
        Base.metadata.create_all(connection)
    assert migrated == schema(database)
    assert set(migrated) == set(Base.metadata.tables)
    database.dispose()


def test_migrating_again_changes_nothing(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    database = Database(empty_database_url)
    before = schema(database)
    migrate.upgrade(empty_database_url)
    assert schema(database) == before
    database.dispose()


@pytest.mark.parametrize(
    ("verdict", "drift"), [("accepted", "healthy"), ("partial", "out_of_sync"), ("unknown", "unchecked")]
)
def test_what_the_last_login_told_outlives_the_migration_to_drift(
    empty_database_url: str, verdict: str, drift: str
) -> None:
    database = Database(empty_database_url)
    config = Config()
    config.set_main_option("script_location", str(resources.files("pam_jobs.db") / "migrations"))
    config.set_main_option("path_separator", "os")
    row = {
        "record_uid": "r", "configuration_uid": "c", "profile": "general", "schedule": "[]", "inherits_schedule": False,
        "disabled": False, "revision": 1, "updated_at": datetime(2026, 1, 1, tzinfo=UTC),
        "last_probe": {"verdict": verdict, "version_seq": 3},
    }  # fmt: skip
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        # The row alone matters here, not the records that it belongs to.
        text_of = "PRAGMA defer_foreign_keys=ON" if database.is_sqlite else "SET session_replication_role = replica"
        connection.execute(text(text_of))
        table = Table("rotation_settings", MetaData(), autoload_with=connection)
        connection.execute(table.insert(), row)
        command.upgrade(config, "0002")
        found = connection.execute(text("SELECT drift, last_verdict FROM rotation_settings")).one()
        assert (found.drift, found.last_verdict is None) == (drift, drift == "unchecked")
        connection.rollback()
    database.dispose()


def test_processes_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            migrate.upgrade(empty_database_url)
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_database_of_a_newer_version_is_refused(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    database = Database(empty_database_url)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError):
        migrate.upgrade(empty_database_url)
    database.dispose()

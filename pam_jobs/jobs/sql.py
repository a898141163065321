"""Statements that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import CursorResult, Delete, Insert, Update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

__all__ = ["changed", "insert_ignoring", "locking_insert"]


def changed(session: Session, statement: Update | Delete) -> int:
    """Run a conditional update and return how many rows it changed; 0 says that the condition did not hold.

    Loaded objects are not brought up to date: what compares and sets does not go by them.
    """
    result = session.execute(statement.execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", result).rowcount


def insert_ignoring(session: Session, table: Any, values: Mapping[str, Any]) -> Insert:
    """Return an INSERT that does nothing where a unique constraint stands against it."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table).values(**values).on_conflict_do_nothing()
    return postgresql.insert(table).values(**values).on_conflict_do_nothing()


def locking_insert(session: Session, table: Any, values: Mapping[str, Any], key: str) -> Insert:
    """Return an INSERT that locks the row with the same key where there is one, and changes nothing of it."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table).values(**values).on_conflict_do_nothing()  # the transaction holds the one lock
    insert = postgresql.insert(table).values(**values)
    return insert.on_conflict_do_update(index_elements=[key], set_={key: insert.excluded[key]})

"""Statements that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, CursorResult, Delete, Insert, Table, Update, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from pam_jobs.db import prepared
from pam_jobs.db.prepared import run

__all__ = ["DISCOVERY", "IgnoringInsert", "LockingInsert", "changed", "run"]

DISCOVERY: Final[ColumnElement[bool]] = literal_column("jobs.kind = 'discover'")
"""The job discovers: by the index's own condition, to the letter, else SQLite would not use it."""


def changed(session: Session, statement: Update | Delete) -> int:
    """Run a conditional update and return how many rows it changed; 0 says that the condition did not hold.

    Loaded objects are not brought up to date: what compares and sets does not go by them.
    """
    result = session.execute(statement.execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", result).rowcount


class IgnoringInsert:
    """An INSERT that does nothing where a unique constraint stands against it; made once, for both databases."""

    def __init__(self, table: Any, *returning: Any) -> None:
        """Make the statements.

        Args:
            table: a table, or a model.
            returning: what comes back of a row that went in.
        """
        made: dict[str, Insert] = {
            "sqlite": sqlite.insert(table).on_conflict_do_nothing(),
            "postgresql": postgresql.insert(table).on_conflict_do_nothing(),
        }
        self._made: dict[str, Any] = {
            name: insert.returning(*returning) if returning else insert for name, insert in made.items()
        }

    def run(self, session: Session, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
        """Insert one row or several; the result is of what comes back."""
        return session.execute(self._made[session.get_bind().dialect.name], values)

    def one(self, session: Session, values: Mapping[str, Any]) -> Any | None:
        """Insert one row into a table; return what comes back of it, a row, and None where it did not go in."""
        return prepared.row(session, self._made[session.get_bind().dialect.name], values)


class LockingInsert:
    """An INSERT that locks the row with the same key where there is one, and changes nothing of it; made once."""

    def __init__(self, table: Table, key: str) -> None:
        insert = postgresql.insert(table)
        self._made: dict[str, Insert] = {
            "sqlite": sqlite.insert(table).on_conflict_do_nothing(),  # the transaction holds the one lock
            "postgresql": insert.on_conflict_do_update(index_elements=[key], set_={key: insert.excluded[key]}),
        }

    def run(self, session: Session, values: Mapping[str, Any]) -> None:
        """Insert the row or lock the one that is there."""
        run(session, self._made[session.get_bind().dialect.name], values)

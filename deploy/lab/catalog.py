"""Catalog views of the emulated databases: what a query finds in them is worked out by SQLite.

An emulated server keeps its state in Python; each query sees it as tables of the moment. So a query is answered for
what it asks, and one with a mistake in it fails, as on the real server.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite

__all__ = ["Cell", "Table", "run"]

Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A view of the catalog."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def run(
    statement: str,
    dialect: str,
    tables: Mapping[str, Table],
    functions: Mapping[str, Callable[..., Cell]],
    values: Mapping[str, Cell] | None = None,
) -> tuple[list[str], list[Sequence[Cell]]]:
    """Return columns and rows of a query.

    Args:
        statement: one SELECT.
        dialect: sqlglot's name of the server's.
        tables: by lower-case name with its schema, such as ``sys.sql_logins``.
        functions: by upper-case name, called with the values of their arguments; a variable ``@@x`` is the function ``@@X``.

        values: of the marks ``:name``.

    Raises:
        ValueError: the query cannot be understood, or names what is not there.
    """
    try:
        tree = sqlglot.parse_one(statement, read=dialect)
        made = tree.transform(_as_sqlite).sql(_Sqlite, identify=True)
    except sqlglot.errors.SqlglotError as error:
        raise ValueError("syntax") from error
    with sqlite3.connect(":memory:") as database:
        for name, table in tables.items():
            columns = ", ".join(f'"{column}"' for column in table.columns)
            database.execute(f'CREATE TABLE "{_flat(name)}" ({columns})')
            marks = ", ".join("?" * len(table.columns))
            database.executemany(f'INSERT INTO "{_flat(name)}" VALUES ({marks})', table.rows)  # noqa: S608 - our own names
        for name, function in functions.items():
            database.create_function(_flat(name), -1, function)
        try:
            cursor = database.execute(made, dict(values or {}))
            return [column[0] for column in cursor.description], cursor.fetchall()
        except sqlite3.Error as error:
            raise ValueError(str(error)) from error


class _Sqlite(SQLite):
    """SQLite that quotes names with ` alone: a name in " that it does not know, it takes for a text."""

    class Tokenizer(SQLite.Tokenizer):
        IDENTIFIERS: ClassVar[list[str | tuple[str, str]]] = ["`"]


def _flat(name: str) -> str:
    return name.lower().replace(".", "__").replace("@@", "at__")


def _as_sqlite(node: exp.Expression) -> exp.Expression:
    """Say in SQLite's words what it has none for: schemas, national strings, variables, dates in a given form."""
    if isinstance(node, exp.Table) and node.db:
        flat = exp.Table(this=exp.to_identifier(_flat(f"{node.db}.{node.name}"), quoted=True))
        return exp.alias_(flat, node.alias or node.name, table=True)
    if isinstance(node, exp.National):
        return exp.Literal.string(node.name)
    if isinstance(node, exp.Parameter | exp.SessionParameter):
        return exp.Anonymous(this=_flat("@@" + node.name))
    if isinstance(node, exp.Convert | exp.ToChar | exp.TimeToStr):  # to text: dates are that already
        inner = node.expression if isinstance(node, exp.Convert) else node.this
        return exp.cast(inner.transform(_as_sqlite), "text")
    if isinstance(node, exp.CurrentUser | exp.CurrentVersion | exp.CurrentRole):
        return exp.Anonymous(this=node.key.replace("current", "current_").replace("current_version", "version"))
    if isinstance(node, exp.Anonymous):
        node.set("this", _flat(node.name))
    return node

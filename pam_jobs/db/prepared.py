"""Statements that are put into words once and go to the driver as they are.

SQLAlchemy looks at a statement anew each time it is run: its form, its parameters, the columns of its result, the objects
that rows become. For the short statements of a rotation that is twenty times the work of the database's client. What
every rotation runs, and was made once at import, goes this way: in the session's own transaction, with the same types.

Rows read like the model's objects but are not the session's: they are as of the statement, and nothing written to them
is kept. Loops over many rows, and what runs seldom, have nothing to gain here.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Delete, Dialect, Insert, Select, Update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import ExpandedState

__all__ = ["Statement", "row", "rows", "run", "scalar"]

Statement = Select[*tuple[Any, ...]] | Insert | Update | Delete
_Convert = Callable[[Any], Any]

_MOST_KEPT: Final = 2000
_kept: dict[tuple[Statement, str, tuple[str, ...]], _Words] = {}


def run(session: Session, statement: Statement, values: Mapping[str, Any]) -> int:
    """Run a statement that was made once, at import, and return how many rows it changed.

    Raises:
        sqlalchemy.exc.DBAPIError: the database refused it, as from the session itself.
    """
    return _cursor(session, _words(session, statement, values), values)[1]


def rows(session: Session, statement: Statement, values: Mapping[str, Any]) -> list[Any]:
    """Return the rows of a statement that was made once, at import; columns by name and by position.

    Raises:
        sqlalchemy.exc.DBAPIError: as ``run``.
    """
    words = _words(session, statement, values)
    return [words.row(found) for found in _cursor(session, words, values)[0]]


def row(session: Session, statement: Statement, values: Mapping[str, Any]) -> Any | None:
    """Return the row of a statement that finds at most one; None where there is none.

    Raises:
        sqlalchemy.exc.DBAPIError: as ``run``.
    """
    words = _words(session, statement, values)
    found = _cursor(session, words, values)[0]
    return words.row(found[0]) if found else None


def scalar(session: Session, statement: Statement, values: Mapping[str, Any]) -> Any | None:
    """Return the first column of ``row``; None where there is no row."""
    found = row(session, statement, values)
    return None if found is None else found[0]


class _Words:
    """A statement as one database's driver takes it, and how values and rows are converted."""

    def __init__(self, statement: Statement, dialect: Dialect, values: Mapping[str, Any]) -> None:
        is_change = not isinstance(statement, Select)
        compiled: Any = statement.compile(dialect=dialect, column_keys=list(values) if is_change else None)
        if is_change and (compiled.insert_prefetch or compiled.update_prefetch):
            raise TypeError("a column has a default of ours: give its value")
        state: ExpandedState = compiled.construct_expanded_state({**values})
        binds: dict[str, BindParameter[Any]] = {name: bind for bind, name in compiled.bind_names.items()}
        for name, parts in state.parameter_expansion.items():  # lists that the statement itself holds: always as long
            if binds[name].required:
                raise TypeError("a list of values makes another statement for each length: use `among`")
            binds |= dict.fromkeys(parts, binds[name])
            del binds[name]
        self.text = state.statement
        self.order: list[str] | None = list(state.positiontup or ()) if compiled.positional else None
        self._converts = {name: _binder(bind.type, dialect) for name, bind in binds.items()}
        used = self.order if self.order is not None else list(binds)
        self._free = list(dict.fromkeys(name for name in used if name in values))
        self._fixed = {name: self._converted(name, state.parameters[name]) for name in used if name not in values}
        found = statement.selected_columns if isinstance(statement, Select) else statement.exported_columns
        keys = [str(column.key) for column in found]
        make: Any = namedtuple("Row", keys, rename=True)  # type: ignore[misc]  # noqa: PYI024 # known at run time
        self._row: Any = make._make if keys else tuple
        readers = [(place, _reader(column.type, dialect)) for place, column in enumerate(found)]
        self._readers = [(place, reader) for place, reader in readers if reader is not None]

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """Return the values as the driver takes them."""
        given = dict(self._fixed)
        for name in self._free:
            given[name] = self._converted(name, values[name])
        return tuple([given[name] for name in self.order]) if self.order is not None else given

    def row(self, found: Sequence[Any]) -> Any:
        """Return a row of the driver's."""
        if not self._readers:
            return self._row(found)
        cells = list(found)
        for place, reader in self._readers:
            cells[place] = reader(cells[place])
        return self._row(cells)

    def _converted(self, name: str, value: Any) -> Any:
        convert = self._converts[name]
        return value if convert is None else convert(value)


def _binder(kind: Any, dialect: Dialect) -> _Convert | None:
    convert: _Convert | None = kind.dialect_impl(dialect).bind_processor(dialect)
    return convert


def _reader(kind: Any, dialect: Dialect) -> _Convert | None:
    convert: _Convert | None = kind.dialect_impl(dialect).result_processor(dialect, None)
    return convert


def _words(session: Session, statement: Statement, values: Mapping[str, Any]) -> _Words:
    dialect = session.get_bind().dialect
    key = (statement, dialect.name, () if isinstance(statement, Select) else tuple(values))
    words = _kept.get(key)
    if words is None:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        words = _kept[key] = _Words(statement, dialect, values)
    return words


def _cursor(session: Session, words: _Words, values: Mapping[str, Any]) -> tuple[Sequence[Any], int]:
    """Run it; return the driver's rows, and how many there were or were changed."""
    session.flush()  # objects that were changed come first, as before each of the session's own statements
    connection = session.connection()
    parameters = words.parameters(values)
    if connection.engine.dispatch.before_cursor_execute:  # somebody listens
        result = connection.exec_driver_sql(words.text, parameters)
        return (result.fetchall() if result.returns_rows else ()), result.rowcount
    cursor = connection.connection.cursor()
    try:
        cursor.execute(words.text, parameters)
        return (cursor.fetchall() if cursor.description else ()), cursor.rowcount
    except connection.dialect.loaded_dbapi.Error as error:
        raise _told(connection, words.text, error) from error
    finally:
        cursor.close()


def _told(connection: Connection, text: str, error: Any) -> BaseException:
    """Return the error as SQLAlchemy tells it, without the values; a broken connection is not used again."""
    dialect: Any = connection.dialect
    is_broken = bool(dialect.is_disconnect(error, connection.connection.dbapi_connection, None))
    told: BaseException = DBAPIError.instance(
        text, None, error, dialect.loaded_dbapi.Error, hide_parameters=True, connection_invalidated=is_broken,
        dialect=dialect,
    )  # fmt: skip
    if is_broken:
        connection.invalidate(error)
    return told

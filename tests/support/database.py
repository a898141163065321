"""A database per test, on SQLite and on a real PostgreSQL server of the test session."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Dialect

import pam_jobs.db.tables  # noqa: F401 - fills the metadata
from deploy.lab import postgres
from pam_jobs.db.base import Base
from pam_jobs.db.engine import Database
from pam_jobs.ids import new_uid

KINDS = ("sqlite", "postgresql")
_kinds: dict[str, tuple[Dialect, dict[object, object]]] = {}


def open_database(url: str) -> Database:
    """Return the database with the statements that earlier ones of its kind compiled: half of a short test was that."""
    database = Database(url)
    engine = database.engine
    if engine.dialect.name not in _kinds:
        with engine.connect():  # from here on the dialect knows its server
            _kinds[engine.dialect.name] = (engine.dialect, {})
    engine.dialect, compiled = _kinds[engine.dialect.name]
    engine.update_execution_options(compiled_cache=compiled)
    return database


def create_schema(url: str) -> None:
    """Make every table of the models."""
    database = Database(url)
    Base.metadata.create_all(database.engine)
    database.dispose()


class PostgresDatabases:
    """Databases on one server, cloned from a template that has the schema."""

    def __init__(self, server: postgres.PostgresServer) -> None:
        self._base = f"postgresql://{server.admin_login}:{server.admin_password}@{server.host}:{server.port}"
        with self._admin() as connection:
            connection.execute("CREATE DATABASE template_pam")
        create_schema(f"{self._base}/template_pam")

    def _admin(self) -> psycopg.Connection:
        return psycopg.connect(f"{self._base}/postgres", autocommit=True)

    @contextmanager
    def new(self, *, empty: bool = False) -> Iterator[str]:
        """Give the URL of a new database, and drop it afterwards with whoever is still connected."""
        name = f"pam_{new_uid().replace('-', '_').lower()}"
        template = "template1" if empty else "template_pam"
        with self._admin() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            try:
                yield f"{self._base}/{name}"
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """One server a test session, started when the first test asks for it."""
    with tempfile.TemporaryDirectory(prefix="pam-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # the server's own user passes through; pytest's folders are ours alone
        server = postgres.start(Path(folder))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: postgres.PostgresServer) -> PostgresDatabases:
    return PostgresDatabases(postgres_server)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    create_schema(f"sqlite:///{path}")
    return path


@contextmanager
def new_database_url(request: pytest.FixtureRequest, folder: Path, kind: str, *, empty: bool = False) -> Iterator[str]:
    """Give the URL of a new database of the kind, with the schema unless empty."""
    if kind == "postgresql":
        databases: PostgresDatabases = request.getfixturevalue("postgres_databases")
        with databases.new(empty=empty) as url:
            yield url
        return
    path = folder / "control.db"
    if not empty:
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
    yield f"sqlite:///{path}"


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database with the schema, once on SQLite and once on PostgreSQL."""
    with new_database_url(request, tmp_path, request.param) as url:
        yield url


@pytest.fixture(params=KINDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database without any table, once on SQLite and once on PostgreSQL."""
    with new_database_url(request, tmp_path, request.param, empty=True) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A new database with the schema, once on SQLite and once on PostgreSQL."""
    database = open_database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def sqlite_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A new SQLite database, for tests that are about something else than the database."""
    with new_database_url(request, tmp_path, "sqlite") as url:
        database = open_database(url)
        yield database
        database.dispose()


def dump(url: str, read_file: Callable[[Path], bytes] = Path.read_bytes) -> bytes:
    """Return everything the database holds as bytes to search in: the SQLite files, or every row of every table."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        return b"".join(read_file(file) for file in sorted(path.parent.glob(f"{path.name}*")))
    found = []
    with psycopg.connect(url) as connection:
        for table in Base.metadata.sorted_tables:
            with connection.cursor().copy(f'COPY "{table.name}" TO STDOUT (FORMAT binary)') as rows:
                found += [bytes(part) for part in rows]
    return b"\n".join(found)

"""The system under test: one for all tests of a worker, since a round leaves everything in order or fails."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from deploy.lab import LdapServer, MariadbServer, PostgresServer, SshServer
from deploy.lab.rabbitmq import RabbitmqServer
from tests.crash import table
from tests.crash.directory import Openldap
from tests.crash.mariadb import Mariadb
from tests.crash.rabbitmq import Rabbitmq
from tests.crash.targets import Linux, Postgresql, Target
from tests.crash.world import World

MUTANT = os.environ.get("PAM_CRASH_MUTANT", "-")


@pytest.fixture(scope="session")
def crash_targets(
    target_postgres: PostgresServer,
    sshd_server: SshServer,
    target_mariadb: MariadbServer,
    openldap_server: LdapServer,
    target_rabbitmq: RabbitmqServer,
) -> Iterator[Sequence[Target]]:
    """Every target; the quick ones come first."""
    targets: list[Target] = [
        Postgresql(target_postgres), Linux(sshd_server), Mariadb(target_mariadb), Openldap(openldap_server),
        Rabbitmq(target_rabbitmq),
    ]  # fmt: skip
    yield targets
    for target in targets:
        target.close()


def new_world(targets: Sequence[Target], kind: str = "postgresql") -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="pam-crash-", ignore_cleanup_errors=True) as folder:
        world = World(Path(folder), targets, kind=kind, mutant=MUTANT)
        try:
            world.start()
            yield world
        finally:
            world.stop()


@pytest.fixture(scope="session")
def world(crash_targets: Sequence[Target]) -> Iterator[World]:
    """A system on PostgreSQL."""
    yield from new_world(crash_targets)


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave no note of a test that failed."""
    yield
    if "world" in request.fixturenames:
        request.getfixturevalue("world").orders.clear()


def pytest_exception_interact(node: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Count what did not hold, so that the table never claims more than was seen."""
    if call.excinfo is not None and call.when == "call":
        table.fail(call.excinfo.type.__name__, node.name)


def pytest_sessionfinish() -> None:
    """Keep what was tried and what came of it in ``.crash/table.md``."""
    table.save()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was tried and what came of it."""
    if table.rows():
        terminalreporter.section("crash suite")
        for line in table.markdown().splitlines():
            terminalreporter.write_line(line)
